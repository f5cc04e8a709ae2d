"""A small JSON file in the state folder, replaced as a whole: who reads it sees the old one or the new one.

Against crashes of the process, not of the machine: nothing is synced, so that the core never waits for a disk.
"""

from __future__ import annotations

import os
import stat
import time

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class StateFile:
    """`state` is the folder paths.state; `most`: bytes."""

    def __init__(self, state: str, name: str, most: int = 4 * 1024 * 1024) -> None:
        self._folder, self._name, self._most = state, name, most

    @property
    def path(self) -> str:
        return os.path.join(self._folder, self._name)

    def read(self) -> bytes | None:
        """None where there is none.

        :raises OSError: it cannot be read, is a symbolic link, or is no regular file of ours.
        :raises ValueError: it is longer than any that was written.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
                raise PermissionError(1, "not a regular file that only its owner may write", self.path)
            content = file.read(self._most + 1)
        if len(content) > self._most:
            raise ValueError("it is too long")
        return content

    def write(self, content: bytes) -> None:
        """:raises OSError: the old one stays."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        folder = os.open(self._folder, _DIRECTORY)
        try:
            temporary = f".{self._name}.new"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(content)
            os.replace(temporary, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def put_aside(self) -> str:
        """Out of the way, for somebody to look at. The path that it has then.

        :raises OSError: it stays where it is.
        """
        aside = f"{self.path}.damaged-{time.time_ns()}"
        os.rename(self.path, aside)
        return aside
