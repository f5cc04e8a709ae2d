"""What quarantines act through, and one of them under way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from msgspec import Struct, field

from sensor.bpf.denials import Deny
from sensor.configquarantine import Quarantine
from sensor.metrics import Metrics
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.evidence.collector import Collected, Wanted
from sensor.respond.killsandbox import SandboxKiller
from sensor.respond.nevertouch import NeverTouch
from sensor.respond.quarantine.ledger import Ledger
from sensor.respond.quarantine.record import OVER, Record, State, Step, StepState
from sensor.respond.quarantine.sweeping import Sweep
from sensor.respond.table import Host, Identity

SECOND_NS = 1_000_000_000


class Denying(Protocol):
    """sensor.bpf.denials.Denials. Each may raise RefusedError."""

    def put(self, sandbox_id: int, deny: Deny) -> None: ...
    def get(self, sandbox_id: int) -> Deny: ...
    def lift(self, sandbox_id: int) -> None: ...
    def all(self) -> dict[int, Deny]: ...


class Collecting(Protocol):
    """sensor.respond.evidence.collector.Collector. Never blocks. `now_ns` is CLOCK_MONOTONIC."""

    def start(self, wanted: Wanted, now_ns: int) -> bool: ...
    def poll(self, now_ns: int) -> Sequence[Collected]: ...
    def close(self) -> None: ...


class Case:
    """A quarantine that is not over, with what needs no ledger. Times are CLOCK_MONOTONIC."""

    def __init__(self, record: Record, since_ns: int) -> None:
        self.record = record
        self.since_ns = since_ns  # the event that it follows
        self.unchecked: list[int] | None = None  # tgids to be held against the never-touch list; None: all of it
        self.sweep: Sweep | None = None
        self.known: set[Identity] = {Identity(*each) for each in record.stopped}  # who was met, so or so
        self.pending: list[Identity] = []  # are written down, and get their SIGSTOP once that is on the disk
        self.moving: list[Identity] = [Identity(*each) for each in record.stopped]  # got it, and were not seen still
        self.until_ns = 0  # of what is waited for: the freeze, the kill
        self.scan_ns = 0  # when processes that left are looked for next
        self.second_ns = 0  # when what needs a look each second gets it
        self.check_ns = 0  # until when a doubt whether somebody may be touched may be lifted by a record in the ring
        self.slow = False  # nothing is to be gained by looking more often than once a second
        self.stated = False  # that it takes longer than it may
        self.collecting = False
        self.scanning: Iterator[int | None] | None = None  # for who is not frozen, among `members`; found: `left`
        self.members: list[int] = []
        self.left: list[int] = []
        self.refused: dict[str, int] = {}  # processes that may not be stopped, by why

    def drop(self, means: Means) -> None:
        """What is under way is no longer wanted."""
        if self.sweep is not None:
            self.sweep.close()
            means.children.append(self.sweep)
            self.sweep = None
        self.pending.clear()


class Means(Struct):
    host: Host  # with the ledger's paths before the enricher's
    guard: NeverTouch
    killer: SandboxKiller
    denials: Denying | None  # None: nothing is pinned
    ledger: Ledger
    settings: Quarantine
    metrics: Metrics
    told: Callable[..., None]
    collector: Collecting | None
    facts: Callable[[Record], bytes]
    children: list[Sweep] = field(default_factory=list)  # killed or done, to be reaped

    @contextmanager
    def opened(self, record: Record) -> Iterator[CgroupDirectory | None]:
        """Its cgroup; None where that is gone, or another has its name."""
        try:
            directory = CgroupDirectory(self.host.cgroup_mount, record.order.path, record.cgroup_id)
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        with directory:
            yield directory

    def recycled(self, record: Record) -> bool:
        """Whether another cgroup has its path."""
        try:
            found = os.lstat(self.host.cgroup_mount.rstrip("/") + record.order.path)
        except OSError:
            return False
        return found.st_ino != record.cgroup_id

    def say(self, record: Record, text: str, **fields: str | int) -> None:
        self.told(
            f"quarantine {record.id} of {record.order.path!a}: {text}",
            QuarantineId=record.id,
            SandboxId=record.order.sandbox_id,
            **fields,
        )

    def end_step(self, record: Record, step: Step, state: StepState, detail: str = "") -> None:
        """Reports it. The ledger is the caller's to write."""
        step.state, step.detail, step.ended_ns = state, detail, time.time_ns()
        step.began_ns = step.began_ns or step.ended_ns
        self.metrics.count("pinfold_quarantine_steps_total", (step.name, state))
        self.say(record, f"{step.name}: {state}" + (detail and f": {detail}"), step=step.name, outcome=state)

    def finish(self, record: Record, state: State, remark: str = "") -> None:
        assert state in OVER
        record.state = state
        record.ended_ns = time.time_ns()
        record.remark = remark or record.remark
        self.ledger.save(record)
        self.say(record, state + (remark and f": {remark}"), outcome=state)
