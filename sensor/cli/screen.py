"""A terminal taken over: the alternate screen, keys as they are pressed, and everything put back, whatever happens.

Sequences that every terminal of the last decades knows (ECMA-48, xterm's alternate screen), without terminfo: the
terminal at the other end of an ssh is often one that this host has no entry for.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from sensor.cli.render import colours_wanted
from sensor.cli.topframe import Part
from sensor.errors import UsageError

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[0m\x1b[2J\x1b[H"
_LEAVE = "\x1b[0m\x1b[2J\x1b[H\x1b[?25h\x1b[?1049l"  # cleared first: a console without a second screen is left clean
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_STYLES = {"title": "1", "head": "7", "bad": "1;31", "warn": "33", "good": "32"}
_WITHOUT_COLOURS = {"title": "1", "head": "7", "bad": "1"}
_KEY = re.compile(rb"\x1b(?:\[[0-9;]{0,8}[A-Za-z~]|O[A-Za-z])|[^\x1b]")
_KEYS = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down", b"\x1b[H": "home", b"\x1b[1~": "home", b"\x1bOH": "home",
    b"g": "home", b"\x1b[F": "end", b"\x1b[4~": "end", b"\x1bOF": "end", b"G": "end", b"\x03": "q", b"\x04": "q",
    b" ": "p", b"h": "?", b"\x1a": "suspend", b"\x0c": "redraw",
}  # fmt: skip
_UNREADABLE = ("", "dumb", "unknown", "emacs")
_ASCII = str.maketrans({"…": "~", "→": ">", "↑": "^", "↓": "v"})
_DRAIN_S = 0.2


class Ended(Exception):
    """A signal that ends us came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """For `with`. Keys come by name from `wait`; `paint` shows rows."""

    def __init__(self) -> None:
        self.require()
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._wake, self.alarm = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._shown: list[str] = []
        self._size = (0, 0)
        self._keys = b""
        self._entered = self._continued = False
        self._styles = _STYLES if colours_wanted(True) else _WITHOUT_COLOURS
        self._utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"

    @staticmethod
    def require() -> None:
        """:raises UsageError: nothing can be drawn here."""
        if not (os.isatty(0) and os.isatty(1)):
            raise UsageError("a live view needs a terminal; --once prints one picture anywhere")
        if os.environ.get("TERM", "") in _UNREADABLE:
            raise UsageError(f"the terminal (TERM={os.environ.get('TERM', '')}) cannot be drawn on; use --once")

    def __enter__(self) -> Screen:
        self._before = termios.tcgetattr(0)
        try:
            for number in (*_ENDING, signal.SIGWINCH, signal.SIGCONT):
                self._handlers[number] = signal.signal(number, self._came)
            self._enter()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_IGN)  # nothing interrupts what puts the terminal back
        self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self.alarm)

    def size(self) -> tuple[int, int]:
        """Columns and rows; the usual ones, where the terminal does not tell."""
        with suppress(OSError):
            columns, rows = os.get_terminal_size(1)
            if columns > 0 and rows > 0:
                return min(columns, 1000), min(rows, 500)
        return 80, 24

    def wait(self, seconds: float) -> list[str]:
        """Keys, by name; none when something else came: a signal, an alarm, the time.

        :raises Ended: the terminal is gone.
        """
        ready, _, _ = select.select([0, self._wake], [], [], seconds)
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.read(self._wake, 4096)
        if self._continued:
            self._enter()  # somebody had stopped us, and the shell has set the terminal as it likes it
        if 0 not in ready:
            self._keys = b""  # an escape that nothing followed
            return []
        try:
            came = os.read(0, 1024)
        except OSError as gone:
            raise Ended(signal.SIGHUP) from gone
        if not came:
            raise Ended(signal.SIGHUP)
        return self._named(came)

    def paint(self, rows: Sequence[Part]) -> None:
        """Only what has changed is sent. A terminal that does not take it is not waited for."""
        _, ready, _ = select.select([], [1], [], 0)
        if not ready:
            return
        if (size := self.size()) != self._size:
            self._size, self._shown = size, []
        lines = [self._line(row, size[0]) for row in rows[: size[1]]]
        out = [] if self._shown else ["\x1b[0m\x1b[2J"]
        before = self._shown or [""] * len(lines)
        for number, (line, old) in enumerate(zip(lines, [*before, *[""] * len(lines)], strict=False), 1):
            if line != old:
                out.append(f"\x1b[{number};1H{line}")
        self._shown = lines
        if out:
            self._write("".join(out))

    def suspend(self) -> None:
        """What Ctrl-Z does elsewhere: the shell gets its terminal back until we are continued."""
        self._leave()
        os.kill(0, signal.SIGTSTP)  # the whole job, as the terminal would; we go on here when it is continued
        self._enter()

    def redraw(self) -> None:
        self._shown = []

    def _line(self, row: Part, width: int) -> str:
        from rich.cells import cell_len  # noqa: PLC0415

        # Filled up instead of erased: erasing behind a full line takes its last character on some terminals.
        text = row.text + " " * max(0, width - cell_len(row.text))
        style = self._styles.get(row.style, "")
        return f"\x1b[{style}m{text}\x1b[0m" if style else text

    def _named(self, came: bytes) -> list[str]:
        buffer = (self._keys + came)[-4096:]
        names, end = [], 0
        for match in _KEY.finditer(buffer):
            names.append(_KEYS.get(match[0]) or match[0].decode("latin-1"))
            end = match.end()
        self._keys = buffer[end:][:16]
        return names

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if number in _ENDING:
            for ending in _ENDING:
                signal.signal(ending, signal.SIG_IGN)  # once is enough
            raise Ended(number)
        self._continued = self._continued or number == signal.SIGCONT
        with suppress(BlockingIOError):
            os.write(self.alarm, b"\0")

    def _enter(self) -> None:
        self._entered, self._continued = True, False
        wanted = list(self._before)
        wanted[6] = list(wanted[6])
        wanted[0] &= ~(termios.IXON | termios.ICRNL | termios.INLCR)  # Ctrl-S must not freeze the view
        wanted[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        wanted[6][termios.VMIN], wanted[6][termios.VTIME] = 1, 0
        try:
            termios.tcsetattr(0, termios.TCSADRAIN, wanted)
        except termios.error as gone:
            raise Ended(signal.SIGHUP) from gone
        self._write(_ENTER)
        self._shown = []

    def _leave(self) -> None:
        if not self._entered:
            return
        self._entered = False
        with suppress(OSError, termios.error):  # the terminal may be gone
            termios.tcsetattr(0, termios.TCSANOW, self._before)
        deadline = time.monotonic() + _DRAIN_S
        with suppress(OSError, Ended):
            # One that takes nothing any more is not waited for: settings are back, and nothing hangs.
            if select.select([], [1], [], max(0.0, deadline - time.monotonic()))[1]:
                self._write(_LEAVE)
        with suppress(OSError, termios.error):
            termios.tcflush(0, termios.TCIFLUSH)  # keys that were meant for us are no commands for the shell

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "replace") if self._utf8 else text.translate(_ASCII).encode("ascii", "replace")
        try:
            while data:
                data = data[os.write(1, data) :]
        except BlockingIOError:
            return
        except OSError as gone:
            raise Ended(signal.SIGHUP) from gone
