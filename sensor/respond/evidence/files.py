"""Hashes of the executables, and copies of what no path leads to any more: deleted executables, memfds. Of the child.

A file is opened for reading only when it is known to be a regular one (opening a device may act on it, a FIFO waits),
without blocking, by a thread that can be left behind: its file system may be the sandbox's own.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from sensor.respond.evidence.archive import Writer
from sensor.respond.evidence.bounded import LIMITS, Notes, Record, put
from sensor.respond.evidence.memory import Mapping
from sensor.respond.evidence.processes import Process
from sensor.respond.evidence.worker import StalledError, Worker

PATIENCE_S = 2.0
MEMFD = "a memfd"
_CHUNK = 1 << 20
_MEMORY = frozenset([0x01021994, 0x958458F6])  # TMPFS_MAGIC, HUGETLBFS_MAGIC: where memfds are
_libc = ctypes.CDLL(None, use_errno=True)
Key = tuple[int, int]  # device, inode
T = TypeVar("T")


class NotReadError(Exception):
    """Why, in words of ours."""


class GoneError(Exception):
    """Its process ended, or closed it: nothing is lost that the rest of the archive could be missing."""


class _StatFs(ctypes.Structure):
    """struct statfs; 120 bytes on 64-bit architectures, of which the type comes first."""

    _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_uint8 * 248))


class Copied:
    """The thread fills it, and what it holds when time is up counts. `extents`: where each piece of it was, since
    holes are left out."""

    def __init__(self) -> None:
        self.key: Key = (0, 0)
        self.size = 0
        self.links = 0
        self.parts: list[bytes] = []
        self.extents: list[list[int]] = []
        self.cut = False


class Files:
    """`until`: of time.monotonic, when it has to end. `room`: bytes that may be copied altogether."""

    def __init__(self, worker: Worker, notes: Notes, until: float, most: int, room: int) -> None:
        self._worker = worker
        self._notes = notes
        self._until = until
        self._most = most
        self._room = room
        self._seen: dict[Key, str] = {}
        self._tried = 0
        self.copied = 0
        self.bytes = 0

    def hashes(self, processes: list[Process]) -> list[Record]:
        found: dict[Key, Record] = {}
        refused: dict[str, int] = {}
        for process in processes:
            if not process.exe:
                continue  # a kernel thread, or dead
            try:
                key = self._do(partial(_key, process.path + "/exe"))
                if key not in found and len(found) < LIMITS["executables"]:
                    found[key] = self._hash(process, key)
            except NotReadError as why:
                refused[str(why)] = refused.get(str(why), 0) + 1
            except GoneError:
                self._notes.cut("some processes ended while they were looked at")
            else:
                process.record["exe_id"] = _name(key)
        for reason, count in refused.items():
            self._notes.lost(f"executables of {count} processes were not hashed: {reason}")
        return list(found.values())

    def _hash(self, process: Process, key: Key) -> Record:
        record: Record = {"id": _name(key)}
        put(record, "path", process.exe)
        try:
            record |= self._do(lambda: _hashed(process.path + "/exe", key, self._until))
        except NotReadError as why:
            record["error"] = str(why)
            self._notes.lost(f"an executable was not hashed: {why}")
        except GoneError:
            record["error"] = "its process ended meanwhile"
        return record

    def copy(self, processes: list[Process], mapped: dict[int, list[Mapping]], writer: Writer) -> Iterator[Record]:
        """Adds each file to the archive as it comes. Executables first: decoys cannot use up their room."""
        if self._room <= 0:
            self._notes.cut("no file was copied: older archives of the sandbox, or the disk, leave no room")
            return
        for process in processes:
            if process.exe.endswith(b" (deleted)"):
                yield from self._one(process, f"{process.path}/exe", "a deleted executable", process.exe, writer)
        for process in processes:
            maps = f"/proc/self/fd/{process.folder}/map_files"
            for each in mapped.get(process.tgid, []):
                yield from self._one(process, f"{maps}/{each.where}", "deleted code", each.path, writer)
        for process in processes:
            for at, target in process.descriptors:
                if target.startswith(b"/memfd:"):
                    yield from self._one(process, at, MEMFD, target, writer)

    def _one(self, process: Process, at: str, what: str, path: bytes, writer: Writer) -> Iterator[Record]:
        if self._tried >= LIMITS["files"]:
            self._notes.cut(f"files beyond {LIMITS['files']} were not copied")
            return
        copied = Copied()
        most = min(self._most, self._room)
        error = ""
        try:
            self._do(lambda: _copy(at, what == MEMFD, set(self._seen), most, copied))
        except NotReadError as why:
            error = str(why)
        except GoneError:
            self._notes.cut("some files were closed while they were looked at")
            return
        if copied.key in self._seen:
            return
        self._tried += 1
        content = b"".join(list(copied.parts))
        if error:
            self._notes.lost(f"{what} was not copied{' whole' if content else ''}: {error}")
        if not content and error:
            return
        if copied.cut:
            self._notes.cut("of some files only the beginning was copied: evidence_file_bytes or no room")
        self._seen[copied.key] = name = f"files/{self.copied + 1:04}.bin"
        more: Record = {"of": process.tgid, "file_id": _name(copied.key), "file_size": copied.size}
        put(more, "original", path)
        more |= {"links": copied.links, "whole": not copied.cut and not error}
        if copied.extents != [[0, copied.size]]:
            more["extents"] = list(copied.extents)
        self._room -= len(content)
        self.bytes += len(content)
        self.copied += 1
        yield writer.add(name, content, what, **more)

    def _do(self, job: Callable[[], T]) -> T:
        left = self._until - time.monotonic()
        if left <= 0:
            raise NotReadError("no time was left")
        try:
            return self._worker.do(job, min(PATIENCE_S, left))
        except StalledError as why:
            raise NotReadError("it did not come in time: its file system makes it wait") from why
        except OSError as why:
            if why.errno in {errno.ENOENT, errno.ESRCH}:
                raise GoneError from why
            raise NotReadError(os.strerror(why.errno or 0)) from why


def _name(key: Key) -> str:
    return f"{os.major(key[0])}:{os.minor(key[0])}:{key[1]}"


def _key(path: str) -> Key:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _opened(path: str, memory: bool) -> int:
    """By a link of the kernel's /proc: no name of the sandbox is looked up."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise NotReadError("not a regular file")
        if memory and _file_system(found) not in _MEMORY:
            raise NotReadError("named like a memfd, and none")
        # Non-blocking: a lease of the sandbox on it would hold an open for 45 seconds.
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _file_system(fd: int) -> int:
    found = _StatFs()
    if _libc.fstatfs(fd, ctypes.byref(found)):
        raise OSError(ctypes.get_errno(), "fstatfs")
    return int(found.type) & 0xFFFFFFFF


