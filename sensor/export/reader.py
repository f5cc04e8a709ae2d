"""Reading the log: backwards over its rotated files, or along with its writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

_CHUNK_BYTES = 256 * 1024
LINE_BYTES = 4 * 1024 * 1024  # longer than any line of ours: what exceeds it is damage, and passed over


def files(path: str) -> list[str]:
    """The log's files, newest first. A crash amid a rotation can leave a gap in the numbers."""
    folder, name = os.path.split(path)
    try:
        entries = os.listdir(folder or ".")
    except FileNotFoundError:
        return []
    suffixes = (entry.removeprefix(f"{name}.") for entry in entries if entry.startswith(f"{name}."))
    numbers = sorted(int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdigit() and len(suffix) < 6)
    current = [path] if name in entries else []
    return current + [f"{path}.{number}" for number in numbers]


def backwards(path: str) -> Iterator[bytes]:
    """All full lines, without their newlines, newest first. Raises OSError."""
    with ExitStack() as stack:
        descriptors: dict[int, int] = {}  # by inode: a rotation in between would show a file twice
        for name in files(path):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            stack.callback(os.close, fd)
            descriptors.setdefault(os.fstat(fd).st_ino, fd)
        for fd in descriptors.values():
            yield from _backwards(fd)


def _backwards(fd: int) -> Iterator[bytes]:
    at = os.fstat(fd).st_size
    rest = b""  # the head of what was read: the tail of a line whose beginning is not read yet
    torn = True  # what stands behind the last newline is no full line
    while at > 0:
        start = max(0, at - _CHUNK_BYTES)
        lines = (os.pread(fd, at - start, start) + rest).split(b"\n")
        at, rest = start, lines[0]
        for line in reversed(lines[1:]):
            if torn:
                torn = False
            else:
                yield line
        if len(rest) > LINE_BYTES:
            rest, torn = b"", True
    if not torn:
        yield rest


def latest_with(path: str, mark: bytes, most_bytes: int) -> Iterator[bytes]:
    """Full lines that hold `mark`, newest first, of at most so many bytes of the log's end: where a lot of lines are of
    no interest, it is much cheaper than to take them apart. Raises OSError."""
    for name in files(path):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            size = os.fstat(fd).st_size
            data = os.pread(fd, most_bytes, max(0, size - most_bytes))
        finally:
            os.close(fd)
        end = data.rfind(b"\n") + 1
        while (at := data.rfind(mark, 0, end)) >= 0:
            end = data.rfind(b"\n", 0, at) + 1
            if not end and size > most_bytes:
                return  # a line whose beginning was not read
            yield data[end : data.index(b"\n", at)]
        most_bytes -= size
        if most_bytes <= 0:
            return


class Follower:
    """Reads what the writer appends, over rotations. It moves on by full lines only, so that a torn
    line that the writer takes back was never seen."""

    def __init__(self, path: str, from_end: bool = True) -> None:
        self._path = path
        self._fd = -1
        self._at = 0
        self._open(path)
        if from_end and self._fd >= 0:
            self.skip()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> list[bytes]:
        """The next lines, or none as yet. Raises OSError."""
        if self._fd < 0:
            self._open(self._path)
            if self._fd < 0:
                return []
        lines = self._read()
        if not lines and (newer := self._newer()) is not None:
            lines = self._read()  # what came between the reading and the rotation
            if not lines and self._open(*newer):
                lines = self._read()
        return lines

    def behind(self) -> int:
        """Bytes of this file that are still to be read."""
        return max(0, os.fstat(self._fd).st_size - self._at) if self._fd >= 0 else 0

    def skip(self) -> int:
        """To the last full line's end; returns how many bytes were passed over."""
        passed = 0
        size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        tail = min(size - self._at, _CHUNK_BYTES)
        if tail > 0:
            end = size - tail + os.pread(self._fd, tail, size - tail).rfind(b"\n") + 1
            passed = max(0, end - self._at)
            self._at += passed
        return passed

    def _read(self) -> list[bytes]:
        size = _CHUNK_BYTES
        while True:
            chunk = os.pread(self._fd, size, self._at)
            end = chunk.rfind(b"\n") + 1
            if end or len(chunk) < size or size >= LINE_BYTES:
                break
            size *= 4
        if not end and len(chunk) >= LINE_BYTES:
            self._at += len(chunk)
        self._at += end
        return chunk[:end].split(b"\n")[:-1]

    def _newer(self) -> tuple[str, int] | None:
        """Name and inode of the file after this one, if this one was rotated away or removed."""
        mine = os.fstat(self._fd)
        newer = None
        for name in files(self._path):
            try:
                other = os.stat(name, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if other.st_ino == mine.st_ino or (mine.st_nlink == 0 and other.st_mtime_ns < mine.st_mtime_ns):
                break
            newer = name, other.st_ino
        return newer

    def _open(self, path: str, inode: int = 0) -> bool:
        """False where it is not there, or where another rotation has given its name to another file by now: then the
        one before is kept, and the next look finds the right one."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        if inode and os.fstat(fd).st_ino != inode:
            os.close(fd)
            return False
        self.close()
        self._fd, self._at = fd, 0
        return True
