"""`pinfold run`."""

from __future__ import annotations

import os

import click

from sensor.cli.common import config_file, config_option, python, settings


@click.command(short_help="Run the sensor in the foreground.")
@config_option
@click.option("--live", is_flag=True, help="With a live view of what the sandboxes do.")
def run(config_path: str | None, live: bool) -> int:
    """Run the sensor in the foreground until SIGTERM or Ctrl-C; SIGHUP reads configuration and rules again."""
    file = config_file(config_path)
    start, environment = python()
    command = [*start, "-m", "sensor.daemon"] + (["--config", file] if file is not None else [])
    if not live:
        os.execve(command[0], command, environment)  # noqa: S606  # no shell is meant
    from sensor.cli.live import LiveView  # noqa: PLC0415

    config = settings(config_path)
    return LiveView(os.path.join(config.paths.log, config.log.file)).run(command, environment)
