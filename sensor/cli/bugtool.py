"""`pinfold bugtool`."""

from __future__ import annotations

import sys
import time

import click

from sensor.cli.common import config_file, config_option, settings, table
from sensor.cli.escape import escape
from sensor.errors import ConfigError


@click.command(short_help="An archive for a bug report, secrets redacted.")
@config_option
@click.option("-o", "path", metavar="FILE", help="Where to. Without it pinfold-bug-<time>.tar.gz, here.")
@click.option("-n", "lines", type=click.IntRange(0, 100_000), default=2000, show_default=True, help="Lines of the log.")
@click.option("--dry-run", is_flag=True, help="List what would go in.")
def bugtool(config_path: str | None, path: str | None, lines: int, dry_run: bool) -> None:
    """Collect what a bug report needs into one archive: versions, checks of the host, the configuration, what the
    sensor tells, the end of its log, pins, ledger and journal. Works with the sensor dead; what cannot be had is named
    in it. Secrets are redacted, and evidence is left out; look through it all the same before you send it.
    """
    from sensor.cli.bugarchive import Archive  # noqa: PLC0415
    from sensor.cli.bugitems import items  # noqa: PLC0415
    from sensor.config import Config, complete  # noqa: PLC0415

    try:
        config = settings(config_path)
    except ConfigError as why:  # which may be what the report is about
        click.echo(f"pinfold: {escape(str(why))}; the defaults are looked at", err=True)
        config = complete(Config())
    wanted = list(items(config, config_file(config_path), lines))
    if dry_run:
        table(("Name", "What", "From"), ((item.name, item.what, item.source) for item in wanted))
        return
    path = path or time.strftime("pinfold-bug-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
    with Archive(path) as archive:
        for item in wanted:
            if sys.stderr.isatty():
                click.echo(f"  {escape(item.name)}", err=True)
            why_not = archive.take(item)
            if why_not and sys.stderr.isatty():
                click.echo(f"    missing: {escape(why_not)}", err=True)
    if archive.missing:
        click.echo(
            f"pinfold: {len(archive.missing)} of {len(wanted)} items are missing; missing.txt says why", err=True
        )
    click.echo(escape(path))
