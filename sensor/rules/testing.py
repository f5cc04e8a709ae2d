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
from sensor.rules.correlation.model import Correlation
from sensor.rules.correlation.sequences import Step, fires
from sensor.rules.document import RefusalError, documents, read
from sensor.rules.engine import Engine
from sensor.rules.ruleset import load
from sensor.rules.setting import Placeholders
from sensor.rules.unit import Rule

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
    untested: bool = False  # there is no file of examples


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    """An event, or of a correlation a sequence of them."""

    name: str
    event: dict[str, Any] = {}
    sequence: list[Step] = []
    description: str = ""
    category: str = ""  # the rule's own where absent


class Examples(Struct, frozen=True, forbid_unknown_fields=True):
    match: list[Example] = []
    no_match: list[Example] = []


def activity(category: str, event: dict[str, Any]) -> Activity:
    """An activity with these fields (aliases too) and a neutral value for every other: empty text, zero, false.
    `argv`: a list of text, else the words of CommandLine. Raises ValueError for a field or value that the category
    cannot have."""
    if category not in fields.CATEGORIES:
        raise ValueError(f"{category!r} is no category")
    kind = fields.CATEGORIES[category]
    table = fields.of_category(category)
    hints = get_type_hints(kind)
    values: dict[str, Any] = {f.name: _NEUTRAL.get(hints[f.name]) for f in structs.fields(kind)}
    for name, value in _with_argv(category, event).items():
        if name == "argv" and isinstance(value, bytes):
            values[name] = value
            continue
        if name not in table:
            raise ValueError(fields.why_absent(category, str(name)))
        wanted = hints[table[name].attribute]
        if type(value) is not wanted:
            raise ValueError(f"{name} is {table[name].kind}, not {value!r}")
        values[table[name].attribute] = value
    return kind(**values)


def _with_argv(category: str, event: dict[str, Any]) -> dict[str, Any]:
    """A command line has arguments: those of `argv`, a list, else its words."""
    if category != "process_creation":
        return event
    argv = event.get("argv")
    if isinstance(argv, list) and all(isinstance(word, str) for word in argv):
        joined = {"CommandLine": " ".join(argv), **event}
        return joined | {"argv": b"".join(word.encode() + b"\0" for word in argv)}
    line = event.get("CommandLine")
    if argv is None and isinstance(line, str) and line:
        return event | {"argv": line.encode("utf-8", "replace").replace(b" ", b"\0") + b"\0"}
    return event


def run_examples(paths: Sequence[Path | str], placeholders: Placeholders | None = None) -> list[Result]:
    """Every example of every rule below `paths`, with the index and without. Raises RuleError where a
    rule is broken; what is wrong with the examples is a Result that is not ok."""
    ruleset = load(paths, None, placeholders=placeholders)
    engines = (Engine(ruleset), Engine(ruleset, prefilter=False))
    rules = {rule.id: rule for rule in reversed(engines[0].all)}  # one for several categories is there several times
    files = [rule.file for rule in rules.values()]
    return [
        result
        for rule in reversed(rules.values())
        for result in _of_rule(rule, alone=files.count(rule.file) == 1, engines=engines)
    ]


def _of_rule(rule: Rule | Correlation, alone: bool, engines: tuple[Engine, Engine]) -> Iterator[Result]:
    if not alone:
        yield _result(rule, "", True, "several rules in one file cannot have examples: one file each")
        return
    if not examples_file(Path(rule.file)).exists():
        reason = f"has no examples in {examples_file(Path(rule.file)).name}"
        yield Result(rule.id, rule.title, rule.file, "", True, False, reason, untested=True)
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
            yield _result(rule, item.name, expected, _judged(rule, item, expected, engines))


def _result(rule: Rule | Correlation, example: str, expected: bool, reason: str) -> Result:
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


def _judged(rule: Rule | Correlation, item: Example, expected: bool, engines: Iterable[Engine]) -> str:
    if bool(item.sequence) is not isinstance(rule, Correlation) or (item.sequence and item.event):
        return "a rule's example has an event, a correlation's a sequence"
    if isinstance(rule, Correlation):
        return _fault_of_sequence(rule, item, expected, engines)
    return _fault(rule, item, expected, engines)


def _fault(rule: Rule, item: Example, expected: bool, engines: Iterable[Engine]) -> str:
    try:
        event = activity(item.category or rule.category, item.event)
    except ValueError as error:
        return str(error)
    indexed, plain = (any(rule.id == found.id for found in engine.match(event)) for engine in engines)
    if indexed != plain:
        return "matches with the index but not without" if indexed else "the index does not find it"
    if any(rule.id in engine.errors for engine in engines):
        return "the rule raised an exception"
    if indexed == expected:
        return ""
    return "does not match, and must" if expected else "matches, and must not"


def _fault_of_sequence(rule: Correlation, item: Example, expected: bool, engines: Iterable[Engine]) -> str:
    try:
        indexed, plain = (fires(engine, rule, item.sequence, activity) for engine in engines)
    except ValueError as error:
        return str(error)
    if indexed != plain:
        return "is told with the index but not without" if indexed else "the index does not find its events"
    if indexed == expected:
        return ""
    return "is not told, and must be" if expected else "is told, and must not be"
