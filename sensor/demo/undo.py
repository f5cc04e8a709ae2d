"""What the demo made, undone in reverse order whatever happens, and signals as something to ask for.

A signal's handler only sets a flag. An exception raised by a handler could strike between a fork
and the line that notes the child, or within an undo; `Undo.check` raises where nothing is half done.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_SECONDS = 0.02


class InterruptedDemoError(Exception):
    """A signal asked to stop; `signal_number` is which."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Undo:
    """A stack of undo steps that all run, in reverse, however many of them fail.

    Register a step before what it undoes is made: each must do nothing where there is nothing.
    `failures` holds one line for each step that failed.
    """

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._steps: list[tuple[str, Callable[[], None]]] = []
        self._signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._steps:
            name, step = self._steps.pop()
            try:
                step()
            except Exception as failure:  # the steps below it must still run; it is reported
                self.failures.append(f"{name}: {failure}")
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or number

    def add(self, name: str, step: Callable[[], None]) -> None:
        self._steps.append((name, step))

    @property
    def interrupted(self) -> int:
        """The first signal that came; 0: none."""
        return self._signal

    def check(self) -> None:
        if self._signal:
            raise InterruptedDemoError(self._signal)

    def wait(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def until(self, met: Callable[[], bool], seconds: float) -> bool:
        """Poll until `met`, at most `seconds`; False where time ran out."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            if met():
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_SECONDS)


def remove_tree(path: Path) -> None:
    """A folder and all below it, made by us; links are removed, not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for child in path.iterdir():
        remove_tree(child)
    path.rmdir()
