"""What the kernel says about a process right now, in as few system calls as it takes.

Numbers and links of /proc only, never comm or argv: those a process sets for itself. Every reader
answers None for a process that is gone, since that may happen between any two calls.
"""

from __future__ import annotations

import os

from msgspec import Struct

TICK_NS = 10_000_000  # /proc/PID/stat counts start times in USER_HZ, which is 100 on every Linux ABI
PF_KTHREAD = 0x00200000  # include/linux/sched.h

_STAT_BYTES = 1024  # 52 numbers and a comm of 64 bytes at most
_CGROUP_BYTES = 1 << 16  # a hierarchy a line, each a path of PATH_MAX at most
_CHILDREN_BYTES = 1 << 16


class Stat(Struct, frozen=True, gc=False):
    """Of /proc/PID/stat."""

    state: str
    parent_tgid: int
    flags: int
    threads: int
    start_ticks: int

    @property
    def gone(self) -> bool:
        """Dead, all of it: a leader that left by pthread_exit is a zombie too, while its threads run on."""
        return self.state in {"Z", "X"} and self.threads <= 1

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)


def ticks(start_ns: int) -> int:
    """A start time (CLOCK_BOOTTIME, ns) as /proc/PID/stat shows it."""
    return start_ns // TICK_NS


def stat(tgid: int) -> Stat | None:
    return _stat(f"/proc/{tgid}/stat")


def stat_of_thread(tgid: int, tid: str) -> Stat | None:
    return _stat(f"/proc/{tgid}/task/{tid}/stat")


def _stat(path: str) -> Stat | None:
    text = _read(path, _STAT_BYTES)
    if text is None:
        return None
    # The comm in parentheses may itself hold parentheses and spaces: only the last one closes it.
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    return Stat(fields[0].decode("ascii"), int(fields[1]), int(fields[6]), int(fields[17]), int(fields[19]))


def cgroup(tgid: int) -> str | None:
    """Path in the v2 hierarchy, below its mount, as `/a/b`; None where the process is in none.

    The kernel refuses a newline in a cgroup's name, so a line that begins with `0::` is its own.
    """
    text = _read(f"/proc/{tgid}/cgroup", _CGROUP_BYTES)
    if text is None:
        return None
    at = 0 if text.startswith(b"0::") else text.find(b"\n0::") + 1
    if not text.startswith(b"0::", at):
        return None
    end = text.find(b"\n", at)
    return os.fsdecode(text[at + 3 : end if end >= 0 else None])


def within(path: str, ancestor: str) -> bool:
    """Whether a cgroup path is `ancestor` or below it."""
    return ancestor in {path, "/"} or path.startswith(ancestor.rstrip("/") + "/")


def image_name(tgid: int) -> str | None:
    """Last component of the executable's path; None for a kernel thread or a process that is gone."""
    try:
        path = os.readlink(f"/proc/{tgid}/exe")
    except OSError:
        return None
    return path.removesuffix(" (deleted)").rpartition("/")[2]


def mount_namespace(tgid: int) -> tuple[int, int] | None:
    """(device, inode) of the namespace: equal for equal namespaces."""
    try:
        found = os.stat(f"/proc/{tgid}/ns/mnt")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def thread_group(tid: int) -> int | None:
    """The tgid of a thread, from /proc/TID/status."""
    text = _read(f"/proc/{tid}/status", 4096)
    if text is None:
        return None
    _, found, rest = text.partition(b"\nTgid:")
    return int(rest.split(None, 1)[0]) if found else None


def children(tgid: int, most_threads: int, most: int) -> list[int]:
    """Tgids of the children, at most `most`. Complete only while the process is stopped or frozen
    (proc(5)), and empty where the kernel lacks CONFIG_PROC_CHILDREN."""
    try:
        threads = os.listdir(f"/proc/{tgid}/task")
    except OSError:
        return []
    found: list[int] = []
    for tid in threads[:most_threads]:
        found += _children_of_thread(f"/proc/{tgid}/task/{tid}/children", most - len(found))
        if len(found) >= most:
            break
    return found


def _children_of_thread(path: str, most: int) -> list[int]:
    found: list[int] = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        # A read ends at the file's buffer, a page, and never within a number.
        while len(found) < most and (text := os.read(fd, _CHILDREN_BYTES)):
            found += map(int, text.split())
    except OSError:  # ESRCH: it died after the open
        pass
    finally:
        os.close(fd)
    return found[:most]


def _read(path: str, most: int) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, most)
    except OSError:  # ESRCH: it died after the open
        return None
    finally:
        os.close(fd)
