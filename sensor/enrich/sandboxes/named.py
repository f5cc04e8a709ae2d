"""What a runtime's file says about a sandbox, and how such files are read."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from sensor.enrich.text import clean_name

FILE_MAX_BYTES = 1024 * 1024
LABELS_MAX = 32
CONTAINER_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)

T = TypeVar("T")


class Named(Struct, frozen=True, gc=False):
    """`certain`: the runtime's own file said so; otherwise the name is made from the path."""

    runtime: str  # as SandboxChange.Runtime has it
    name: str
    certain: bool
    labels: dict[str, str]


def named(runtime: str, name: str, labels: Mapping[str, object] | None = None) -> Named:
    """A name from a runtime's file, made fit to print. Who starts a container chooses its labels."""
    kept = {}
    for key, value in list((labels or {}).items())[:LABELS_MAX]:
        if isinstance(value, str):
            kept[clean_name(key)] = clean_name(value)
    return Named(runtime, clean_name(name), True, kept)


def guessed(runtime: str, name: str) -> Named:
    return Named(runtime, clean_name(name), False, {})


class HostFiles:
    """Reads what runtimes leave on the host: bounded, regular files of the host's root, never through
    a link as the last component. `root` and `owner` are for tests."""

    def __init__(self, root: str = "/", owner: int = 0, counters: Counter[str] | None = None) -> None:
        self._root = root.rstrip("/")
        self._owner = owner
        self.counters: Counter[str] = Counter() if counters is None else counters

    def read(self, path: str) -> bytes | None:
        """`path` is absolute. None where it is absent, or not what a runtime would have written."""
        try:
            # Non-blocking: a FIFO put there must not stop the sensor.
            fd = os.open(self._root + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:
            self.counters["runtime_file_unreadable"] += 1
            return None
        try:
            return self._read(fd)
        except OSError:
            self.counters["runtime_file_unreadable"] += 1
            return None
        finally:
            os.close(fd)

    def decode(self, path: str, shape: type[T]) -> T | None:
        """JSON of a known shape; what does not fit it is counted and treated as absent."""
        content = self.read(path)
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=shape)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self.counters["runtime_file_malformed"] += 1
            return None

    def children(self, path: str, most: int) -> list[str]:
        """Names of the folders in a folder of the host, at most `most`."""
        try:
            with os.scandir(path) as entries:
                return [e.name for e, _ in zip(entries, range(most), strict=False) if e.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def _read(self, fd: int) -> bytes | None:
        status = os.fstat(fd)
        trusted = status.st_uid == self._owner and not status.st_mode & 0o022
        if not stat.S_ISREG(status.st_mode) or not trusted:
            self.counters["runtime_file_untrusted"] += 1
            return None
        content = bytearray()
        while len(content) <= FILE_MAX_BYTES and (chunk := os.read(fd, FILE_MAX_BYTES + 1 - len(content))):
            content += chunk
        if len(content) > FILE_MAX_BYTES:
            self.counters["runtime_file_too_long"] += 1
            return None
        return bytes(content)


def container_id(component: str, prefix: str = "", suffix: str = "") -> str | None:
    """The 64 hexadecimal digits of `<prefix><id><suffix>`, or None. Nothing else goes into a path."""
    if not (component.startswith(prefix) and component.endswith(suffix)):
        return None
    middle = component[len(prefix) : len(component) - len(suffix)]
    return middle if CONTAINER_ID.fullmatch(middle) else None
