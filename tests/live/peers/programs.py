"""Programs that a peer started: one group of processes each, ended with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

WAIT_S = 15.0
POLL_S = 0.005
STOP_S = 2.0


class Program:
    """A process that leads a session of its own; `output` has what it and its children say."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process, self.output = process, output

    @property
    def tgid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """The last of its output; bytes that are not UTF-8 are replaced."""
        return self.output.read_text(errors="replace")[-2000:] if self.output.exists() else ""

    def ended(self) -> int | None:
        """Its status, None while it runs; negative: the signal. It stays a zombie, so that its group's id stays its
        own until `stop`."""
        if self.process.returncode is not None:
            return self.process.returncode
        found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def finish(self, seconds: float = 60.0) -> str:
        """Wait for a status of 0, and give what it said; anything else is an AssertionError."""
        until = time.monotonic() + seconds
        while (status := self.ended()) is None and time.monotonic() < until:
            time.sleep(POLL_S)
        command = self.process.args
        assert status == 0, f"{command!r}: {'still runs' if status is None else f'status {status}'}: {self.said()}"
        self.stop()
        return self.output.read_text(errors="replace")

    def stop(self) -> None:
        """SIGTERM to it, as some clean up then; SIGKILL to what is left of its group."""
        if self.process.returncode is not None:
            return
        os.kill(self.process.pid, signal.SIGTERM)
        until = time.monotonic() + STOP_S
        while self.ended() is None and time.monotonic() < until:
            time.sleep(POLL_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def find(name: str) -> str:
    """The path of an installed program."""
    found = shutil.which(name, path="/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: sudo packaging/test installs what the tests need")
    return found


def until(met: Callable[[], object], what: str, programs: Iterable[Program] = (), seconds: float = WAIT_S) -> None:
    """Poll; an AssertionError when time runs out or one of the programs ends, with what they said."""
    end = time.monotonic() + seconds
    watched = tuple(programs)
    while not met():
        said = "\n".join(f"{program.process.args!r}: {program.said()}" for program in watched)
        assert all(program.ended() is None for program in watched), f"ended before {what}: {said}"
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}: {said}"
        time.sleep(POLL_S)
