"""`pinfold events`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.common import config_option, settings
from sensor.cli.escape import escape_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sensor.cli.choose import Filter

_POLL_S = 0.2
LEVELS = ("informational", "low", "medium", "high", "critical")
KINDS = ("event", "detection", "response", "sandbox", "notice")


def _where(_context: Any, _parameter: Any, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in values:
        name, separator, wanted = value.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"expected FIELD=VALUE, found {value!r}")
        pairs.append((name, wanted))
    return tuple(pairs)


@click.command(short_help="Show, follow and filter the event log.")
@config_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on; Ctrl-C ends it.")
@click.option("-n", "number", type=click.IntRange(min=0), default=20, show_default=True, help="How many, the latest.")
@click.option("--sandbox", metavar="NAME", help="Of this sandbox.")
@click.option("--category", metavar="CATEGORY", help="Such as process_creation, network_flow, network_behavior.")
@click.option("--kind", type=click.Choice(KINDS), help="Lines of this kind.")
@click.option("--level", type=click.Choice(LEVELS), help="Detections of this level and above.")
@click.option("--rule", metavar="RULE", help="Detections of this rule: its id or title.")
@click.option("--where", metavar="FIELD=VALUE", multiple=True, callback=_where, help="* matches any text. Repeatable.")
@click.option("-o", "output", type=click.Choice(["compact", "json"]), default="compact", show_default=True)
def events(config_path: str | None, follow: bool, number: int, output: str, **chosen: Any) -> None:
    """Show the latest lines of the event log, oldest first. All filters must hold.

    -o json gives the lines as they are logged (schema.json), with what is not printable as \\uXXXX.
    """
    from sensor.cli.choose import Filter  # noqa: PLC0415
    from sensor.export.reader import Follower  # noqa: PLC0415

    config = settings(config_path)
    path = os.path.join(config.paths.log, config.log.file)
    wanted = Filter(**chosen)
    # Before the past is read, so that nothing falls between the two.
    follower = Follower(path) if follow else None
    _show(_latest(path, number, wanted), output)
    while follower is not None:
        lines = follower.read()
        _show([line for line in lines if wanted.takes(line)], output)
        if not lines:
            time.sleep(_POLL_S)


def _latest(path: str, number: int, wanted: Filter) -> list[bytes]:
    from sensor.errors import HostError  # noqa: PLC0415
    from sensor.export.reader import backwards, files  # noqa: PLC0415

    if not files(path):
        raise HostError(f"no log at {path}: has the sensor run with this configuration?")
    found: list[bytes] = []
    if number:
        for line in backwards(path):
            if wanted.takes(line):
                found.append(line)
                if len(found) == number:
                    break
    return found[::-1]


def _show(lines: Iterable[bytes], output: str) -> None:
    from sensor.cli.choose import parsed  # noqa: PLC0415
    from sensor.cli.render import colours_wanted, compact, terminal_width  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    width = terminal_width()
    for line in lines:
        record = parsed(line)
        if output == "json":
            click.echo(escape_json(line.decode("utf-8", "replace")))
        else:
            click.echo(compact(record, width, colours_wanted(terminal)), color=True)
    sys.stdout.flush()
