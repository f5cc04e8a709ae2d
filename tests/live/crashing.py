"""A sensor that kills itself with SIGKILL at a chosen step of its loop: `python -m tests.live.crashing
CONFIG STEP NTH`. The steps stand around log-then-advance; the daemon itself knows nothing of this."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sensor.daemon import Daemon

STEPS = (
    "after-take",  # an event evaluated, in the batch; nothing written
    "before-write",
    "torn-write",  # half of the batch is in the file
    "after-write",  # everything is written, the ring does not know
    "before-advance",
    "after-advance",
)


class CrashingDaemon(Daemon):
    """Crashes at the `nth` time that it comes to `step`."""

    def __init__(self, config: str, step: str, nth: int) -> None:
        super().__init__(config)
        self._step = step
        self._left = nth

    def crash_at(self, step: str) -> None:
        if step == self._step:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def start(self) -> None:
        super().start()
        pipeline: Any = self._pipeline
        pipeline._take = self._around(pipeline._take, "", "after-take")
        log: Any = self._log
        log.flush = self._around(log.flush, "before-write", "after-write")
        log._file.append = self._torn(log._file.append)
        ring: Any = self._kernel.ring
        ring.advance = self._around(ring.advance, "before-advance", "after-advance")

    def _around(self, inner: Callable[..., Any], before: str, after: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.crash_at(before)
            result = inner(*arguments, **named)
            self.crash_at(after)
            return result

        return wrapped

    def _torn(self, append: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def wrapped(lines: bytes) -> None:
            if self._step == "torn-write" and self._left <= 1:
                append(lines[: len(lines) * 2 // 3])
            self.crash_at("torn-write")
            append(lines)

        return wrapped


if __name__ == "__main__":
    daemon = CrashingDaemon(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    daemon.start()
    daemon.run()
