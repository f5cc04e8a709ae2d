"""What a response needs to know of sandboxes and their processes; `enrich` has it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from msgspec import Struct

from sensor.respond import procfs


class Entry(Protocol):
    """The process that entered the sandbox, and what it ran first."""

    @property
    def tgid(self) -> int: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def image(self) -> str: ...


class Known(Protocol):
    """A process as the kernel's records tell it. (tgid, start_ns) is never used twice."""

    @property
    def tgid(self) -> int: ...
    @property
    def start_ns(self) -> int: ...  # CLOCK_BOOTTIME
    @property
    def sandbox_id(self) -> int: ...  # sticky: where it was born or what it entered; 0 outside
    @property
    def image(self) -> str: ...
    @property
    def image_file(self) -> tuple[int, int]: ...  # device (major << 20 | minor) and inode; zeros where unknown
    @property
    def exec_id(self) -> int: ...  # CLOCK_MONOTONIC at its last exec or its fork; 0 where unknown
    @property
    def executed_inside(self) -> bool: ...  # its image was executed while it was in the sandbox
    @property
    def parent_tgid(self) -> int: ...  # who forked it, also after it was reparented
    @property
    def parent(self) -> Known | None: ...
    @property
    def entry(self) -> Entry: ...


class ProcessTable(Protocol):
    def get(self, tgid: int) -> Known | None:
        """The living process of that number; None where no record told of one."""

    def in_sandbox(self, sandbox_id: int) -> Sequence[Known]:
        """Living processes of a sandbox, those that left its cgroup included."""


class Host(Struct, frozen=True):
    """Everything outside this package that a response asks, as of the moment of asking."""

    table: ProcessTable
    sandbox_path: Callable[[int], str | None]  # cgroup path below the mount; None once it is gone
    own_pids: Callable[[], Collection[int]]  # tgids of the core, the api and whatever started them
    cgroup_mount: str  # of cgroup2
    state: str = ""  # the folder paths.state, which survives the daemon; without it nothing is ever frozen

    def path(self, sandbox_id: int) -> str | None:
        """Of its cgroup, as /proc/PID/cgroup writes it: `/a/b`."""
        path = self.sandbox_path(sandbox_id)
        return None if path is None else "/" + path.strip("/")


class Identity(Struct, frozen=True, gc=False):
    """A process that cannot be mistaken for a later one of its number, as far as /proc can tell."""

    tgid: int
    start_ticks: int


def identity(known: Known | Entry) -> Identity:
    return Identity(known.tgid, procfs.ticks(known.start_ns))


def same(known: Known | None, target: Identity) -> Known | None:
    """`known`, unless it is an earlier or later process of that number."""
    return known if known is not None and identity(known) == target else None
