"""Whom the core let in, and how much each may ask. The api only cites numbers that are given here.

An admission lasts as long as its connection, by the api's word, and no longer than the process that
connected, by the kernel's: before anything is changed its peer is looked at again, since it may have
ended, or entered a sandbox, meanwhile.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from sensor.configcontrol import Control
from sensor.control import peers
from sensor.control.caller import BusyError, Caller, allowed, printable
from sensor.errors import DeniedError
from sensor.respond import procfs

MOST = 256  # the api has fewer places
READS_PER_S, READS_AT_ONCE = 100.0, 200.0  # of one uid that the api's memory does not answer
CHANGES_PER_S, CHANGES_AT_ONCE = 20.0, 50.0
_MOST_BUCKETS = 256
FOREIGN = "foreign"  # neither of the group nor named


class Admission(Struct):
    peer: peers.Peer
    caller: Caller


class Bucket:
    """`per_s` tokens a second, at most `most` saved up."""

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s = per_s
        self._most = most
        self._tokens = most
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Admissions:
    """:param group: gid of the socket's group.
    :param sandboxed: whether a process is of a sandbox; it tells the operator when one asks here.
    :param within: whether a cgroup is of a sandbox, so that all that is in it would be refused.
    """

    def __init__(self, control: Control, group: int, sandboxed: peers.Sandboxed, within: Callable[[str], bool]) -> None:
        self.control = control  # replaced whole by a reload: who is connected keeps what it was given until it asks
        self._group = group
        self._sandboxed = sandboxed
        self._within = within
        self._known: OrderedDict[int, Admission] = OrderedDict()
        self._last = 0
        self._buckets: OrderedDict[tuple[int, bool], Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, fd: int, control: bool) -> str:
        """Judges the connection `fd`, which stays the caller's. `ID UID LEVEL`; or, where it is to be closed,
        sandboxed (`sandboxed cgroup` where that goes for all of its cgroup), unverified or foreign. Who only
        asks for metrics gets the number 0."""
        try:
            with socket.socket(fileno=os.dup(fd)) as connection:
                if not stat.S_ISSOCK(os.fstat(fd).st_mode) or connection.family != socket.AF_UNIX:
                    return peers.UNVERIFIED
                peer = peers.of(connection)
        except OSError:
            return peers.UNVERIFIED
        if peer is None:
            return peers.UNVERIFIED
        why = peers.refusal(peer.tgid, peer.pidfd, self._sandboxed)
        caller = self._caller(peer)
        if not why and control and not caller.allowed:
            why = FOREIGN
        if why or not control:
            peer.close()
            if why == peers.SANDBOXED and self._within(procfs.cgroup(peer.tgid) or ""):
                return f"{why} cgroup"
            return why or f"0 {peer.uid} read"
        while len(self._known) >= MOST:
            self.leave(next(iter(self._known)))
        self._last = self._last % 0xFFFFFFFF + 1
        self._known[self._last] = Admission(peer, caller)
        return f"{self._last} {peer.uid} {caller.level}"

    def caller(self, number: int, changes: bool) -> Caller:
        """:raises DeniedError: no such admission, or its peer is gone or sandboxed by now.
        :raises BusyError: it asks too often."""
        admission = self._known.get(number)
        if admission is None or not peers.alive(admission.peer.pidfd):
            self.leave(number)
            raise DeniedError("who asks is not known any more: connect again")
        if not self._bucket(admission.peer.uid, changes).take():
            raise BusyError("too many requests: ask again in a moment")
        if changes and peers.refusal(admission.peer.tgid, admission.peer.pidfd, self._sandboxed):
            self.leave(number)
            raise DeniedError("who asks lives in a sandbox")
        # The configuration may have been read again since.
        level = allowed(self.control, self._group, os.geteuid(), admission.peer.uid, admission.peer.groups)
        caller = admission.caller
        return Caller(caller.uid, caller.tgid, caller.executable, level)

    def leave(self, number: int) -> None:
        admission = self._known.pop(number, None)
        if admission is not None:
            admission.peer.close()

    def clear(self) -> None:
        """The api is gone, and all its connections with it."""
        for number in list(self._known):
            self.leave(number)

    def _caller(self, peer: peers.Peer) -> Caller:
        try:
            executable = printable(os.readlink(f"/proc/{peer.tgid}/exe"))
        except OSError:
            executable = "?"
        level = allowed(self.control, self._group, os.geteuid(), peer.uid, peer.groups)
        return Caller(peer.uid, peer.tgid, executable, level)

    def _bucket(self, uid: int, changes: bool) -> Bucket:
        key = (uid, changes)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._buckets.popitem(last=False)
            made = (CHANGES_PER_S, CHANGES_AT_ONCE) if changes else (READS_PER_S, READS_AT_ONCE)
            bucket = self._buckets[key] = Bucket(*made)
        return bucket


Call = Callable[[str, bytes, Caller], bytes]
