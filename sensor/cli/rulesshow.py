"""`pinfold rules show`: all that is known of one rule."""

from __future__ import annotations

import os
from typing import Any

import click

from sensor.cli.common import config_option
from sensor.cli.escape import escape
from sensor.cli.rulefind import find_rule
from sensor.cli.show import facts, output_option, pairs


@click.command()
@config_option
@output_option
@click.option("--compiled", is_flag=True, help="Print the Python that decides.")
@click.argument("rule")
def show(config_path: str | None, output: str, compiled: bool, rule: str) -> None:
    """Show a rule: what it says of itself, its document and its examples.

    RULE is an id, a title, a file, or a file's name without its suffix, such as tunnels/ssh_odd_port.
    """
    from msgspec.structs import asdict  # noqa: PLC0415

    from sensor.rules.correlation.model import Correlation  # noqa: PLC0415

    found = find_rule(config_path, rule)
    if compiled:
        click.echo("\n".join(map(escape, source(found.file).splitlines())))
        return
    said = found.summary if isinstance(found, Correlation) else asdict(found)
    known: dict[str, Any] = {name: value for name, value in said.items() if value}
    known["examples"] = examples(found.file)
    facts(output, {**known, "document": _text(found.file)}, pairs(known, output))
    if output == "table":
        click.echo()
        click.echo("\n".join(map(escape, _text(found.file).splitlines())))


def source(file: str) -> str:
    """Of this file's rules alone."""
    from sensor.rules.ruleset import load  # noqa: PLC0415

    return load([file], None, keep_going=True).source


def examples(file: str) -> list[str]:
    """`match: name`, `no_match: name`."""
    from sensor.rules.testing import names  # noqa: PLC0415

    return names(file)


def _text(file: str) -> str:
    with open(file, encoding="utf-8", errors="replace") as opened:
        return opened.read() if os.path.getsize(file) <= 1 << 20 else ""
