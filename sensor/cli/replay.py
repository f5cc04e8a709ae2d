"""`pinfold replay`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from sensor.cli.common import config_option, json_line, settings
from sensor.cli.escape import escape


@click.command(short_help="Run a recording, or the log, through the rules again.")
@config_option
@click.option("--rules", "rules", metavar="PATH", multiple=True, help="Rules or folders of them, not the configured.")
@click.option("--log", metavar="FILE", help="Write everything that the sensor would have logged.")
@click.option("-o", "output", type=click.Choice(("compact", "json")), default="compact", show_default=True)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def replay(config_path: str | None, rules: tuple[str, ...], log: str | None, output: str, file: str) -> None:
    """Run FILE through the pipeline again and show the detections.

    FILE is what `pinfold record` wrote, or a log: of a log, its events meet the rules once more. It needs neither a
    kernel nor root, does nothing to anybody, and says the same each time.
    """
    from sensor.cli.playing import play  # noqa: PLC0415
    from sensor.cli.render import colours_wanted, compact, terminal_width  # noqa: PLC0415
    from sensor.config import rule_paths  # noqa: PLC0415

    config = settings(config_path)
    writable = os.access(config.paths.cache, os.W_OK)
    width = terminal_width()
    colours = colours_wanted(sys.stdout.isatty())
    summary: dict[str, Any] = {}
    for row in play(file, rules or rule_paths(config), config.paths.cache if writable else None, log, shown=True):
        if row.get("kind") == "summary":
            summary = row
        elif output == "json":
            json_line(row)
        else:
            click.echo(compact(row, width, colours))
    click.echo(escape(_summed(summary)), err=True)


def _summed(row: dict[str, Any]) -> str:
    text = f"{row.get('events', 0)} events, {row.get('detections', 0)} detections"
    if not row.get("whole", True):
        text += "; its end is missing: read as far as it is whole"
    if row.get("undecoded"):
        text += f"; {row['undecoded']} could not be read"
    return text
