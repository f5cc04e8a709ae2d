"""The group `pinfold rules`, and `pinfold rules list` and `check`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option
from sensor.cli.rulefind import paths_argument, say, where
from sensor.cli.rulesbench import bench
from sensor.cli.rulesconvert import convert
from sensor.cli.rulesexplain import explain
from sensor.cli.rulesnew import new
from sensor.cli.rulesshow import show
from sensor.cli.rulestest import try_out
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

    ruleset = load(where(config_path, paths), None, keep_going=True)
    emit(output, [asdict(rule) for rule in ruleset.rules], _COLUMNS, "no rules")
    return say(ruleset.refused)


@rules.command()
@config_option
@paths_argument
def check(config_path: str | None, paths: tuple[str, ...]) -> int:
    """Load the rules and run the examples beside them.

    Names what is broken as FILE:LINE: reason, and what fails as FILE: example: reason; then the exit status is 1.
    """
    from sensor.rules.ruleset import load  # noqa: PLC0415
    from sensor.rules.testing import run_examples  # noqa: PLC0415

    places = where(config_path, paths)
    ruleset = load(places, None, keep_going=True)
    if ruleset.refused:
        return say(ruleset.refused)  # examples run over whole rule sets only
    results = run_examples(places)
    failed = [result for result in results if not result.ok]
    click.echo(f"{len(ruleset.rules)} rules, {len(results)} examples, {len(failed)} failed")
    return say(_failures(failed))


def _failures(failed: Iterable[Result]) -> Iterable[str]:
    for result in failed:
        yield f"{result.file}: {result.example or result.rule_title}: {result.reason}"


for _command in (new, show, try_out, explain, bench, convert):
    rules.add_command(_command)