def _hashed(path: str, key: Key, until: float) -> Record:
    fd = _opened(path, False)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != key:
            raise NotReadError("it executed something else meanwhile")
        digest, done = hashlib.sha256(), 0
        while done < LIMITS["hash_bytes"] and time.monotonic() < until and (part := os.read(fd, _CHUNK)):
            digest.update(part)
            done += len(part)
        record: Record = {"size": found.st_size, "mode": found.st_mode, "uid": found.st_uid, "links": found.st_nlink}
        record |= {"modified_ns": found.st_mtime_ns, "changed_ns": found.st_ctime_ns, "sha256": digest.hexdigest()}
        return record if done >= found.st_size else record | {"hashed_bytes": done}
    finally:
        os.close(fd)


def _copy(path: str, memory: bool, seen: set[Key], most: int, copied: Copied) -> None:
    fd = _opened(path, memory)
    try:
        found = os.fstat(fd)
        copied.key, copied.size, copied.links = (found.st_dev, found.st_ino), found.st_size, found.st_nlink
        if copied.key not in seen:
            _copy_extents(fd, most, copied)
    finally:
        os.close(fd)


def _copy_extents(fd: int, most: int, copied: Copied) -> None:
    """Data only: a hole of a terabyte costs nothing."""
    room, at = most, 0
    while True:
        try:
            begin, end = _extent(fd, at, copied.size)
        except OSError:  # ENXIO: no data from here on
            return
        if end <= begin:
            return
        if len(copied.extents) >= LIMITS["extents"] or room <= 0:
            copied.cut = True
            return
        extent = [begin, 0]
        at = begin
        while at < end and room > 0 and (part := os.pread(fd, min(_CHUNK, room, end - at), at)):
            if not extent[1]:
                copied.extents.append(extent)
            copied.parts.append(part)
            extent[1] += len(part)
            at, room = at + len(part), room - len(part)
        if at < end:
            copied.cut = True
            return


def _extent(fd: int, at: int, size: int) -> tuple[int, int]:
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
        return begin, os.lseek(fd, begin, os.SEEK_HOLE)
    except OSError as why:
        if at == 0 and why.errno == errno.EINVAL:  # its file system cannot tell
            return 0, size
        raise
