"""Reads with a bound, and text of a sandbox as JSON can hold it. Of the child: standard library only."""

from __future__ import annotations

import os
from base64 import b64encode
from typing import Any

# In the manifest as they are, so that who reads an archive knows what it cannot show.
LIMITS = {
    "processes": 4096,  # described; those beyond are counted
    "threads": 64,  # of a process
    "descriptors": 512,  # of a process
    "descriptors_all": 65536,
    "argv_bytes": 16384,
    "environment_bytes": 65536,
    "maps_bytes": 65536,
    "processes_bytes": 64 << 20,  # of all descriptions
    "namespaces": 64,  # of network
    "sockets": 16384,  # described
    "dump_sockets": 262144,  # looked at, in one namespace
    "net_file_bytes": 4 << 20,
    "cgroups": 1024,
    "cgroup_file_bytes": 8192,
    "cgroup_bytes": 4 << 20,
    "facts_bytes": 4 << 20,
    "executables": 1024,  # hashed
    "hash_bytes": 256 << 20,  # of one executable: a hash of more is one of its beginning
    "files": 1024,  # copied
    "extents": 4096,  # of a sparse file
    "stalls": 16,  # reads that did not come back, after which nothing more is asked of the sandbox's memory and files
    "notes": 256,
}
TEXT_BYTES = 4096
Record = dict[str, Any]


def read(path: str | bytes, most: int, dir_fd: int | None = None) -> bytes:
    """:raises OSError: the kernel's own."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        content = os.read(fd, most)
        # Files of the kernel answer a page at a time.
        while content and len(content) < most and (more := os.read(fd, most - len(content))):
            content += more
        return content
    finally:
        os.close(fd)


def try_read(path: str | bytes, most: int, dir_fd: int | None = None) -> bytes | None:
    try:
        return read(path, most, dir_fd)
    except OSError:
        return None


def link(name: str, dir_fd: int) -> bytes | None:
    """Where it points, as the kernel tells it: nothing of a file system is asked."""
    try:
        return os.fsencode(os.readlink(name, dir_fd=dir_fd))
    except OSError:
        return None


def put(record: Record, field: str, raw: bytes | None, most: int = TEXT_BYTES) -> None:
    """Bytes that are not UTF-8 stand beside the field, as in the log: JSON readers raise on lone surrogates."""
    if raw is None:
        record[field] = None
        return
    if len(raw) > most:
        record[field + "_bytes"] = len(raw)
        raw = raw[:most]
    try:
        record[field] = raw.decode()
    except UnicodeDecodeError:
        record[field] = raw.decode(errors="replace")
        record[field + "_b64"] = b64encode(raw).decode()


class Notes:
    """What is missing and why, in sentences of ours: never a byte of the sandbox."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.partial = False  # something was lost that no limit explains

    def cut(self, line: str) -> None:
        if len(self.lines) < LIMITS["notes"] and line not in self.lines:
            self.lines.append(line)

    def lost(self, line: str) -> None:
        self.partial = True
        self.cut(line)
