"""`pinfold rules list` and `pinfold rules check`."""

from __future__ import annotations

from collections.abc import Iterable

import click

from sensor.cli.common import config_option, settings
from sensor.cli.escape import escape
from sensor.cli.show import Column, column, emit, output_option

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

    placeholders = settings(config_path).rules.placeholders
    ruleset = load(_where(config_path, paths), None, keep_going=True, placeholders=placeholders)
    correlations = [each.summary for each in ruleset.correlations]
    emit(output, [*(asdict(rule) for rule in ruleset.rules), *correlations], _COLUMNS, "no rules")
    return _say(ruleset.refused)


@rules.command()
@config_option
@paths_argument
def check(config_path: str | None, paths: tuple[str, ...]) -> int:
    """Load the rules, run the examples beside them, and say how many can match here.

    What is broken is named as FILE:LINE: reason, what fails as FILE: example: reason; then the exit status is 1. Rules
    that are right, and name what is not there, are warned of or listed as dormant.
    """
    from sensor.cli.rulescheck import check_rules  # noqa: PLC0415

    return check_rules(_where(config_path, paths), settings(config_path).rules.placeholders)


def _where(config_path: str | None, paths: tuple[str, ...]) -> tuple[str, ...]:
    from sensor.config import rule_paths  # noqa: PLC0415

    return paths or rule_paths(settings(config_path))


def _say(lines: Iterable[str]) -> int:
    status = 0
    for line in lines:
        click.echo(escape(line), err=True)
        status = 1
    return status
