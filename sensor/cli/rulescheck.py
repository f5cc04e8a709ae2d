"""What `pinfold rules check` says of rules: their examples, and how much of a foreign rule set can match here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from sensor.cli.escape import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sensor.rules.ruleset import Ruleset
    from sensor.rules.testing import Result


def check_rules(paths: Sequence[str], placeholders: Mapping[str, Sequence[str]]) -> int:
    """The exit status: 1 where a rule is refused or an example fails."""
    from sensor.rules.ruleset import load  # noqa: PLC0415
    from sensor.rules.testing import run_examples  # noqa: PLC0415

    ruleset = load(paths, None, keep_going=True, placeholders=placeholders)
    results: list[Result] = []
    if not ruleset.refused:  # examples run over whole rule sets only
        results = run_examples(paths, placeholders)
    failed = [result for result in results if not result.ok and not result.untested]
    untested = sum(result.untested for result in results)
    _say(ruleset.warnings, "warning")
    _say(ruleset.refused, "")
    _say((f"{result.file}: {result.example or result.rule_title}: {result.reason}" for result in failed), "")
    if not ruleset.refused:
        ran = len(results) - untested
        without = f", {untested} rules without examples" if untested else ""
        click.echo(f"{_rules(ruleset)} rules, {ran} examples, {len(failed)} failed{without}")
    for line in coverage(ruleset):
        click.echo(escape(line))
    return 1 if ruleset.refused or failed else 0


def _rules(ruleset: Ruleset) -> int:
    """One for several categories is in a Ruleset once for each."""
    return len({rule.id for rule in ruleset.rules})


def coverage(ruleset: Ruleset) -> Iterator[str]:
    """How many rules load, how many of them can match, and what the others lack, the most frequent first."""
    awake, dormant, refused = _rules(ruleset), len(ruleset.dormant), len(ruleset.refused)
    loaded, total = awake + dormant, awake + dormant + refused
    yield f"loaded {loaded} of {total} ({100 * loaded // total if total else 0} %), {awake} can match"
    if refused:
        yield f"refused {refused}, each named above"
    if dormant:
        yield f"dormant {dormant}, for want of:"
        missing = Counter(line.rpartition(": ")[2] for line in ruleset.dormant)
        for what, count in sorted(missing.items(), key=lambda item: (-item[1], item[0])):
            yield f"{count:6}  {what}"


def _say(lines: Iterable[str], what: str) -> None:
    for line in lines:
        file, _, rest = line.partition(": ")
        click.echo(escape(f"{file}: {what}: {rest}" if what else line), err=True)
