"""`pinfold record`."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.common import config_option, settings
from sensor.errors import PinfoldError, RecordingError

if TYPE_CHECKING:
    from sensor.control.client import Client

_POLL_S = 0.5
_MIB = 1024 * 1024


@click.command(short_help="Write what the sensor reads to a file, for `pinfold replay`.")
@config_option
@click.option("--sandbox", metavar="SANDBOX", help="Of this one alone: name, cgroup id or path.")
@click.option("--seconds", type=click.IntRange(1, 86400), default=600, show_default=True)
@click.option("--mib", type=click.IntRange(1, 4096), default=256, show_default=True, help="At most this many.")
@click.option("--reason", metavar="TEXT", default="recorded by `pinfold record`", help="Why, for the audit.")
@click.argument("file", type=click.Path(dir_okay=False))
def record(config_path: str | None, file: str, reason: str, **chosen: Any) -> None:
    """Record to FILE what the sensor reads, until Ctrl-C or --seconds are over. As root alone.

    It holds arguments and first bytes of connections with all that is in them: it is root's alone, mode 0600.
    """
    from sensor.cli.reach import row, say  # noqa: PLC0415
    from sensor.control.client import Client  # noqa: PLC0415

    config = settings(config_path)
    # First: what was recorded must have a place to go to.
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    client = Client.of(config)
    seconds = chosen["seconds"]
    options = {"seconds": seconds, "bytes": chosen["mib"] * _MIB}
    if chosen["sandbox"]:
        options["sandbox"] = chosen["sandbox"]
    try:
        begun = row(client.begin_recording(reason, **options))
    except PinfoldError:
        os.unlink(file)
        raise
    say("recording; Ctrl-C ends it")
    try:
        found = _wait(client, seconds)
    except KeyboardInterrupt:
        found = row(client.end_recording(reason))
    path = str(begun.get("path", ""))
    if found.get("path") != path:
        os.unlink(file)
        raise RecordingError(f"{path!a}: the recording is another's by now: its file may still be there")
    shutil.move(path, file)
    os.chmod(file, 0o600)
    say(f"{file}: {found.get('records', 0)} records, {found.get('bytes', 0)} bytes: {found.get('reason', '')}")


def _wait(client: Client, seconds: int) -> dict[str, Any]:
    from sensor.cli.reach import row  # noqa: PLC0415

    until = time.monotonic() + seconds + 30
    while time.monotonic() < until:
        found = row(client.recording())
        if not found.get("running"):
            return found
        time.sleep(_POLL_S)
    return row(client.end_recording("its time is over"))
