"""The examples beside the rules, run: `x.events.yaml` says which events `x.yml` must and must not match.

For tests and `pinfold rules check`; imports PyYAML, so not for the core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct, structs

from sensor.events.activity import Activity
from sensor.rules import fields
from sensor.rules.document import RefusalError, documents, read
from sensor.rules.engine import Engine
from sensor.rules.ruleset import Rule, load

_NEUTRAL: dict[Any, Any] = {str: "", int: 0, bool: False, bytes: b""}


class Result(Struct, frozen=True):
    """One example, or one reason why a rule's examples cannot be run (`example` is then empty)."""

    rule_id: str
    rule_title: str
    file: str  # of the rule
    example: str
    expected: bool  # must match
    ok: bool
    reason: str  # "" when ok


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    event: dict[str, Any]
    description: str = ""
    category: str = ""  # the rule's own where absent


class Examples(Struct, frozen=True, forbid_unknown_fields=True):
    match: list[Example] = []
    no_match: list[Example] = []


def activity(category: str, event: dict[str, Any]) -> Activity:
    """An activity with these fields (aliases too) and a neutral value for every other: empty text,
    zero, false. Raises ValueError for a field or value that the category cannot have."""
    if category not in fields.CATEGORIES:
        raise ValueError(f"{category!r} is no category")
    kind = fields.CATEGORIES[category]
    table = fields.of_category(category)
    hints = get_type_hints(kind)
    values: dict[str, Any] = {f.name: _NEUTRAL.get(hints[f.name]) for f in structs.fields(kind)}
    for name, value in event.items():
        if name not in table:
            raise ValueError(fields.why_absent(category, str(name)))
        wanted = hints[table[name].attribute]
        if type(value) is not wanted:
            raise ValueError(f"{name} is {table[name].kind}, not {value!r}")
        values[table[name].attribute] = value
    return kind(**values)


def run_examples(paths: Sequence[Path | str]) -> list[Result]:
    """Every example of every rule below `paths`, with the index and without. Raises RuleError where a
    rule is broken; what is wrong with the examples is a Result that is not ok."""
    ruleset = load(paths, None)
    engines = (Engine(ruleset), Engine(ruleset, prefilter=False))
    files = [rule.file for rule in ruleset.rules]
    return [
        result
        for rule in ruleset.rules
        for result in _of_rule(rule, alone=files.count(rule.file) == 1, engines=engines)
    ]


def _of_rule(rule: Rule, alone: bool, engines: tuple[Engine, Engine]) -> Iterator[Result]:
    if not alone:
        yield _result(rule, "", True, "several rules in one file cannot have examples: one file each")
        return
    try:
        examples = _read(Path(rule.file))
    except RefusalError as error:
        yield _result(rule, "", True, error.reason)
        return
    for expected, items in ((True, examples.match), (False, examples.no_match)):
        if not items:
            yield _result(rule, "", expected, f"needs an example under {'match' if expected else 'no_match'}")
        for item in items:
            yield _result(rule, item.name, expected, _fault(rule, item, expected, engines))


def _result(rule: Rule, example: str, expected: bool, reason: str) -> Result:
    return Result(rule.id, rule.title, rule.file, example, expected, not reason, reason)


def examples_file(rule_file: Path) -> Path:
    """Where the examples of a rule file are, or would be."""
    candidates = [rule_file.with_suffix(f".events{suffix}") for suffix in (".yaml", ".yml")]
    return next((path for path in candidates if path.exists()), candidates[0])


def examples_of(rule_file: Path) -> Iterator[Activity]:
    """The events of a rule's examples that can be made; none where there are no examples."""
    try:
        examples = _read(rule_file)
        category = next(iter(documents(read(rule_file)))).data["logsource"]["category"]
    except (RefusalError, StopIteration, KeyError, TypeError):
        return
    for one in (*examples.match, *examples.no_match):
        try:
            yield activity(one.category or category, one.event)
        except ValueError:
            continue  # `rules check` says so


def names(rule_file: Path | str) -> list[str]:
    """`match: name` and `no_match: name` of a rule's examples; none where they cannot be read."""
    try:
        found = _read(Path(rule_file))
    except RefusalError:
        return []
    return [f"{kind}: {one.name}" for kind, of in (("match", found.match), ("no_match", found.no_match)) for one in of]


def find(rule_file: Path | str, name: str, expected: bool) -> Example | None:
    """An example by its name. Raises RefusalError."""
    examples = _read(Path(rule_file))
    return next((one for one in (examples.match if expected else examples.no_match) if one.name == name), None)


def _read(rule_file: Path) -> Examples:
    path = examples_file(rule_file)
    try:
        found = list(documents(read(path)))
        if len(found) != 1:
            raise RefusalError(f"{len(found)} documents, not one", 1)
        return msgspec.convert(found[0].data, Examples)
    except RefusalError as error:
        raise RefusalError(f"{path}:{error.line}: {error.reason}") from error
    except msgspec.ValidationError as error:
        raise RefusalError(f"{path}:1: {error}") from error


def _fault(rule: Rule, item: Example, expected: bool, engines: Iterable[Engine]) -> str:
    try:
        event = activity(item.category or rule.category, item.event)
    except ValueError as error:
        return str(error)
    indexed, plain = (rule in engine.match(event) for engine in engines)
    if indexed != plain:
        return "matches with the index but not without" if indexed else "the index does not find it"
    if any(rule.id in engine.errors for engine in engines):
        return "the rule raised an exception"
    if indexed == expected:
        return ""
    return "does not match, and must" if expected else "matches, and must not"
