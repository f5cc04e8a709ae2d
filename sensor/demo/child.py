"""Processes that the demo starts, and that end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sensor.demo.undo import POLL_SECONDS, Undo

STOP_SECONDS = 15.0


class Child:
    """One process in a session of its own, so that the terminal's Ctrl-C reaches the demo alone.

    Output goes to `output`, a file; `stop` ends it and whatever is left of its process group.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        output: Path,
        undo: Undo,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name, self.output = name, output
        self._process: subprocess.Popen[bytes] | None = None
        undo.add(name, self.stop)
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=folder,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def tgid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        if self._process is None or self._process.returncode is not None:
            return self._process.returncode if self._process else None
        # WNOWAIT leaves it a zombie until `stop`: its id, which is also the group's, stays its own.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def said(self) -> str:
        """Its output so far; bytes that are not UTF-8 are replaced."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def last_line(self) -> str:
        lines = [line for line in self.said().splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        os.kill(process.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        while self.status is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
