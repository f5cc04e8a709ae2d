"""The group `pinfold rules`, and `pinfold rules list` and `check`."""

from __future__ import annotations

import click

from sensor.cli.common import config_option, settings
from sensor.cli.rulefind import paths_argument, say, where
from sensor.cli.rulesbench import bench
from sensor.cli.rulesconvert import convert
from sensor.cli.rulesexplain import explain
from sensor.cli.rulesnew import new
from sensor.cli.rulesshow import show
from sensor.cli.rulestest import try_out
from sensor.cli.show import Column, column, emit, output_option

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

    placeholders = settings(config_path).rules.placeholders
    ruleset = load(where(config_path, paths), None, keep_going=True, placeholders=placeholders)
    correlations = [each.summary for each in ruleset.correlations]
    emit(output, [*(asdict(rule) for rule in ruleset.rules), *correlations], _COLUMNS, "no rules")
    return say(ruleset.refused)


@rules.command()
@config_option
@paths_argument
def check(config_path: str | None, paths: tuple[str, ...]) -> int:
    """Load the rules, run the examples beside them, and say how many can match here.

    What is broken is named as FILE:LINE: reason, what fails as FILE: example: reason; then the exit status is 1. Rules
    that are right, and name what is not there, are warned of or listed as dormant.
    """
    from sensor.cli.rulescheck import check_rules  # noqa: PLC0415

    return check_rules(where(config_path, paths), settings(config_path).rules.placeholders)


for _command in (new, show, try_out, explain, bench, convert):
    rules.add_command(_command)
