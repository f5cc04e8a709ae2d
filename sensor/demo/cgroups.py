"""The cgroup below which the demo's sandboxes are made, and its removal with all that runs in it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from sensor.demo.undo import POLL_SECONDS

EMPTY_SECONDS = 10.0


def remove(cgroup: Path) -> None:
    """Kill all that runs in it and below, and remove it; nothing where it is not there."""
    if not cgroup.is_dir():
        return
    with contextlib.suppress(FileNotFoundError):
        (cgroup / "cgroup.kill").write_text("1")
    end = time.monotonic() + EMPTY_SECONDS
    while "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    for below in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
        below.rmdir()
    cgroup.rmdir()
