"""What /proc says about processes that are not the sensor's own: bounded, and gone at any moment.

Links and numbers cannot stall a reader; a command line can: it is read from the process's own memory
(proc_pid_cmdline_read → access_remote_vm), whose lock the process may keep busy and whose pages it may
have userfaultfd serve, or before 4.17 a FUSE file system (CVE-2018-1120). So command lines are read by a
child that can be killed.
Descriptors are asked for their device number without asking their file system, which
may be the sandbox's own.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import select
import signal
import stat
import struct
import time
from collections.abc import Iterator, Sequence

from msgspec import Struct

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
TICK_NS = 1_000_000_000 // TICKS_PER_SECOND

ARGV_MAX_BYTES = 4096  # as the probes copy
SMALL_MAX_BYTES = 64 * 1024
DESCRIPTORS_MAX = 4096  # of one process
CGROUPS_MAX = 65536  # below one sandbox: who makes more hides in them, and is told as cut
PATIENCE_S = 0.25  # for one command line

_LENGTH = struct.Struct("=I")


class Stat(Struct, frozen=True, gc=False):
    """Of /proc/PID/stat. Zombies and kernel threads have no argv and no image."""

    tgid: int
    parent_tgid: int
    start_ns: int  # CLOCK_BOOTTIME, whole clock ticks
    zombie: bool


class Links(Struct, frozen=True, gc=False):
    """What the links of /proc/PID lead to, as bytes: a process may name its files as it likes."""

    image: bytes
    deleted: bool
    cwd: bytes
    uid: int
    euid: int
    net_namespace: int
    mount_namespace: int


def text(path: str) -> str:
    """A table of /proc, "" where there is none."""
    return (_read(path, SMALL_MAX_BYTES) or b"").decode(errors="replace")


@functools.cache
def own_mount_namespace() -> int:
    return os.stat("/proc/self/ns/mnt").st_ino


def start_ticks(start_ns: int) -> int:
    """A start time in CLOCK_BOOTTIME nanoseconds, as /proc/PID/stat field 22 shows it."""
    return start_ns // TICK_NS


def read_stat(tgid: int) -> Stat | None:
    text = _read(f"/proc/{tgid}/stat", 4096)
    # The comm may hold spaces and parentheses; only the last one closes it.
    fields = text[text.rfind(b")") + 2 :].split() if text else []
    if len(fields) < 20:
        return None
    return Stat(tgid, int(fields[1]), int(fields[19]) * TICK_NS, fields[0] in (b"Z", b"X"))


def cpu_ns(tgid: int, start_ns: int) -> int | None:
    """CPU time of all its threads so far, whole clock ticks; None where it is gone, or another has its tgid."""
    text = _read(f"/proc/{tgid}/stat", 4096)
    fields = text[text.rfind(b")") + 2 :].split() if text else []
    if len(fields) < 20 or start_ticks(int(fields[19]) * TICK_NS) != start_ticks(start_ns):
        return None
    return (int(fields[11]) + int(fields[12])) * TICK_NS


def is_same(tgid: int, start_ns: int) -> bool:
    """Whether the process that has this tgid now is the one that started then. For every use of a
    tgid after the record that named it."""
    now = read_stat(tgid)
    return now is not None and start_ticks(now.start_ns) == start_ticks(start_ns)


def read_image(tgid: int, start_ns: int) -> bytes | None:
    """Path of its executable; None where the process is gone, or another has its tgid."""
    try:
        image = os.readlink(b"/proc/%d/exe" % tgid)
    except OSError:
        return None
    return image.removesuffix(b" (deleted)") if is_same(tgid, start_ns) else None


def read_links(tgid: int) -> Links | None:
    """None where the process is gone, or has no image (a kernel thread)."""
    try:
        image = os.readlink(b"/proc/%d/exe" % tgid)
        cwd = os.readlink(b"/proc/%d/cwd" % tgid)
        net = os.stat(f"/proc/{tgid}/ns/net").st_ino
        mount = os.stat(f"/proc/{tgid}/ns/mnt").st_ino
    except OSError:
        return None
    deleted = image.endswith(b" (deleted)")
    uid, euid = _uids(tgid)
    return Links(image.removesuffix(b" (deleted)"), deleted, cwd, uid, euid, net, mount)


def read_cgroup(tgid: int) -> str | None:
    """Its path in the v2 hierarchy, without the leading slash."""
    text = _read(f"/proc/{tgid}/cgroup", SMALL_MAX_BYTES)
    for line in text.split(b"\n") if text else ():
        if line.startswith(b"0::"):
            return os.fsdecode(line[3:]).strip("/")
    return None


def members(cgroup: str, most: int) -> tuple[list[tuple[int, int]], bool]:
    """(tgid, its cgroup's id) of the processes in a cgroup and below it, at most `most`; and whether these are
    all of them. How many cgroups a sandbox makes in itself, and how deep, is its own choice."""
    found: list[tuple[int, int]] = []
    queue = [cgroup]
    seen = 0
    whole = True
    while queue:
        at = queue.pop()
        seen += 1
        if seen > CGROUPS_MAX:
            return found, False
        try:
            cgroup_id = os.stat(at).st_ino
            with os.scandir(at) as entries:
                queue += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError as error:  # removed meanwhile, or so deep that no path leads there
            whole = whole and error.errno in {errno.ENOENT, errno.ENODEV}
            continue
        for line in _lines(f"{at}/cgroup.procs"):
            if len(found) >= most:
                return found, False
            if line.isdigit() and line != b"0":  # 0: a process of another pid namespace
                found.append((int(line), cgroup_id))
    return found, whole


def descriptors(tgid: int) -> list[tuple[int, bytes]]:
    """(number, what the link says) of its open descriptors."""
    found = []
    try:
        with os.scandir(f"/proc/{tgid}/fd") as entries:
            for entry, _ in zip(entries, range(DESCRIPTORS_MAX), strict=False):
                try:
                    found.append((int(entry.name), os.fsencode(os.readlink(entry.path))))
                except (OSError, ValueError):
                    continue
    except OSError:
        return []
    return found


def standard_streams(tgid: int) -> tuple[str, str, str, int, int, int]:
    """Kinds and inodes of its standard streams, as ProcessCreation has them; "" and 0 where there is none. By the
    links' text alone: a stat would wait for a file system that a sandbox may have made."""
    found = [_stream(tgid, number) for number in range(3)]
    (a, x), (b, y), (c, z) = found
    return a, b, c, x, y, z


_STREAM = re.compile(rb"(socket|pipe):\[(\d{1,20})\]|/dev/pts/(\d{1,9})")


def _stream(tgid: int, number: int) -> tuple[str, int]:
    try:
        link = os.readlink(b"/proc/%d/fd/%d" % (tgid, number))
    except OSError:
        return "", 0
    match = _STREAM.fullmatch(link)
    if match is None:
        return ("null" if link == b"/dev/null" else "device" if link.startswith(b"/dev/") else "file"), 0
    if match[3] is not None:
        return "pty", int(match[3])
    return match[1].decode(), int(match[2])


def descriptor_facts(tgid: int, fd: int) -> bytes:
    """/proc/PID/fdinfo/FD; empty where it is gone."""
    return _read(f"/proc/{tgid}/fdinfo/{fd}", 4096) or b""


def open_mode(tgid: int, fd: int) -> int:
    """The flags that a descriptor was opened with (O_RDONLY, …); O_RDONLY where it is gone."""
    for line in descriptor_facts(tgid, fd).split(b"\n"):
        if line.startswith(b"flags:"):
            return int(line.split()[1], 8)
    return os.O_RDONLY


class _Statx(ctypes.Structure):
    """struct statx of include/uapi/linux/stat.h, as far as it is used; 256 bytes in all."""

    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("before_mode", ctypes.c_uint8 * 24),
        ("mode", ctypes.c_uint16),
        ("before_rdev", ctypes.c_uint8 * 98),
        ("rdev_major", ctypes.c_uint32),
        ("rdev_minor", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 120),
    )


_AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000  # take what the kernel has: a FUSE server is not asked (fuse_update_get_attr)
_STATX_TYPE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def device_number(tgid: int, fd: int) -> tuple[int, int, int] | None:
    """(BPF_DEVCG_DEV_*, major, minor) where the descriptor is a device's."""
    found = _Statx()
    path = b"/proc/%d/fd/%d" % (tgid, fd)
    if _libc.statx(_AT_FDCWD, path, _AT_STATX_DONT_SYNC, _STATX_TYPE, ctypes.byref(found)):
        return None
    if stat.S_ISCHR(found.mode):
        return 2, found.rdev_major, found.rdev_minor
    if stat.S_ISBLK(found.mode):
        return 1, found.rdev_major, found.rdev_minor
    return None


def command_lines(tgids: Sequence[int]) -> tuple[dict[int, bytes], int]:
    """argv of each process, NUL-separated, at most ARGV_MAX_BYTES + 1 bytes (one more says: cut); and
    how many could not be had in time."""
    found: dict[int, bytes] = {}
    late = 0
    at = 0
    while at < len(tgids):
        done = _read_in_child(tgids[at:], found)
        at += done
        if at < len(tgids):  # the child got stuck on this one
            at += 1
            late += 1
    return found, late


def _read_in_child(tgids: Sequence[int], found: dict[int, bytes]) -> int:
    """How many of them, from the first on, a child could read."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _serve(writer, tgids)
    os.close(writer)
    try:
        return sum(1 for _ in _answers(reader, tgids, found))
    finally:
        os.close(reader)
        # One that not even this ends is left for init, rather than waited for.
        os.kill(child, signal.SIGKILL)
        _reap(child)


def _serve(writer: int, tgids: Sequence[int]) -> None:
    try:
        for tgid in tgids:
            argv = _read(f"/proc/{tgid}/cmdline", ARGV_MAX_BYTES + 1) or b""
            message = _LENGTH.pack(len(argv)) + argv
            while message:
                message = message[os.write(writer, message) :]
    finally:
        os._exit(0)


def _answers(reader: int, tgids: Sequence[int], found: dict[int, bytes]) -> Iterator[None]:
    for tgid in tgids:
        head = _receive(reader, _LENGTH.size)
        if head is None:
            return
        argv = _receive(reader, _LENGTH.unpack(head)[0])
        if argv is None:
            return
        found[tgid] = argv
        yield


def _receive(reader: int, size: int) -> bytes | None:
    content = b""
    end = time.monotonic() + PATIENCE_S
    while len(content) < size:
        ready, _, _ = select.select([reader], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(reader, size - len(content)) if ready else b""
        if not chunk:
            return None
        content += chunk
    return content


def _reap(child: int) -> None:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.001)


def _uids(tgid: int) -> tuple[int, int]:
    for line in (_read(f"/proc/{tgid}/status", SMALL_MAX_BYTES) or b"").split(b"\n"):
        if line.startswith(b"Uid:"):
            fields = line.split()
            return int(fields[1]), int(fields[2])
    return 0, 0


def _lines(path: str) -> list[bytes]:
    content = _read(path, 4 * 1024 * 1024)
    return content.split(b"\n") if content else []


def _read(path: str, most: int) -> bytes | None:
    """At most `most` bytes; None where the process is gone or the file is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        content = b""
        while len(content) < most and (chunk := os.read(fd, most - len(content))):
            content += chunk
        return content
    except OSError:
        return None
    finally:
        os.close(fd)
