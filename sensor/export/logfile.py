"""The log's file: full lines only, rotated by size.

One writer. A line that a crash or a full disk cut short is taken back before the next is written,
so that no line is ever glued to the rest of another.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

_CHUNK_BYTES = 64 * 1024
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a fifo would block


class IncompleteWrite(Exception):
    """Of what was given, the file holds the first `kept` bytes: full lines. The cause is an OSError."""

    def __init__(self, kept: int) -> None:
        super().__init__(kept)
        self.kept = kept


class LogFile:
    """`path` and its rotated siblings `path.1` (the newest) to `path.<keep>`."""

    def __init__(self, path: str, max_bytes: int, keep: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd = -1
        self._cut_to = -1  # where the torn line begins that could not be taken back yet

    def open(self) -> int:
        """Opens or makes the file, and takes back a torn last line; returns its length in bytes.
        Raises OSError."""
        self.close()
        os.makedirs(os.path.dirname(self.path), mode=0o750, exist_ok=True)
        fd = os.open(self.path, _FLAGS, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.path)
            os.fchmod(fd, 0o600)
            size = os.fstat(fd).st_size
            end = _end_of_lines(fd, size)
            if end < size:
                os.ftruncate(fd, end)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._cut_to = fd, -1
        return size - end

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def rotation_due(self, more: int) -> bool:
        """Whether the file with `more` bytes would be too large. An empty file never is."""
        if self._fd < 0:
            return False
        size = os.fstat(self._fd).st_size
        return size > 0 and size + more > self._max_bytes

    def rotate(self) -> None:
        """Renames every file to the next number and opens a new one. Raises OSError; then the file
        stays in use, or is opened by the next `append`."""
        gap = next((n for n in range(1, self._keep) if not os.path.lexists(f"{self.path}.{n}")), self._keep)
        for number in range(gap, 1, -1):
            os.rename(f"{self.path}.{number - 1}", f"{self.path}.{number}")
        os.rename(self.path, f"{self.path}.1")
        self.open()

    def append(self, lines: bytes) -> None:
        """Writes full lines, with one system call unless the kernel takes less. Raises
        IncompleteWrite."""
        start = written = 0
        try:
            start = self._prepare()
            while written < len(lines):
                written += os.write(self._fd, lines[written:] if written else lines)
        except OSError as why:
            kept = lines.rfind(b"\n", 0, written) + 1
            if kept < written:
                self._cut_to = start + kept
                with suppress(OSError):  # tried again before the next write, and nothing is written until it works
                    self._take_back()
            raise IncompleteWrite(kept) from why

    def _prepare(self) -> int:
        if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
            self.close()  # somebody removed the file: what is written to it would be gone
        if self._fd < 0:
            self.open()
        if self._cut_to >= 0:
            self._take_back()
        return os.fstat(self._fd).st_size

    def _take_back(self) -> None:
        os.ftruncate(self._fd, self._cut_to)
        self._cut_to = -1


def _end_of_lines(fd: int, size: int) -> int:
    """The offset behind the last newline."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK_BYTES)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
