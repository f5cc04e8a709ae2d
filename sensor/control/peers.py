"""Who is at the other end of a Unix socket, and whether it lives in a sandbox. The core's half.

The api cannot tell: it is unprivileged, and only the core knows that a process which left its
sandbox's cgroup is of the sandbox still. Nor is it believed: it hands over the connection, and the
kernel is asked here.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
from collections.abc import Callable

from msgspec import Struct

from sensor.respond import procfs

SANDBOXED = "sandboxed"
UNVERIFIED = "unverified"
_MOST_GROUPS = 256  # that Python's getsockopt has room for
_STATUS_BYTES = 1 << 20  # of /proc/PID/status, where a user is in as many groups as the kernel allows

# include/uapi/asm-generic/socket.h
_SO_PEERGROUPS = 59
_SO_PEERPIDFD = getattr(socket, "SO_PEERPIDFD", 77)  # since 6.5

# Whether a process is of a sandbox, given its tgid and its cgroup's path (`/a/b`) now.
Sandboxed = Callable[[int, str], bool]


class Peer(Struct):
    """`pidfd` is this object's own. `groups`: its effective group and the supplementary ones, when it connected."""

    tgid: int
    uid: int
    gid: int
    groups: frozenset[int]
    pidfd: int

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def of(connection: socket.socket) -> Peer | None:
    """None where it cannot be known: the peer ended, or its pid namespace is not below ours."""
    tgid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if tgid <= 0:
        return None
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return None  # ESRCH or EINVAL: it was reaped
        # A pidfd made now must do, which a number used again since the connect would deceive.
        try:
            pidfd = os.pidfd_open(tgid)
        except OSError:
            return None
    return Peer(tgid, uid, gid, _groups(connection, tgid) | {gid}, pidfd)


def refusal(tgid: int, pidfd: int, sandboxed: Sandboxed) -> str:
    """Why a peer is refused; "" if it is not.

    :param tgid: from SO_PEERCRED; 0 where the peer's pid namespace is not below ours.
    :param pidfd: of the same process; closed by the caller.
    """
    if tgid <= 0 or _pid_of(pidfd) != tgid:
        return UNVERIFIED
    path = procfs.cgroup(tgid)
    if path is None:
        return UNVERIFIED
    answer = SANDBOXED if sandboxed(tgid, path) else ""
    # Alive after all was read: the number was its own throughout.
    return answer if alive(pidfd) else UNVERIFIED


def alive(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def _groups(connection: socket.socket, tgid: int) -> frozenset[int]:
    found = array.array("I")
    try:
        found.frombytes(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS * found.itemsize))
    except OSError:  # ERANGE: in more. Those that it is in now; the pidfd is looked at afterwards.
        return _groups_now(tgid)
    return frozenset(found)


def _groups_now(tgid: int) -> frozenset[int]:
    try:
        with open(f"/proc/{tgid}/status", "rb") as file:
            text = file.read(_STATUS_BYTES)
    except OSError:
        return frozenset()
    _, found, rest = text.partition(b"\nGroups:")
    return frozenset(map(int, rest.partition(b"\n")[0].split())) if found else frozenset()


def _pid_of(pidfd: int) -> int:
    """0 if it is no pidfd, or of a process in another pid namespace; -1 once it was reaped."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
            text = file.read(4096)
    except OSError:
        return 0
    _, found, rest = text.partition(b"\nPid:")
    return int(rest.split(None, 1)[0]) if found else 0
