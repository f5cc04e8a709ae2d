"""The host as the detectors see it: the kernel's table of flows, the process table, /proc and cgroup2.

Scans of /proc are bounded by the sandbox's processes and a number of descriptors each, and their answers are kept for a
moment: a detector asks again and again while a verdict hangs on it, and a sandbox must not make the sensor scan for it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable

from sensor.detect.world import Busiest, Counters, Living
from sensor.enrich import procfs
from sensor.enrich.fields import common
from sensor.enrich.processes import Process, ProcessTable
from sensor.events.activity import Activity

SCANNED_MAX = 256  # processes of a sandbox that one scan looks at, the newest first
ANSWERS_MAX = 1024
ANSWER_NS = 500_000_000
FAMILY_MAX = 64
BUSIEST_MAX = 1024  # processes whose CPU time one look adds up: some 10 us each
_INODE = re.compile(rb"^ino:\s*(\d{1,20})$", re.MULTILINE)
_TTY_INDEX = re.compile(rb"^tty-index:\s*(\d{1,9})$", re.MULTILINE)

CountersOf = Callable[[int], Counters | None]


class HostWorld:
    """`counters_of(cookie)`, `gpu_of(sandbox, tgid)` and `allowed(class, address, port, hostname)` come from whoever
    knows the kernel's maps and the policy; `folder_of(sandbox)` is its cgroup's folder, None when it is gone."""

    def __init__(  # noqa: PLR0917 - what it may ask
        self,
        processes: ProcessTable,
        counters_of: CountersOf,
        at_dial: Callable[[int, int], Counters | None],
        folder_of: Callable[[int], str | None],
        allowed: Callable[[str, str, int, str], bool],
        is_gpu: Callable[[int, int, int], bool],
        living: Callable[[], Iterable[Living]] = tuple,
    ) -> None:
        self.allowed = allowed  # replaced by a reload
        self.scans = 0
        self._processes = processes
        self._counters_of = counters_of
        self._at_dial = at_dial
        self._folder_of = folder_of
        self._is_gpu = is_gpu
        self._living = living
        self._answers: dict[tuple[str, int, int], tuple[int, tuple[int, ...]]] = {}
        self._cpus = os.cpu_count() or 1

    def counters(self, cookie: int) -> Counters | None:
        return self._counters_of(cookie)

    def counters_at_dial(self, inner: int, outer: int) -> Counters | None:
        return self._at_dial(inner, outer)

    def holders(self, sandbox_id: int, inode: int, most: int = 16) -> tuple[int, ...]:
        wanted = b"socket:[%d]" % inode
        return self._scan("socket", sandbox_id, inode, lambda _tgid, _fd, link: link == wanted)[:most]

    def pipe_peers(self, sandbox_id: int, inode: int, not_tgid: int) -> tuple[int, ...]:
        wanted = b"pipe:[%d]" % inode
        found = self._scan("pipe", sandbox_id, inode, lambda _tgid, _fd, link: link == wanted)
        if not found:  # then it has a name in some folder, and its links say that
            found = self._scan("fifo", sandbox_id, inode, lambda tgid, fd, link: _is_fifo(tgid, fd, link, inode))
        return tuple(tgid for tgid in found if tgid != not_tgid)

    def pty_masters(self, sandbox_id: int, number: int) -> tuple[int, ...]:
        return self._scan("pty", sandbox_id, number, lambda tgid, fd, link: _is_master(tgid, fd, link, number))

    def standard_streams(self, tgid: int) -> tuple[str, str, str, int, int, int]:
        return procfs.standard_streams(tgid)

    def cpu_usage_ns(self, sandbox_id: int) -> int | None:
        """The v2 hierarchy shows usage_usec in every cgroup, also where the cpu controller is v1's."""
        folder = self._folder_of(sandbox_id)
        if folder is None:
            return None
        try:
            with open(f"{folder}/cpu.stat", "rb") as file:
                for line in file.read(4096).splitlines():
                    name, _, value = line.partition(b" ")
                    if name == b"usage_usec":
                        return int(value) * 1000
        except (OSError, ValueError):
            return None
        return None

    def sandboxes(self) -> Iterable[Living]:
        return self._living()

    def busiest(self, living: Living) -> Busiest | None:
        used: dict[str, list[tuple[int, Process]]] = {}
        for process in self._processes.in_sandbox(living.id)[:BUSIEST_MAX]:
            cpu_ns = procfs.cpu_ns(process.tgid, process.start_ns)
            if cpu_ns is not None:
                used.setdefault(process.image, []).append((cpu_ns, process))
        if not used:
            return None
        most = max(used.values(), key=lambda of: sum(cpu_ns for cpu_ns, _ in of))
        _, process = max(most, key=lambda one: one[0])
        where = (0, 0, 0, 0, living.id, living.name, living.class_, process.cgroup_id, process.tgid)
        return Busiest(Activity(*common(where, process, process.user)), sum(cpu_ns for cpu_ns, _ in most))

    def cpus(self) -> int:
        return self._cpus

    def gpu_held(self, sandbox_id: int, tgid: int) -> bool:
        """Whether it has a descriptor of a GPU's device."""
        known = self._known(("gpu", sandbox_id, tgid))
        if known is None:
            numbers = (procfs.device_number(tgid, fd) for fd, link in procfs.descriptors(tgid) if _may_be_device(link))
            held = any(number is not None and self._is_gpu(*number) for number in numbers)
            known = self._remember(("gpu", sandbox_id, tgid), (tgid,) if held else ())
        return bool(known)

    def egress_allowed(self, sandbox_class: str, address: str, port: int, hostname: str) -> bool:
        return self.allowed(sandbox_class, address, port, hostname)

    def parent(self, tgid: int) -> int:
        process = self._processes.get(tgid)
        return process.parent_tgid if process is not None else 0

    def family(self, tgid: int) -> tuple[int, ...]:
        """Forks run what their parent ran: the same image and arguments, up and down the tree."""
        process = self._processes.current.get(tgid)
        if process is None:
            return (tgid,)
        top = process
        while (above := top.parent) is not None and _same_program(above, process):
            top = above
        found = [top.tgid]
        for below in self._processes.descendants(top.tgid)[: SCANNED_MAX * 4]:
            if _same_program(below, process) and len(found) < FAMILY_MAX:
                found.append(below.tgid)
        return tuple(found) if tgid in found else (tgid, *found)

    # Scans.

    def _scan(
        self, kind: str, sandbox_id: int, number: int, wanted: Callable[[int, int, bytes], bool]
    ) -> tuple[int, ...]:
        key = (kind, sandbox_id, number)
        known = self._known(key)
        if known is not None:
            return known
        self.scans += 1
        members = self._processes.in_sandbox(sandbox_id)[-SCANNED_MAX:]
        found = tuple(
            member.tgid
            for member in members
            if any(wanted(member.tgid, fd, link) for fd, link in procfs.descriptors(member.tgid))
        )
        return self._remember(key, found)

    def _known(self, key: tuple[str, int, int]) -> tuple[int, ...] | None:
        answer = self._answers.get(key)
        return answer[1] if answer is not None and time.monotonic_ns() - answer[0] < ANSWER_NS else None

    def _remember(self, key: tuple[str, int, int], found: tuple[int, ...]) -> tuple[int, ...]:
        if len(self._answers) >= ANSWERS_MAX:
            self._answers.clear()
        self._answers[key] = (time.monotonic_ns(), found)
        return found


def _same_program(one: Process, other: Process) -> bool:
    return one.sandbox_id == other.sandbox_id and one.image == other.image and one.command_line == other.command_line


def _may_be_device(link: bytes) -> bool:
    return link.startswith(b"/")


def _is_master(tgid: int, fd: int, link: bytes, number: int) -> bool:
    """/proc/PID/fdinfo of a master shows the number of its slave (pty_show_fdinfo, 4.13)."""
    if not link.endswith(b"ptmx"):
        return False
    match = _TTY_INDEX.search(procfs.descriptor_facts(tgid, fd))
    return match is not None and int(match[1]) == number


def _is_fifo(tgid: int, fd: int, link: bytes, inode: int) -> bool:
    """/proc/PID/fdinfo shows the inode's number since 5.14, and no stat asks the file system, which may be a sandbox's
    own and never answer. Another file of that number, of another file system, may be taken for it."""
    if not link.startswith(b"/") or link.startswith(b"/dev/"):
        return False
    match = _INODE.search(procfs.descriptor_facts(tgid, fd))
    return match is not None and int(match[1]) == inode
