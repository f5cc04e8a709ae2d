"""Kills all of a sandbox: its cgroup with everything nested in it, and members that left the cgroup."""

from __future__ import annotations

import errno

from msgspec import Struct

from sensor.respond import procfs
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.freezer import Freezer
from sensor.respond.kill import Gone, Killer
from sensor.respond.nevertouch import NeverTouch, Refusal
from sensor.respond.table import Host, Identity, identity

ROUNDS = 32  # of listing and killing, where the kernel cannot do it in one write

# No cgroup.kill before 5.14; a threaded cgroup refuses it, and a sandbox that is root can make itself one.
_NO_KILL_FILE = frozenset({errno.ENOENT, errno.EACCES, errno.EOPNOTSUPP})


class Killed(Struct, frozen=True):
    tgids: tuple[int, ...]
    complete: bool = True  # False: after ROUNDS something still lived


class SandboxKiller:
    def __init__(self, host: Host, guard: NeverTouch, killer: Killer) -> None:
        self._table = host.table
        self._path = host.path
        self._guard = guard
        self._killer = killer
        self._mount = host.cgroup_mount
        self._freezer = Freezer(host.cgroup_mount, host.state)

    def kill(self, sandbox_id: int) -> Killed | Refusal:
        """:raises Gone: nothing of it is left.
        :raises OSError: the kernel refused."""
        path = self._path(sandbox_id)
        if path is None:
            return self._strays(sandbox_id, set())
        try:
            directory = CgroupDirectory(self._mount, path, sandbox_id)
        except (FileNotFoundError, NotADirectoryError):
            return self._strays(sandbox_id, set())
        with directory:
            before = directory.processes()
            refusal = self._guard.sandbox(path, before)
            if refusal is not None:
                return refusal
            complete = self._kill_directory(directory, path, sandbox_id) if before or directory.populated() else True
        strays = self._strays(sandbox_id, set(before))
        return Killed((*before, *strays.tgids), complete and strays.complete)

    def _kill_directory(self, directory: CgroupDirectory, path: str, sandbox_id: int) -> bool:
        try:
            directory.write("cgroup.kill", b"1")
        except OSError as error:
            if error.errno == errno.ENODEV:
                return True
            if error.errno not in _NO_KILL_FILE:
                raise
            return self.kill_each(directory, path, sandbox_id)
        return True

    def kill_each(self, directory: CgroupDirectory, path: str, sandbox_id: int) -> bool:
        """Freeze, kill each, thaw; again while something is new. False: ROUNDS were not enough.

        A frozen process dies of SIGKILL without being thawed, and cannot fork before.
        """
        signalled: set[Identity] = set()
        for _ in range(ROUNDS):
            with self._freezer.hold(directory, path, sandbox_id):
                fresh = [target for target in _living(directory.processes()) if target not in signalled]
                self._kill_all(fresh, sandbox_id)
            if not fresh:
                return True
            signalled.update(fresh)
        return False

    def _strays(self, sandbox_id: int, done: set[int]) -> Killed:
        """Members that were moved out of the cgroup: still of the sandbox, by birth."""
        targets = [identity(known) for known in self._table.in_sandbox(sandbox_id) if known.tgid not in done]
        killed = self._kill_all(targets, sandbox_id)
        if not killed and not done:
            raise Gone
        return Killed(tuple(killed))

    def _kill_all(self, targets: list[Identity], sandbox_id: int) -> list[int]:
        killed: list[int] = []
        for target in targets:
            try:
                if self._killer.alone(target, sandbox_id) is None:
                    killed.append(target.tgid)
            except Gone:
                continue
        return killed


def _living(tgids: list[int]) -> list[Identity]:
    found: list[Identity] = []
    for tgid in tgids:
        stat = procfs.stat(tgid)
        if stat is not None and not stat.gone:
            found.append(Identity(tgid, stat.start_ticks))
    return found
