"""Who may speak to the control socket: nobody who lives in a sandbox, whatever its uid. The core's half.

The api cannot tell: it is unprivileged, and only the core knows that a process which left its
sandbox's cgroup is of the sandbox still.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from sensor.respond import procfs

SANDBOXED = "sandboxed"
UNVERIFIED = "unverified"

# Whether a process is of a sandbox, given its tgid and its cgroup's path (`/a/b`) now.
Sandboxed = Callable[[int, str], bool]


def refusal(tgid: int, pidfd: int | None, sandboxed: Sandboxed) -> str:
    """Why a peer is refused; "" if it is not.

    :param tgid: from SO_PEERCRED; 0 where the peer's pid namespace is not below ours.
    :param pidfd: from SO_PEERPIDFD (6.5 and later), else None; then a pidfd made now must do, which a
        number used again since the connect would deceive. Closed by the caller.
    """
    if tgid <= 0:
        return UNVERIFIED
    try:
        held = os.pidfd_open(tgid) if pidfd is None else pidfd
    except OSError:
        return UNVERIFIED
    try:
        return _ask(tgid, held, sandboxed)
    finally:
        if pidfd is None:
            os.close(held)


def _ask(tgid: int, pidfd: int, sandboxed: Sandboxed) -> str:
    if _pid_of(pidfd) != tgid:
        return UNVERIFIED
    path = procfs.cgroup(tgid)
    if path is None:
        return UNVERIFIED
    answer = SANDBOXED if sandboxed(tgid, path) else ""
    # Alive after all was read: the number was its own throughout.
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return UNVERIFIED if poll.poll(0) else answer


def _pid_of(pidfd: int) -> int:
    """0 if it is no pidfd, or of a process in another pid namespace; -1 once it was reaped."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
            text = file.read(4096)
    except OSError:
        return 0
    _, found, rest = text.partition(b"\nPid:")
    return int(rest.split(None, 1)[0]) if found else 0
