"""Every connection of a sandbox destroyed, by a child: see sweep_child.py for what it does and why it is one."""

from __future__ import annotations

import json
import os
import signal
import sys

import msgspec
from msgspec import Struct, field

from sensor.respond import sockets

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sweep_child.py")
NETLINK = os.path.join(os.path.dirname(os.path.abspath(sockets.__file__)), "sockets_child.py")
MOST_STRAYS = 4096
MOST_CHILDREN = 32  # those that cannot be killed yet among them
_ANSWER_BYTES = 1 << 20
_TAIL_BYTES = 8192


class Swept(Struct, frozen=True):
    destroyed: int = 0
    gone: int = 0
    failed: int = 0
    listening: int = 0  # left alone: nothing reaches them while the network is denied
    unconnected: int = 0  # datagram sockets without a peer: the same
    namespaces: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    complete: bool = False  # False: the child was killed, or broke

    @property
    def text(self) -> str:
        parts = [f"{self.destroyed} destroyed", f"{self.gone} gone already"]
        if self.failed:
            why = "; ".join(f"{reason}: {count}" for reason, count in self.reasons.items())
            parts.append(f"{self.failed} not destroyable ({why})")
        left = [f"{count} {what}" for what, count in (("listening", self.listening), ("unconnected", self.unconnected))]
        parts.append(f"{' and '.join(left)} left, which nothing reaches")
        parts.append(f"in {self.namespaces} network namespace{'' if self.namespaces == 1 else 's'}")
        return ", ".join(parts) + ("" if self.complete else "; the child was not done in time")


_decode = msgspec.json.Decoder(Swept).decode


class Request(Struct, frozen=True):
    directory: str  # of the cgroup, mount included
    cgroup_id: int
    processes: tuple[tuple[int, int], ...]  # (tgid, start ticks) of those that left the cgroup


class Sweep:
    """One child. Never blocks.

    :raises OSError: there can be no child.
    """

    def __init__(self, request: Request, until_ns: int, command: tuple[str, ...] = ()) -> None:
        """`until_ns`: CLOCK_MONOTONIC."""
        question = {
            "directory": request.directory,
            "cgroup_id": request.cgroup_id,
            "processes": request.processes[:MOST_STRAYS],
            "netlink": NETLINK,
        }
        self._until_ns = until_ns
        self._answer = os.memfd_create("pinfold-answer", os.MFD_CLOEXEC)
        try:
            self.pid = sockets.spawn(
                command or (sys.executable, "-I", "-S", PROGRAM), json.dumps(question).encode(), self._answer
            )
        except OSError:
            os.close(self._answer)
            raise
        self._reaped = False

    def poll(self, now_ns: int) -> Swept | None:
        """What was done, once it is over or its time is. Once."""
        swept = self._read()
        ended = self.ended()
        if not ended and now_ns < self._until_ns and not (swept is not None and swept.complete):
            return None
        swept = self._read() or Swept(failed=1, reasons={"the child could not work": 1})
        self.close()
        return swept

    def ended(self) -> bool:
        """Reaps it."""
        if not self._reaped:
            try:
                self._reaped = os.waitpid(self.pid, os.WNOHANG)[0] != 0
            except ChildProcessError:
                self._reaped = True
        return self._reaped

    def close(self) -> None:
        """Kills it where it still runs, without waiting: whoever owns this asks `ended` until it is."""
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)

    def _read(self) -> Swept | None:
        """The last whole line."""
        size = min(os.fstat(self._answer).st_size, _ANSWER_BYTES)
        lines = os.pread(self._answer, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).split(b"\n")[:-1]
        try:
            return _decode(lines[-1]) if lines else None
        except msgspec.MsgspecError:
            return None
