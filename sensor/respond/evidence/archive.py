"""The archive: a tar whose every member is a gzip stream of its own, so that whatever lies before a known place
is a readable archive, and a manifest can be added to it by somebody else. (`tar xzf` and Python's `r:gz` read it;
Python's `r|gz` ends after the first stream.)

Names are ours alone (NAME). The first stream carries a comment that says whose sandbox it is: the quota is counted by
reading a hundred bytes of each archive.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import zlib
from contextlib import suppress

from sensor.respond.evidence.bounded import Record

SUFFIX = ".tar.gz"
TEMPORARY = ".part"
MANIFEST = "manifest.json"
NAME = re.compile(r"(?:manifest|facts|cgroup|sockets|executables)\.json|processes/\d{4}\.jsonl|files/\d{4}\.bin")
MOST_ARCHIVES = 65536  # looked at for the quota
STALE_S = 3600  # no collection takes that long
_BLOCK = 512
_GZIP = struct.Struct("<4sIBB")
_COMMENT_FLAG = 0x10
_TRIED_BYTES = 64 << 10


class RefusedError(Exception):
    """The folder or a name in it is not what it must be."""


def open_folder(path: str) -> int:
    """Made 0700 where it is missing.

    :raises RefusedError, OSError:
    """
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as why:
        raise RefusedError("the evidence folder is a symbolic link or no folder") from why
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        os.close(fd)
        raise RefusedError("the evidence folder belongs to somebody else")
    if found.st_mode & 0o077:
        os.fchmod(fd, 0o700)
    return fd


def exists(folder: int, name: str) -> bool:
    """:raises RefusedError: something that is no file has its name."""
    try:
        found = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"{name} in the evidence folder is no file")
    return True


def create(folder: int, name: str) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)


def publish(folder: int, fd: int, temporary: str, name: str) -> int:
    """Its size, once it is on the disk under its own name."""
    os.fchmod(fd, 0o600)
    os.fsync(fd)
    exists(folder, name)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
    return os.fstat(fd).st_size


def owner(sandbox_id: int, boot_id: str) -> str:
    """A cgroup's id is given anew after a boot."""
    return f"pinfold evidence of cgroup {sandbox_id} in boot {boot_id}"


def used(folder: int, whose: str) -> int:
    """Bytes of the archives of this sandbox."""
    total = 0
    with os.scandir(folder) as entries:
        for _, entry in zip(range(MOST_ARCHIVES), entries, strict=False):
            if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                total += _size_if(folder, entry.name, whose.encode())
    return total


def _size_if(folder: int, name: str, whose: bytes) -> int:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return 0
    try:
        head = os.read(fd, 256)
        return os.fstat(fd).st_size if head[_GZIP.size :].startswith(whose + b"\0") else 0
    finally:
        os.close(fd)


def sweep(folder: int, quarantine_id: str, now_s: float) -> None:
    """Removes what collections left that were killed with their core: all of this quarantine, old ones of others."""
    with os.scandir(folder) as entries:
        names = [entry.name for _, entry in zip(range(MOST_ARCHIVES), entries, strict=False)]
    for name in names:
        if name.endswith(TEMPORARY) and name.startswith("."):
            own = name.startswith(f".{quarantine_id}{SUFFIX}.")
            if own or os.lstat(name, dir_fd=folder).st_mtime < now_s - STALE_S:
                os.unlink(name, dir_fd=folder)


class Writer:
    """`end`: up to there the file is whole members."""

    def __init__(self, fd: int, comment: str = "", end: int = 0) -> None:
        self.members: list[Record] = []
        self.end = end
        self._fd = fd
        self._comment = comment

    def add(self, name: str, content: bytes, what: str, **more: object) -> Record:
        """:raises OSError: nothing of it is in the archive then."""
        member: Record = {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        member |= {"what": what, **more}
        self._write(_stream([_header(name, len(content)), content, bytes(-len(content) % _BLOCK)], self._comment))
        self._comment = ""
        self.members.append(member)
        return member

    def finish(self, manifest: Record) -> None:
        content = encoded(manifest)
        tail = bytes(-len(content) % _BLOCK + 2 * _BLOCK)
        self._write(_stream([_header(MANIFEST, len(content)), content, tail], self._comment))

    def _write(self, data: bytes) -> None:
        view, at = memoryview(data), self.end
        try:
            while view:
                done = os.pwrite(self._fd, view, at)
                view, at = view[done:], at + done
        except OSError:
            os.ftruncate(self._fd, self.end)
            raise
        self.end = at


def encoded(record: Record | list[Record]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _header(name: str, size: int) -> bytes:
    """ustar, of nobody's and no time: what matters is in the manifest."""
    assert NAME.fullmatch(name)
    fields = struct.pack(
        "100s8s8s8s12s12s8sc100s8s32s32s8s8s167x",
        *(name.encode(), b"0000600", b"0000000", b"0000000", b"%011o" % size, b"%011o" % 0, b" " * 8, b"0"),
        *(b"", b"ustar\x0000", b"root", b"root", b"0000000", b"0000000"),
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _stream(parts: list[bytes], comment: str) -> bytes:
    """Level 1, or stored where a try says that it does not shrink: what is random takes half a second for 16 MiB."""
    sample = parts[1][:_TRIED_BYTES]
    level = 1 if len(zlib.compress(sample, 1)) < len(sample) * 0.9 or len(sample) < _BLOCK else 0
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    out = [_GZIP.pack(b"\x1f\x8b\x08" + bytes([_COMMENT_FLAG if comment else 0]), 0, 4, 255)]
    if comment:
        out.append(comment.encode() + b"\0")
    crc = size = 0
    for part in parts:
        out.append(packer.compress(part))
        crc, size = zlib.crc32(part, crc), size + len(part)
    out += [packer.flush(), struct.pack("<II", crc, size & 0xFFFFFFFF)]
    return b"".join(out)
