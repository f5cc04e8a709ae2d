"""What tries to leave its sandbox's cgroup, and how long it was out."""

from __future__ import annotations

from typing import Any

from tests.live.running import Running, Sandbox

# Moves itself, and would go on outside for long; the last line it prints is the last thing that it did inside.
MOVE_OUT = """
import os, socket, sys, time
where, port = sys.argv[1], int(sys.argv[2])
print(os.getpid(), flush=True)
open(where + "/cgroup.procs", "w").write("0")
while True:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        pass
"""


def notices(sensor: Running, text: str) -> list[dict[str, Any]]:
    """Fields of the notices with this text in them, and the text."""
    return [
        line["fields"] | {"text": line["text"]}
        for line in sensor.lines()
        if line["kind"] == "notice" and text in line["text"]
    ]


def windows(sensor: Running, sandbox: Sandbox, where: str, count: int) -> list[float]:
    """Seconds from the move in the kernel to the SIGKILL, of `count` processes that move out one after the other."""
    found: list[float] = []
    for _ in range(count):
        before = len(notices(sensor, "was killed"))
        done = sandbox.python(MOVE_OUT, where, "9")
        assert done.returncode == -9, done
        sensor.until(lambda before=before: len(notices(sensor, "was killed")) > before, "the kill is told")  # type: ignore[misc]
        found.append(notices(sensor, "was killed")[-1]["window_ns"] / 1e9)
    return found
