"""What detectors may ask of the host, and the one record they get that is no activity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from sensor.events.activity import Activity


class Counters(Struct, frozen=True, gc=False):
    """Payload of a live flow so far. `last_ns`: CLOCK_MONOTONIC of its last packet."""

    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int
    last_ns: int


class Living(Struct, frozen=True, gc=False):
    """A sandbox that has not ended."""

    id: int
    name: str
    class_: str


class Busiest(Struct, frozen=True):
    """Of the program whose living processes have used most CPU time: one of these processes, and the time of all."""

    accused: Activity
    cpu_ns: int


class Inversion(Struct, frozen=True, gc=False):
    """Data came in first on a flow after a pause. The counters are those before this segment."""

    generation: int
    position: int
    time_ns: int  # UTC
    monotonic_ns: int
    SandboxId: int
    cookie: int
    idle_ns: int
    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int
    length: int  # of the segment's payload
    inversions: int


class World(Protocol):
    """The host, as the detectors see it; tests have a fake one. Nothing here raises: what is gone is empty."""

    def counters(self, cookie: int) -> Counters | None:
        """Of a live flow, now. One map look-up."""

    def counters_at_dial(self, inner: int, outer: int) -> Counters | None:
        """Of the flow `outer` at the moment when the flow `inner` was established, by their cookies, where the kernel
        noted them: what is read now may have the whole exchange in it already."""

    def holders(self, sandbox_id: int, inode: int, most: int = 16) -> tuple[int, ...]:
        """tgids of the sandbox that have a descriptor of this socket or pipe. A scan of /proc: expensive."""

    def pty_masters(self, sandbox_id: int, number: int) -> tuple[int, ...]:
        """tgids that hold the master of /dev/pts/<number>. Expensive too."""

    def pipe_peers(self, sandbox_id: int, inode: int, not_tgid: int) -> tuple[int, ...]:
        """Others that hold this pipe. Expensive too."""

    def standard_streams(self, tgid: int) -> tuple[str, str, str, int, int, int]:
        """Kinds and inodes as in ProcessCreation, "" and 0 when it is gone."""

    def cpu_usage_ns(self, sandbox_id: int) -> int | None:
        """cgroup cpu.stat usage of the whole sandbox."""

    def sandboxes(self) -> Iterable[Living]: ...

    def busiest(self, living: Living) -> Busiest | None:
        """None where nobody is left. Reads /proc of its processes: expensive."""

    def cpus(self) -> int: ...

    def gpu_held(self, sandbox_id: int, tgid: int) -> bool: ...

    def egress_allowed(self, sandbox_class: str, address: str, port: int, hostname: str) -> bool:
        """The class's egress list names it explicitly; False where there is no list."""

    def parent(self, tgid: int) -> int:
        """0: unknown."""

    def family(self, tgid: int) -> tuple[int, ...]:
        """tgids that run the same program image by fork without exec, itself included."""
