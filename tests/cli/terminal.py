"""A command at a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
WAIT_S = 20


class Terminal:
    """Starts `command`; `seen` is what it has printed. A wait that takes too long is an AssertionError."""

    def __init__(self, command: list[str], environment: dict[str, str], size: tuple[int, int] | None = None) -> None:
        self.seen = b""
        self._child, self._terminal = pty.fork()
        if self._child == 0:
            try:
                if size is not None:
                    _resize(0, *size)
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

    def drawn(self, text: str, columns: int = 80, rows: int = 24) -> list[str]:
        """Waits until `text` is on the screen; gives its rows."""
        deadline = time.monotonic() + WAIT_S
        while text not in "\n".join(shown := screen(self.seen, columns, rows)):
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not drawn: {shown!r}"
            self.seen += os.read(self._terminal, 4096)
        return shown

    def read(self, seconds: float = 0.05) -> None:
        """What comes within this time, if anything does."""
        if select.select([self._terminal], [], [], seconds)[0]:
            self.seen += os.read(self._terminal, 4096)

    def resize(self, columns: int, rows: int) -> None:
        """The kernel tells those in front by SIGWINCH."""
        _resize(self._terminal, columns, rows)

    def asleep(self) -> None:
        """Waits until it waits for keys. Python notes a signal, and asks for it before it reads: one that comes between
        the two is lost on a read that has nothing to wake it."""
        deadline = time.monotonic() + WAIT_S
        while _state(self._child) != "S":
            assert time.monotonic() < deadline, f"it does not wait: {self.seen!r}"
            time.sleep(0.01)

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def hang_up(self) -> int:
        """Closes the terminal, as a lost connection does, and gives the exit status."""
        os.close(self._terminal)
        _, status = os.waitpid(self._child, 0)
        return os.waitstatus_to_exitcode(status)

    def status(self) -> int:
        """Reads to the end, so that nobody waits for us, and gives the exit status."""
        deadline = time.monotonic() + WAIT_S
        while True:
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"it does not end: {self.seen!r}"
            try:
                self.seen += os.read(self._terminal, 4096)
            except OSError:  # EIO: the last process has closed it
                break
        _, status = os.waitpid(self._child, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)


def _state(pid: int) -> str:
    """Field 3 of /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _resize(fd: int, columns: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


_SEQUENCE = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])")


def screen(seen: bytes, columns: int, rows: int) -> list[str]:
    """What a terminal would show that knows clearing, places and line ends. Every character is one column here."""
    grid = [[" "] * columns for _ in range(rows)]
    row = column = at = 0
    text = seen.decode("utf-8", "ignore")
    while at < len(text):
        if match := _SEQUENCE.match(text, at):
            at = match.end()
            if match[2] == "J":
                grid = [[" "] * columns for _ in range(rows)]
            elif match[2] == "H":
                place = [int(part) for part in match[1].split(";") if part]
                row, column = (place[0] - 1, place[1] - 1) if place else (0, 0)
            continue
        if text[at] == "\r":
            column = 0
        elif text[at] == "\n":
            row += 1
        elif text[at] != "\x1b":
            if row < rows and column < columns:
                grid[row][column] = text[at]
            column += 1
        at += 1
    return ["".join(line).rstrip() for line in grid]
