"""The event log's files as the core hands them to the api: descriptors to read from, one after the other.

The log is root's alone, and the api is nobody: it follows the log by itself, at no cost to the core, and
asks for the next file where the one it reads goes no further.
"""

from __future__ import annotations

import os

from sensor.export.reader import files


def following(path: str, device: int, inode: int) -> int | None:
    """A descriptor of the file that follows this one, of the current one where this one is not among them, or None
    where this is the current one. Closed by the caller. Raises OSError."""
    newer: str | None = None
    for name in files(path):
        try:
            found = os.stat(name, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if (found.st_dev, found.st_ino) == (device, inode):
            return None if newer is None else _open(newer)
        newer = name if inode else newer or name
    # None of these: the first question, or so far behind that its file is gone; then the oldest is the next.
    return None if newer is None else _open(newer)


def _open(name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
