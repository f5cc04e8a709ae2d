"""One cgroup's directory, held by descriptor: what is done reaches that cgroup, not a later one of its name."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from sensor.respond import procfs

# A sandbox that delegates cgroups to itself may nest as many as it likes; a walk of them is bounded.
MOST_DIRECTORIES = 4096
MOST_PROCESSES = 65536
GONE = frozenset({errno.ENOENT, errno.ENODEV})  # of a file of a cgroup that is being or was removed
_READ_BYTES = 1 << 16
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CgroupDirectory:
    """A context manager. On cgroup2 a directory's inode number is the cgroup's id (since 5.5), which
    tells a cgroup from another that was made under the same name.

    :raises FileNotFoundError: it is gone, or another cgroup has its name.
    """

    def __init__(self, mount: str, path: str, cgroup_id: int) -> None:
        self._fd = os.open(mount.rstrip("/") + path, _DIRECTORY)
        if os.fstat(self._fd).st_ino != cgroup_id:
            os.close(self._fd)
            raise FileNotFoundError("another cgroup has its name")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    def write(self, name: str, value: bytes) -> None:
        """:raises OSError: the kernel's own; ENOENT where it has no such file, ENODEV where the cgroup died."""
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes:
        """:raises OSError: the kernel's own."""
        return _read(self._fd, name)

    def populated(self) -> bool:
        return b"populated 1" in self.read("cgroup.events")

    def frozen(self) -> bool:
        """Whether somebody asked for it. False also where there is no freezer (before 5.2)."""
        try:
            return self.read("cgroup.freeze").strip() != b"0"
        except OSError:
            return False

    def freeze(self) -> bool:
        """Asks for it and does not wait. False: there is no freezer, or the cgroup is gone."""
        try:
            self.write("cgroup.freeze", b"1")
        except OSError:
            return False
        return True

    def thaw(self) -> None:
        """:raises OSError: it stays frozen. A cgroup that was removed meanwhile is no error."""
        try:
            self.write("cgroup.freeze", b"0")
        except OSError as error:
            if error.errno not in GONE:
                raise

    def processes(self) -> list[int]:
        """Tgids here and below, breadth first, each once, bounded. 0 (not in our pid namespace) is left out."""
        found: dict[int, None] = {}
        for fd in self._subtree():
            for tgid in _processes(fd):
                found[tgid] = None
            if len(found) >= MOST_PROCESSES:
                break
        found.pop(0, None)
        return list(found)

    def _subtree(self) -> Iterator[int]:
        queue: deque[str] = deque([""])
        opened = 0
        while queue and opened < MOST_DIRECTORIES:
            below = queue.popleft()
            try:
                fd = os.open("./" + below, _DIRECTORY, dir_fd=self._fd)
            except OSError:
                continue  # removed meanwhile, hence empty
            opened += 1
            try:
                yield fd
                with os.scandir(fd) as entries:
                    queue.extend(below + entry.name + "/" for entry in entries if entry.is_dir(follow_symlinks=False))
            finally:
                os.close(fd)


def _processes(fd: int) -> list[int]:
    try:
        return list(map(int, _read(fd, "cgroup.procs").split()))
    except OSError:
        pass
    try:  # EOPNOTSUPP: a threaded cgroup lists threads only
        threads = map(int, _read(fd, "cgroup.threads").split())
    except OSError:
        return []  # ENODEV: removed meanwhile
    return [tgid for tid in threads if (tgid := procfs.thread_group(tid)) is not None]


def _read(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts: list[bytes] = []
        # A pid of seven digits and its newline: what MOST_PROCESSES of them take.
        while sum(map(len, parts)) < 8 * MOST_PROCESSES and (part := os.read(fd, _READ_BYTES)):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
