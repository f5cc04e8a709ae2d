"""Follows the event log through descriptors that the core hands over: the api may not open it."""

from __future__ import annotations

import os

_CHUNK_BYTES = 256 * 1024
_LINE_BYTES = 4 * 1024 * 1024  # longer than any line of the log: what exceeds it is damage, and passed over


class Tail:
    """One file of the log, by full lines: a torn one that the writer takes back was never seen.

    :param fd: this object's own from here on.
    """

    def __init__(self, fd: int, from_end: bool) -> None:
        self._fd = fd
        self._at = 0
        found = os.fstat(fd)
        self.identity = (found.st_dev, found.st_ino)
        if from_end:
            tail = min(found.st_size, _CHUNK_BYTES)
            last = os.pread(fd, tail, found.st_size - tail).rfind(b"\n") + 1
            self._at = found.st_size - tail + last if last or tail == found.st_size else found.st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def behind(self) -> int:
        """Bytes that are still to be read."""
        return max(0, os.fstat(self._fd).st_size - self._at)

    def chunk(self) -> bytes:
        """The next full lines, or nothing as yet. Raises OSError."""
        size = _CHUNK_BYTES
        while True:
            read = os.pread(self._fd, size, self._at)
            end = read.rfind(b"\n") + 1
            if end or len(read) < size or size >= _LINE_BYTES:
                break
            size *= 4
        self._at += end or (len(read) if len(read) >= _LINE_BYTES else 0)
        return read[:end]
