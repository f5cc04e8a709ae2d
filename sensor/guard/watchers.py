"""Who traces the sensor's own processes, and which sandboxes have rights enough to reach it.

PTRACE_SEIZE sends no signal, so no tracepoint tells of it: /proc does, once a second.
"""

from __future__ import annotations

import os
from collections import deque

from msgspec import Struct

from sensor.enrich.escapes import INIT_USER_NS
from sensor.events.activity import AnyActivity, ProcessCreation, SandboxChange, SensorAccess

CAP_SYS_ADMIN, CAP_BPF = 21, 39
_POWERFUL = 1 << CAP_SYS_ADMIN | 1 << CAP_BPF
LOOKED_AT_ONCE = 32  # processes a second: some 20 us each
MOST_WAITING = 1024
WAITING_OF_SANDBOX = 8
_STATUS_BYTES = 4096


class Status(Struct, frozen=True):
    """Of /proc/PID/status."""

    tracer: int
    effective: int  # capabilities


def status(tgid: int) -> Status | None:
    try:
        fd = os.open(f"/proc/{tgid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, _STATUS_BYTES)
    except OSError:  # ESRCH: it died after the open
        return None
    finally:
        os.close(fd)
    # A name cannot hold a newline here: the kernel escapes it.
    fields = dict(line.split(b":\t", 1) for line in text.split(b"\n") if b":\t" in line)
    try:
        return Status(int(fields[b"TracerPid"]), int(fields[b"CapEff"], 16))
    except (KeyError, ValueError):
        return None


class Privileges:
    """Sandboxes with a process that could use bpf(2) on the host: never `clean`, whatever was seen of them.

    By the capability that was granted, where the kernel tells; else by what a program has after its exec, which is
    when capabilities come. One that ends before its turn is not seen."""

    def __init__(self) -> None:
        self.tamperable: set[int] = set()
        self._waiting: deque[tuple[int, int]] = deque()  # sandbox, tgid
        self._of_sandbox: dict[int, int] = {}

    def observe(self, activity: AnyActivity | SandboxChange) -> None:
        kind = type(activity)
        if kind is ProcessCreation:
            self._executed(activity)  # type: ignore[arg-type]
        elif kind is SensorAccess and activity.Privileged and activity.Attempt == "bpf":  # type: ignore[union-attr]
            self.tamperable.add(activity.SandboxId)
        elif kind is SandboxChange and activity.change == "ended":  # type: ignore[union-attr]
            self.tamperable.discard(activity.SandboxId)

    def look(self) -> list[int]:
        """Sandboxes that are found to be so. Bounded."""
        found = []
        for _ in range(min(LOOKED_AT_ONCE, len(self._waiting))):
            sandbox_id, tgid = self._waiting.popleft()
            left = self._of_sandbox.pop(sandbox_id) - 1
            if left:
                self._of_sandbox[sandbox_id] = left
            if sandbox_id in self.tamperable:
                continue
            told = status(tgid)
            if told is not None and told.effective & _POWERFUL:
                self.tamperable.add(sandbox_id)
                found.append(sandbox_id)
        return found

    def _executed(self, activity: ProcessCreation) -> None:
        if activity.UserNamespace != INIT_USER_NS or activity.SandboxId in self.tamperable:
            return
        waiting = self._of_sandbox.get(activity.SandboxId, 0)
        if waiting >= WAITING_OF_SANDBOX or len(self._waiting) >= MOST_WAITING:
            return
        self._of_sandbox[activity.SandboxId] = waiting + 1
        self._waiting.append((activity.SandboxId, activity.ProcessId))
