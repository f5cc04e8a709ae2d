"""Quarantines over a kernel's denials that are a dict, and whatever else is real."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sensor.bpf.denials import Deny
from sensor.configquarantine import Quarantine
from sensor.errors import RefusedError
from sensor.metrics import Metrics
from sensor.respond.evidence.collector import Collected, Wanted
from sensor.respond.quarantine.engine import Quarantines
from sensor.respond.quarantine.record import Order, Record
from sensor.respond.table import Host
from tests.respond.host import Table

REASON = "it dials a pool"
ALL = Deny.NETWORK | Deny.LOOPBACK | Deny.DEVICES | Deny.EXEC


class Denials:
    """The kernel's map, which outlives whoever writes it."""

    def __init__(self) -> None:
        self.entries: dict[int, Deny] = {}
        self.puts: list[int] = []
        self.broken = ""

    def put(self, sandbox_id: int, deny: Deny) -> None:
        if self.broken:
            raise RefusedError(self.broken)
        self.puts.append(sandbox_id)
        self.entries[sandbox_id] = deny

    def get(self, sandbox_id: int) -> Deny:
        return self.entries.get(sandbox_id, Deny(0))

    def lift(self, sandbox_id: int) -> None:
        if self.broken:
            raise RefusedError(self.broken)
        self.entries.pop(sandbox_id, None)

    def all(self) -> dict[int, Deny]:
        return dict(self.entries)


class Collector:
    """Answers at the next poll."""

    def __init__(self, *, ok: bool = True) -> None:
        self.ok = ok
        self.asked: list[Wanted] = []
        self.busy = False
        self._ready: list[Collected] = []

    def start(self, wanted: Wanted, now_ns: int) -> bool:
        if self.busy:
            return False
        self.asked.append(wanted)
        self._ready.append(Collected(wanted.quarantine_id, "/evidence.tar", self.ok, "5 processes", 1024))
        return True

    def poll(self, now_ns: int) -> list[Collected]:
        ready, self._ready = self._ready, []
        return ready

    def close(self) -> None:
        pass


class Bench:
    """What outlives one run of the sensor: the kernel's map, the state folder, the notices."""

    def __init__(self, mount: str, state: str, table: Table | None = None, own_pids: Sequence[int] = ()) -> None:
        self.denials: Denials | None = Denials()
        self.collector = Collector()
        self.metrics = Metrics()
        self.notices: list[tuple[str, dict[str, Any]]] = []
        self.settings = Quarantine(freeze_seconds=5)
        self.table = table or Table()
        self.disarmed = False
        self.host = Host(self.table, lambda _: None, lambda: own_pids, mount, state)

    def told(self, text: str, **fields: Any) -> None:
        self.notices.append((text, fields))

    def said(self, part: str) -> bool:
        return any(part in text for text, _ in self.notices)

    def make(self) -> Quarantines:
        return Quarantines(
            self.host,
            self.denials,
            self.settings,
            self.metrics,
            self.told,
            collector=self.collector,
            disarmed=lambda: self.disarmed,
        )

    def start(self) -> Quarantines:
        quarantines = self.make()
        quarantines.recover()
        return quarantines


def order(sandbox_id: int, path: str, **more: Any) -> Order:
    fields = {"name": path.rpartition("/")[2], "reason": REASON, "operator": "uid 0, pid 12, /usr/bin/pinfold"}
    return Order(sandbox_id, path, **{**fields, **more})


def settle(quarantines: Quarantines, until: Callable[[], bool], seconds: float = 30) -> None:
    """Ticks as the daemon would, until so; in which case also a second's look may be waited for."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, [(r.state, r.steps, r.undone, r.remark) for r in quarantines.records()]
        quarantines.tick(time.monotonic_ns())
        time.sleep(0.001)


def reach(quarantines: Quarantines, record: Record, *states: str) -> Record:
    settle(quarantines, lambda: quarantines.get(record.id).state in states and not quarantines.busy)
    return quarantines.get(record.id)


def outcomes(record: Record) -> dict[str, str]:
    return {step.name: step.state for step in [*record.steps, *record.undone]}
