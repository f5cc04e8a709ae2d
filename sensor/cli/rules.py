"""`pinfold rules list`, `pinfold rules check` and `pinfold rules test`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option, settings
from sensor.cli.escape import escape
from sensor.cli.show import Column, column, emit, output_option

if TYPE_CHECKING:
    from sensor.rules.testing import Result

_COLUMNS = (
    column("Level", "level"),
    column("Status", "status"),
    column("Category", "category", True),
    column("Title", "title", True),
    Column("Tags", lambda rule: " ".join(rule["tags"]), True),
)
paths_argument = click.argument("paths", nargs=-1, metavar="[PATH]...")


@click.group()
def rules() -> None:
    """The detection rules."""


@rules.command("list")
@config_option
@output_option
@paths_argument
def list_(config_path: str | None, output: str, paths: tuple[str, ...]) -> int:
    """List the rules: those in PATHs, else those of the configuration.

    Broken ones are named on stderr, as FILE:LINE: reason; then the exit status is 1.
    """
    from msgspec.structs import asdict  # noqa: PLC0415

    from sensor.rules.ruleset import load  # noqa: PLC0415

    ruleset = load(_where(config_path, paths), None, keep_going=True)
    emit(output, [asdict(rule) for rule in ruleset.rules], _COLUMNS, "no rules")
    return _say(ruleset.refused)


@rules.command()
@config_option
@paths_argument
def check(config_path: str | None, paths: tuple[str, ...]) -> int:
    """Load the rules and run the examples beside them.

    Names what is broken as FILE:LINE: reason, and what fails as FILE: example: reason; then the exit status is 1.
    """
    from sensor.rules.ruleset import load  # noqa: PLC0415
    from sensor.rules.testing import run_examples  # noqa: PLC0415

    where = _where(config_path, paths)
    ruleset = load(where, None, keep_going=True)
    if ruleset.refused:
        return _say(ruleset.refused)  # examples run over whole rule sets only
    results = run_examples(where)
    failed = [result for result in results if not result.ok]
    click.echo(f"{len(ruleset.rules)} rules, {len(results)} examples, {len(failed)} failed")
    return _say(_failures(failed))


@rules.command()
@config_option
@output_option
@click.option(
    "--baseline", "recording", metavar="FILE", required=True, type=click.Path(exists=True, dir_okay=False),
    help="A recording, or a log, of work that is known to be harmless.",
)  # fmt: skip
@paths_argument
def test(config_path: str | None, output: str, recording: str, paths: tuple[str, ...]) -> int:
    """Run the rules over harmless work and list those that fire.

    The exit status is 10 when one of them has the level medium or above.
    """
    from sensor.cli import rulesbaseline  # noqa: PLC0415

    found = rulesbaseline.baseline(recording, _where(config_path, paths), shown=True)
    emit(output, rulesbaseline.rows(found), rulesbaseline.COLUMNS, "no rule fired")
    click.echo(rulesbaseline.said(found), err=True)
    return found.status


def _failures(failed: Iterable[Result]) -> Iterable[str]:
    for result in failed:
        yield f"{result.file}: {result.example or result.rule_title}: {result.reason}"


def _where(config_path: str | None, paths: tuple[str, ...]) -> tuple[str, ...]:
    from sensor.config import rule_paths  # noqa: PLC0415

    return paths or rule_paths(settings(config_path))


def _say(lines: Iterable[str]) -> int:
    status = 0
    for line in lines:
        click.echo(escape(line), err=True)
        status = 1
    return status
