"""What no response may ever touch, asked at the moment of acting.

A configuration is checked once; a host changes: sshd is moved, a pattern begins to match
system.slice after an upgrade. So every kill asks here first.

A sandbox would like this immunity too. A program that it names `sshd` does not get it: a daemon of
the host lives in PID 1's mount namespace and was executed outside the sandbox. Or its cgroup was
taken for a sandbox, and PID 1 started it there: then it is what PID 1's child ran first, which nobody
inside can bring about later. Of a process that no record told of yet none of this is known; the host
comes first then, and the refusal is not final: the question may be put again after the next drain.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from msgspec import Struct

from sensor.respond import procfs
from sensor.respond.table import Host, Identity, Known, identity, same

# Daemons that a host loses its workloads or its operator without. Per-workload helpers
# (containerd-shim, conmon, slurmstepd) are absent: they end with their workload.
HOST_DAEMONS = frozenset(
    {
        "systemd", "init", "dbus-daemon", "dbus-broker", "dbus-broker-launch",
        "dockerd", "containerd", "cri-dockerd", "crio", "podman", "buildkitd",
        "kubelet", "k3s", "k3s-server", "k3s-agent", "k0s", "rke2", "microk8s",
        "slurmd", "slurmctld", "sshd", "sshd-session", "sshd-auth", "dropbear",
    }
)  # fmt: skip

LAUNCHERS = frozenset({"systemd-executor"})  # since systemd 255 PID 1 spawns this, which then executes the service


class Refusal(Struct, frozen=True, gc=False):
    reason: str
    final: bool = True  # False: a record still in the ring may tell otherwise


class NeverTouch:
    def __init__(self, host: Host) -> None:
        self._table = host.table
        self._own_pids = host.own_pids

    def process(self, target: Identity, stat: procfs.Stat, known: Known | None) -> Refusal | None:
        """Why this process may not be killed. `stat` was read after a pidfd pinned it."""
        if target.tgid == 1:
            return Refusal("PID 1")
        if target.tgid == os.getpid() or target.tgid in self._own_pids():
            return Refusal("a process of pinfold")
        if stat.kernel_thread:
            return Refusal("a kernel thread")
        return self._daemon(target, known)

    def sandbox(self, path: str, members: Iterable[int]) -> Refusal | None:
        """Why no cgroup at `path` may be killed or frozen. `members`: tgids found in it, nested ones too."""
        if path in {"", "/"}:
            return Refusal("the root cgroup")
        for tgid, what in ((1, "PID 1"), *((own, "a process of pinfold") for own in (os.getpid(), *self._own_pids()))):
            home = procfs.cgroup(tgid)
            if home is not None and procfs.within(home, path):
                return Refusal(f"the cgroup holds {what}")
        unsure: Refusal | None = None
        for tgid in members:
            refusal = self._member(tgid)
            if refusal is not None and refusal.final:
                return refusal
            unsure = unsure or refusal
        return unsure

    def _member(self, tgid: int) -> Refusal | None:
        stat = procfs.stat(tgid)
        if stat is None or stat.kernel_thread:
            return None
        return self._daemon(Identity(tgid, stat.start_ticks), self._table.get(tgid))

    def _daemon(self, target: Identity, known: Known | None) -> Refusal | None:
        known = same(known, target)
        if known is not None and known.executed_inside and not _started_by_init(known):
            return None
        # The executable's link is the kernel's; comm and argv are the process's own to set.
        name = procfs.image_name(target.tgid)
        if name not in HOST_DAEMONS or _elsewhere(target.tgid):
            return None
        if known is None:
            return Refusal(f"perhaps the host's {name}: no record tells where it was executed", final=False)
        return Refusal(f"the host's {name}")


def _elsewhere(tgid: int) -> bool:
    """In a mount namespace that is not PID 1's. What cannot be read (no CAP_SYS_PTRACE) counts as the same."""
    mine, init = procfs.mount_namespace(tgid), procfs.mount_namespace(1)
    return mine is not None and init is not None and mine != init


def _started_by_init(known: Known) -> bool:
    """Forked by PID 1 (not merely reparented to it) and the entry of its cgroup, with a daemon as first program."""
    if known.parent_tgid != 1 or identity(known.entry) != identity(known):
        return False
    return known.entry.image.rpartition("/")[2] in HOST_DAEMONS | LAUNCHERS
