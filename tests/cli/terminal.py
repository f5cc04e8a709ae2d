"""A command at a terminal of its own."""

from __future__ import annotations

import os
import pty
import select
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
WAIT_S = 20


class Terminal:
    """Starts `command`; `seen` is what it has printed. A wait that takes too long is an AssertionError."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.seen = b""
        self._child, self._terminal = pty.fork()
        if self._child == 0:
            try:
                os.chdir(REPOSITORY)
                os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606  # no shell is meant
            finally:
                os._exit(127)

    def until(self, text: bytes) -> None:
        deadline = time.monotonic() + WAIT_S
        while text not in self.seen:
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            self.seen += os.read(self._terminal, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def status(self) -> int:
        """Reads to the end, so that nobody waits for us, and gives the exit status."""
        while True:
            try:
                self.seen += os.read(self._terminal, 4096)
            except OSError:  # EIO: the last process has closed it
                break
        _, status = os.waitpid(self._child, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)
