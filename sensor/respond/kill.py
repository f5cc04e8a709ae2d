"""Kills a process and what descends from it, without ever hitting a later process of the same number.

A pidfd pins whoever has the number now; only then are its start time, sandbox and standing read
from /proc. If the number changed hands in between, the readings differ from what is known, or they
are of another process and the pidfd's own is dead: either way the wrong one is never signalled.

The root goes first: it is what was detected, and the time to its SIGKILL is what counts. A process
is stopped before its children are read, so that it makes no more, and killed right after: no child
is reparented unseen. What still slips through (a clone under way, a tracer that swallows SIGSTOP, an
orphan of long ago) has a fork record in the ring, written before it first ran; hence `resume`, which
asks the process table again after the ring was drained. A tree that outgrows PLAIN is frozen with
its sandbox while the rest is killed: nothing forks in a frozen cgroup.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import deque

from msgspec import Struct

from sensor.errors import ActError
from sensor.respond import procfs
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.freezer import Freezer
from sensor.respond.nevertouch import NeverTouch, Refusal
from sensor.respond.table import Host, Identity, Known, identity, same

PLAIN = 256  # processes killed before the sandbox is frozen for the rest
AT_ONCE = 1024  # processes in one go, after which the ring is drained again
AT_ONCE_FROZEN = 8192  # while the sandbox stands still, which is to be once and short
MOST_THREADS = 256  # whose children are read before a process is killed
MOST_CHILDREN = 4096
LINEAGE_MAX = 128  # generations between two processes that are both in the table


class Gone(ActError):
    """The process ended, or its number is another's now. Never leaves this package."""

    def __init__(self, reason: str = "it had ended") -> None:
        super().__init__(reason)


class Tree(Struct):
    """A kill under way."""

    root: Identity
    sandbox_id: int
    waiting: deque[Identity]
    seen: set[Identity]  # killed, gone or refused: what descends from these belongs to the tree
    killed: list[int]  # tgids that were signalled, root first
    refused: Refusal | None = None  # the last descendant that may not be touched


