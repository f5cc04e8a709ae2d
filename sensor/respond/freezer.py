"""Holds a cgroup still while its processes are killed, and never longer than that.

A daemon that is killed in between would leave the cgroup frozen for ever, so each freeze has a file in
the state folder from before it begins until after it ended; the next start thaws what has one left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sensor.respond.cgroupfs import CgroupDirectory

PREFIX = "frozen-"  # then the cgroup's id; the file has its path


class Freezer:
    """:param state: the folder paths.state of the configuration; "" for none."""

    def __init__(self, cgroup_mount: str, state: str) -> None:
        self._mount = cgroup_mount
        self._state = state

    @contextmanager
    def hold(self, directory: CgroupDirectory, path: str, cgroup_id: int) -> Iterator[bool]:
        """True while it is frozen by us. False, and nothing is done: no freezer (before 5.2), frozen by
        somebody else, who then decides when it thaws, or no place for the file.

        :raises OSError: it cannot be thawed; then the file stays.
        """
        marker = os.path.join(self._state, f"{PREFIX}{cgroup_id}")
        if not self._state or directory.frozen() or not _write(marker, path):
            yield False
            return
        froze = directory.freeze()
        try:
            yield froze
        finally:
            if froze:
                directory.thaw()
            with suppress(FileNotFoundError):
                os.unlink(marker)

    def thaw_leftovers(self) -> list[str]:
        """For the daemon's start: the paths of cgroups that were frozen by one that was killed, thawed now.

        :raises OSError: one cannot be thawed.
        """
        thawed: list[str] = []
        try:
            names = os.listdir(self._state) if self._state else []
        except FileNotFoundError:
            return thawed
        for name in names:
            number = name.removeprefix(PREFIX)
            if name == number or not (number.isascii() and number.isdigit()):
                continue
            marker = os.path.join(self._state, name)
            with open(marker, encoding="utf-8", errors="surrogateescape") as file:
                path = file.read(1 << 16)
            try:
                with CgroupDirectory(self._mount, path, int(number)) as directory:
                    directory.thaw()
                thawed.append(path)
            except (FileNotFoundError, NotADirectoryError):
                pass  # removed since, or cut short by the crash, before anything was frozen
            os.unlink(marker)
        return thawed


def _write(marker: str, path: str) -> bool:
    try:
        fd = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, os.fsencode(path))
        finally:
            os.close(fd)
    except OSError:
        return False
    return True
