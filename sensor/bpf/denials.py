"""What the kernel refuses to quarantined sandboxes: one map beside `control`, shared by all generations of the probes.

It holds with the sensor dead, and whoever is root can lift it: nothing here needs a daemon.
"""

from __future__ import annotations

import time
from enum import IntFlag
from struct import pack, unpack

from sensor.bpf import libbpf
from sensor.bpf.maps import MOST_QUARANTINES
from sensor.bpf.objects import Handle, base_folder
from sensor.bpf.state import SIZES, Quarantine

JUDGES_POLICY, JUDGES_QUARANTINE = 1, 2  # PF_JUDGES_… in probes/include/state.h


class Deny(IntFlag):
    """PF_DENY_… in probes/include/state.h. Nested cgroups, processes that left and sockets they made are included."""

    NETWORK = 1  # connects and sends fail with EPERM, packets are dropped both ways but for bare TCP resets
    LOOPBACK = 2  # loopback and unix sockets too
    DEVICES = 4  # all but the ordinary ones
    EXEC = 8  # a program is killed before its first instruction


class Denials:
    """:param handle: of the control entry, which tells the probes that there is something to look up."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._map = handle.shared("quarantines")

    @classmethod
    def pinned(cls, bpffs: str, instance: str) -> Denials | None:
        """Straight on the pins; None where nothing is pinned."""
        base = base_folder(bpffs, instance)
        return cls(Handle(base)) if (base / "control").exists() else None

    def put(self, sandbox_id: int, deny: Deny) -> None:
        """Effective when it returns. Raises RefusedError."""
        if not deny:
            self.lift(sandbox_id)
            return
        entry = Quarantine(deny=int(deny), since_ns=time.monotonic_ns())
        libbpf.update(self._map, pack("<Q", sandbox_id), entry.pack())
        self._tell()

    def get(self, sandbox_id: int) -> Deny:
        """Deny(0): none."""
        value = libbpf.lookup(self._map, pack("<Q", sandbox_id), SIZES["pf_quarantine"])
        return Deny(Quarantine.unpack(value).deny) if value else Deny(0)

    def lift(self, sandbox_id: int) -> None:
        """Idempotent. Raises RefusedError."""
        libbpf.delete(self._map, pack("<Q", sandbox_id))
        self._tell()

    def all(self) -> dict[int, Deny]:
        ids = [unpack("<Q", key)[0] for key in libbpf.keys(self._map, 8, MOST_QUARANTINES)]
        return {sandbox_id: deny for sandbox_id in ids if (deny := self.get(sandbox_id))}

    def _tell(self) -> None:
        """Another number of the policy: flows that have a verdict are judged anew with their next packet."""
        judges = self._handle.read().judges_packets & ~JUDGES_QUARANTINE
        judges |= JUDGES_QUARANTINE if libbpf.keys(self._map, 8, 1) else 0
        self._handle.write(judges_packets=judges, policy=time.monotonic_ns())