class Killer:
    def __init__(self, host: Host, guard: NeverTouch) -> None:
        self._table = host.table
        self._path = host.path
        self._guard = guard
        self._mount = host.cgroup_mount
        self._freezer = Freezer(host.cgroup_mount, host.state)

    def started(self, tgid: int, start_ns: int, acted_ns: int) -> int:
        """Start time in ticks of whoever acted at `acted_ns` (CLOCK_MONOTONIC), 0 where it is gone.

        `start_ns` (CLOCK_BOOTTIME) is its record's; 0 where the record was lost. Then whoever has the
        number now is it, if it was alive at that time: a later holder of the number was not.
        """
        if start_ns:
            return procfs.ticks(start_ns)
        stat = procfs.stat(tgid)
        asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
        return stat.start_ticks if stat is not None and stat.start_ticks <= procfs.ticks(acted_ns + asleep_ns) else 0

    def start(self, root: Identity, sandbox_id: int) -> Tree | Refusal:
        """Kills the root and queues its children; `resume` kills those and whatever else descends from it.

        :raises Gone: it is dead, or was killed before its number was used again.
        :raises OSError: the kernel refused the signal.
        """
        tree = Tree(root, sandbox_id, deque(), set(), [])
        refusal = self._kill(tree, root)
        return tree if refusal is None else refusal

    def below(self, root: Identity, sandbox_id: int) -> Tree:
        """What descends from a process that is gone: it may have forked before it ended, which its records, perhaps
        still unread, tell. For `resume`."""
        return Tree(root, sandbox_id, deque(), {root}, [])

    def resume(self, tree: Tree) -> bool:
        """Kills on, a bounded number of processes; True once no living descendant is known.

        :raises OSError: the kernel refused a signal or the freezer.
        """
        self._enqueue(tree)
        if len(tree.killed) + len(tree.waiting) <= PLAIN:
            self._drain(tree, AT_ONCE)
        if tree.waiting:
            self._drain_frozen(tree)
        return not tree.waiting

    def alone(self, target: Identity, sandbox_id: int) -> Refusal | None:
        """Kills one process of the sandbox, and nothing below it.

        :raises Gone: it is dead already.
        :raises OSError: the kernel refused the signal.
        """
        return self._kill(None, target, sandbox_id)

    def _enqueue(self, tree: Tree) -> None:
        """What the records tell: also orphans of parents that died long ago."""
        queued = set(tree.waiting)
        for process in self._table.in_sandbox(tree.sandbox_id):
            target = identity(process)
            if target not in tree.seen and target not in queued and _descends(process, tree):
                tree.waiting.append(target)

    def _drain(self, tree: Tree, most: int) -> None:
        for _ in range(most):
            if not tree.waiting:
                return
            target = tree.waiting.popleft()
            if target in tree.seen:
                continue
            try:
                tree.refused = self._kill(tree, target) or tree.refused
            except Gone:
                tree.seen.add(target)

    def _drain_frozen(self, tree: Tree) -> None:
        path = self._path(tree.sandbox_id)
        try:
            directory = CgroupDirectory(self._mount, path, tree.sandbox_id) if path is not None else None
        except OSError:  # removed: then nothing runs in it
            directory = None
        if directory is None or path is None:
            self._drain(tree, AT_ONCE)
            return
        with directory:
            if self._guard.sandbox(path, directory.processes()) is not None:
                self._drain(tree, AT_ONCE)
                return
            with self._freezer.hold(directory, path, tree.sandbox_id) as froze:
                self._drain(tree, AT_ONCE_FROZEN if froze else AT_ONCE)

    def _kill(self, tree: Tree | None, target: Identity, sandbox_id: int = 0) -> Refusal | None:
        sandbox_id = tree.sandbox_id if tree is not None else sandbox_id
        try:
            pidfd = os.pidfd_open(target.tgid)
        except OSError as error:
            if error.errno not in {errno.ESRCH, errno.EINVAL, errno.ENOENT}:
                raise
            raise Gone from error  # EINVAL, ENOENT: the number is a thread's now
        try:
            refusal = self._refusal(target, sandbox_id)
            if tree is not None:
                tree.seen.add(target)
            if refusal is not None:
                return refusal
            if tree is not None:
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                tree.waiting.extend(self._children(target, sandbox_id))
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError as error:
            raise Gone from error
        finally:
            os.close(pidfd)
        if tree is not None:
            tree.killed.append(target.tgid)
        return None

    def _refusal(self, target: Identity, sandbox_id: int) -> Refusal | None:
        stat = procfs.stat(target.tgid)
        if stat is None or stat.gone or stat.start_ticks != target.start_ticks:
            raise Gone
        known = same(self._table.get(target.tgid), target)
        if not self._belongs(target.tgid, known, sandbox_id):
            return Refusal("a process outside the sandbox")
        return self._guard.process(target, stat, known)

    def _belongs(self, tgid: int, known: Known | None, sandbox_id: int) -> bool:
        """By birth or entry, or by its cgroup now: leaving the cgroup does not leave the sandbox."""
        if sandbox_id and known is not None and known.sandbox_id == sandbox_id:
            return True
        path = self._path(sandbox_id)
        if path is None or path == "/":
            return False
        home = procfs.cgroup(tgid)
        return home is not None and procfs.within(home, path)

    def _children(self, parent: Identity, sandbox_id: int) -> list[Identity]:
        """Verified while the parent is stopped: a number that names another by now has another parent."""
        found: list[Identity] = []
        for tgid in procfs.children(parent.tgid, MOST_THREADS, MOST_CHILDREN):
            stat = procfs.stat(tgid)
            if stat is None or stat.gone or stat.parent_tgid != parent.tgid:
                continue
            child = Identity(tgid, stat.start_ticks)
            # One that left the sandbox's cgroup is the table's to claim, once its fork record is read.
            if self._belongs(tgid, same(self._table.get(tgid), child), sandbox_id):
                found.append(child)
        return found


def _descends(process: Known, tree: Tree) -> bool:
    above = process.parent
    for _ in range(LINEAGE_MAX):
        if above is None or above.sandbox_id != tree.sandbox_id:
            return False
        if identity(above) in tree.seen:
            return True
        above = above.parent
    return False
