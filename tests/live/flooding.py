"""A sandbox that uses up its part of the ring while nobody reads it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.live.running import Running, Sandbox

SMALL = "ring: {{size_bytes: 262144}}\n"  # a sandbox may hold a quarter of it


@contextmanager
def unread(sensor: Running) -> Iterator[None]:
    """Nobody reads the ring meanwhile."""
    assert sensor.process is not None
    os.kill(sensor.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(sensor.process.pid, signal.SIGCONT)


def fill(sandbox: Sandbox) -> int:
    """Executes until its budget is gone for sure; the number of execs."""
    for _ in range(200):
        sandbox.run("/bin/true", "f" * 2000)
    return 200
