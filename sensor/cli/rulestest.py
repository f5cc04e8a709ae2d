"""`pinfold rules test`: the examples beside rules, each with why it fails; and what fires over recorded work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option
from sensor.cli.escape import escape
from sensor.cli.rulefind import paths_argument, say, where
from sensor.cli.show import column, emit, output_option

if TYPE_CHECKING:
    from sensor.rules.explaining import Explained
    from sensor.rules.testing import Result

_COLUMNS = (
    column("Result", "result"),
    column("Rule", "rule_title", True),
    column("Example", "example", True),
    column("Why", "reason", True),
)


@click.command("test")
@config_option
@output_option
@click.option(
    "--baseline", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
    help="Run the rules over a recording, or a log, of work that is known to be harmless, and list those that fire; "
    "exit 10 where one is of medium or above.",
)  # fmt: skip
@paths_argument
def try_out(config_path: str | None, output: str, paths: tuple[str, ...], baseline: str | None = None) -> int:
    """Run the examples of the rules in PATHs, else of all that are configured.

    Each that fails is told with its reason, and with the parts of the condition that decided (as `rules explain`
    shows them); then the exit status is 1, also where a rule is broken.
    """
    if baseline is not None:
        return _over(baseline, where(config_path, paths), output)
    from msgspec.structs import asdict  # noqa: PLC0415

    from sensor.rules.ruleset import load  # noqa: PLC0415
    from sensor.rules.testing import run_examples  # noqa: PLC0415

    places = where(config_path, paths)
    refused = load(places, None, keep_going=True).refused
    if refused:
        return say(refused)  # examples run over whole rule sets only
    results = run_examples(places)
    rows = [{**asdict(result), "result": "ok" if result.ok else "failed"} for result in results]
    failed = [row for row in rows if not row["ok"]]
    if output == "table":
        emit(output, failed, _COLUMNS, "every example holds")
        for result in results:
            if not result.ok:
                click.echo("\n".join(map(escape, _why(result))))
        click.echo(f"{len(rows)} examples of {len({row['rule_id'] for row in rows})} rules, {len(failed)} failed")
    else:
        emit(output, rows, _COLUMNS, "no examples")
    return 1 if failed else 0


def _why(result: Result) -> Iterator[str]:
    """The tree, where there is an event to be asked about."""
    from sensor.cli.rulesexplain import lines  # noqa: PLC0415

    found = _explained(result)
    if found is not None:
        yield ""
        yield f"{result.file}: {result.example}"
        yield from lines(found)


def _explained(result: Result) -> Explained | None:
    from sensor.errors import RuleError  # noqa: PLC0415
    from sensor.rules.document import RefusalError  # noqa: PLC0415
    from sensor.rules.explaining import document_of, explain  # noqa: PLC0415
    from sensor.rules.testing import activity, find  # noqa: PLC0415

    try:
        document = document_of(result.file, result.rule_id)
        example = find(result.file, result.example, result.expected) if result.example else None
        if example is None:
            return None
        category = example.category or document["logsource"]["category"]
        return explain(document, activity(category, example.event))
    except (RefusalError, RuleError, ValueError, KeyError, TypeError):
        return None  # the reason says it already


def _over(recording: str, places: tuple[str, ...], output: str) -> int:
    from sensor.cli import rulesbaseline  # noqa: PLC0415

    found = rulesbaseline.baseline(recording, places, shown=True)
    emit(output, rulesbaseline.rows(found), rulesbaseline.COLUMNS, "no rule fired")
    click.echo(rulesbaseline.said(found), err=True)
    return found.status
