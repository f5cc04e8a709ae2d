"""Every quarantine of this host: begun, held, released, killed, and taken up again after a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec.structs import replace

from sensor.bpf.denials import Deny
from sensor.configquarantine import Quarantine
from sensor.errors import ActError, NeverTouchError, NotFoundError, UsageError
from sensor.metrics import Metrics
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.evidence.collector import Collected
from sensor.respond.kill import Killer
from sensor.respond.killsandbox import SandboxKiller
from sensor.respond.nevertouch import NeverTouch
from sensor.respond.quarantine import beginning, denying, ending, recovery, still, watching
from sensor.respond.quarantine.ledger import Ledger
from sensor.respond.quarantine.means import SECOND_NS, Case, Collecting, Denying, Means
from sensor.respond.quarantine.record import (
    DENIED,
    OVER,
    STATES,
    Order,
    Record,
    boot_id,
    new_record,
    refuse_bad,
)
from sensor.respond.table import Host

_BUSY_STATES = frozenset({"beginning", "releasing", "killing"})
_ANOTHER = "another process acts on the quarantines now (the daemon, or a command): ask the daemon, or try again"


def bare_facts(record: Record) -> bytes:
    """Where nobody knows more than the order."""
    return json.dumps({"order": msgspec.to_builtins(record.order)}).encode()


class Quarantines:
    """For one thread. Nothing blocks but `run`. See README.md for who calls what when."""

    def __init__(
        self,
        host: Host,
        denials: Denying | None,
        settings: Quarantine,
        metrics: Metrics,
        told: Callable[..., None],
        *,
        collector: Collecting | None = None,
        facts: Callable[[Record], bytes] = bare_facts,
        born_ns: Callable[[int], int] = lambda _: 0,
        disarmed: Callable[[], bool] = lambda: False,
    ) -> None:
        """:param told: a notice: the text, and fields.
        :param facts: JSON, of what the core knows of a sandbox, for its evidence.
        :param born_ns: UTC, of a sandbox; 0 where it is not known.
        """
        self._enriched_path = host.sandbox_path
        self._cases: dict[int, Case] = {}  # by sandbox
        self._records: dict[str, Record] = {}  # oldest first
        host = replace(host, sandbox_path=self._path)
        guard = NeverTouch(host)
        killer = SandboxKiller(host, guard, Killer(host, guard))
        self._means = Means(host, guard, killer, denials, Ledger(host.state), settings, metrics, told, collector, facts)
        self._born_ns = born_ns
        self._disarmed = disarmed
        self._boot = boot_id()
        self.acting = False  # whether the ledger's lock is ours
        self._next_second = 0
        self._complained: dict[str, str] = {}

    def _path(self, sandbox_id: int) -> str | None:
        """The ledger's before the enricher's, which forgets a sandbox whose pattern was taken out."""
        case = self._cases.get(sandbox_id)
        return case.record.order.path if case is not None else self._enriched_path(sandbox_id)

    # Asking.

    @property
    def damaged(self) -> list[str]:
        """Files of the ledger that cannot be believed: while there is one, nothing is said to be all clear."""
        return list(self._means.ledger.damaged)

    @property
    def busy(self) -> bool:
        """Whether `tick` is wanted often: each 1 to 50 ms. Else once a second."""
        moving = any(case.record.state in _BUSY_STATES and not case.slow for case in self._cases.values())
        return moving or any(case.pending for case in self._cases.values()) or not self._means.ledger.settled

    def records(self) -> list[Record]:
        """All, oldest first, those that are over too."""
        return list(self._records.values())

    def get(self, quarantine_id: str) -> Record:
        """:raises NotFoundError:"""
        record = self._records.get(quarantine_id)
        if record is None:
            raise NotFoundError(f"{quarantine_id!a}: no quarantine of that id: see `pinfold quarantine list --all`")
        return record

    def of(self, sandbox_id: int) -> Record | None:
        """The quarantine that a sandbox is in."""
        case = self._cases.get(sandbox_id)
        return None if case is None else case.record

    # Acting.

    def add(self, order: Order) -> Record:
        """What the kernel refuses is refused when this returns; the rest follows by `tick`. Of a sandbox that is
        quarantined already, that quarantine.

        :raises UsageError: what is asked for cannot be meant.
        :raises NeverTouchError: something in it may not be touched.
        :raises ActError: it is being released or killed, or its cgroup is gone, or enforcement is off.
        """
        began_ns = time.monotonic_ns()
        refuse_bad(order)
        self._must_act()
        if (there := self.of(order.sandbox_id)) is not None:
            if there.state in {"releasing", "killing"}:
                raise ActError(f"{order.path!a} is {there.state}, as {there.id}: ask again when that is over")
            if order.cut and not there.order.cut:
                self._cut(there, order)
            return there
        if self._disarmed():
            raise ActError("enforcement is off: `pinfold arm` first")
        means = self._means
        record = new_record(order, self._boot, self._born_ns(order.sandbox_id), time.time_ns())
        case = Case(record, order.since_ns or began_ns)
        with means.opened(record) as directory:
            if directory is None and not still.strays(means, record, set()):
                raise ActError(f"{order.path!a}: there is no such cgroup with the id {order.sandbox_id}")
            deny, detail = self._judge(case, directory)
        denying.put(means, record, deny, detail)
        means.metrics.observe("pinfold_quarantine_seconds", (time.monotonic_ns() - case.since_ns) / SECOND_NS, ("cut",))
        self._keep(case)
        means.ledger.save(record)
        means.say(record, f"begun by {order.operator!a}: {order.reason!a}", outcome="beginning")
        return record

    def _cut(self, record: Record, order: Order) -> None:
        """One that was only frozen: what its cut and its evidence need is done now."""
        record.order = replace(record.order, cut=True, loopback=order.loopback, evidence=order.evidence)
        for name in (*DENIED, "evidence"):
            step = record.step(name)
            step.state, step.detail = "waiting", ""
        denying.put(self._means, record, *denying.wanted(record.order, [], all_known=False))
        watching.restart_sockets(self._cases[record.order.sandbox_id])
        self._means.ledger.save(record)
        self._means.say(record, f"cut off too, by {order.operator!a}: {order.reason!a}", outcome="beginning")

    def _judge(self, case: Case, directory: CgroupDirectory | None) -> tuple[Deny, str]:
        """The first of its processes at once; `tick` looks at the others before anything else is done."""
        record, means = case.record, self._means
        members = directory.processes() if directory is not None else []
        first = members[: beginning.CHECKED_AT_ONCE]
        refusal = means.guard.sandbox(record.order.path, first)
        if refusal is not None:
            raise NeverTouchError(f"{record.order.path!a} is not quarantined: {refusal.reason}")
        case.unchecked = members[len(first) :]
        if directory is not None and record.order.freeze:
            record.frozen_by = "somebody" if directory.frozen() else "us"
        return denying.wanted(record.order, first, all_known=not case.unchecked and directory is not None)

    def release(self, quarantine_id: str, *, operator: str, reason: str) -> Record:
        """Begins to undo it. Again where it is being released.

        :raises NotFoundError: there is none of that id.
        :raises UsageError: without a reason.
        :raises ActError: it is over, or being killed.
        """
        return self._end(quarantine_id, "releasing", operator, reason)

    def kill(self, quarantine_id: str, *, operator: str, reason: str) -> Record:
        """Begins to kill all of it. A release under way becomes a kill.

        :raises NotFoundError: there is none of that id.
        :raises UsageError: without a reason.
        :raises NeverTouchError: something in it may not be killed.
        :raises ActError: it is over.
        """
        case = self._cases.get(self.get(quarantine_id).cgroup_id)
        if case is not None and case.record.id == quarantine_id:
            with self._means.opened(case.record) as directory:
                members = directory.processes() if directory is not None else []
            refusal = self._means.guard.sandbox(case.record.order.path, members)
            if refusal is not None:
                raise NeverTouchError(f"{case.record.order.path!a} is not killed: {refusal.reason}")
        return self._end(quarantine_id, "killing", operator, reason)

    def _end(self, quarantine_id: str, state: Literal["releasing", "killing"], operator: str, reason: str) -> Record:
        record = self.get(quarantine_id)
        if not reason.strip() or not operator.strip():
            raise UsageError("a reason is needed: say why, for whoever reads the ledger")
        self._must_act()
        case = self._cases.get(record.cgroup_id)
        if case is None or case.record is not record:
            raise ActError(f"quarantine {quarantine_id} is over: {record.state}")
        if record.state == state:
            return record
        if record.state == "killing":
            raise ActError(f"quarantine {quarantine_id} is being killed")
        seconds = self._means.settings.kill_seconds if state == "killing" else self._means.settings.freeze_seconds
        record.state, record.ended_by, record.ended_why = state, operator, reason
        record.undone.clear()
        case.until_ns, case.second_ns, case.stated = time.monotonic_ns() + seconds * SECOND_NS, 0, False
        self._means.ledger.save(record)
        self._means.say(record, f"{state}, asked for by {operator!a}: {reason!a}", outcome=state)
        return record

    def _must_act(self) -> None:
        if not self.acting:
            raise ActError(_ANOTHER)

    def _keep(self, case: Case) -> None:
        self._cases[case.record.cgroup_id] = case
        self._records[case.record.id] = case.record

    # Going on.

    def tick(self, monotonic_ns: int) -> None:
        """Never blocks."""
        means = self._means
        second = monotonic_ns >= self._next_second
        if second:
            self._next_second = monotonic_ns + SECOND_NS
            self._each_second()
        if means.collector is not None:
            for found in means.collector.poll(monotonic_ns):
                self._collected(found)
        for case in list(self._cases.values()):
            if not case.slow or second:
                case.slow = False
                self._go_on(case, monotonic_ns, second=second)
            if case.record.state in OVER:
                case.drop(means)
                del self._cases[case.record.cgroup_id]
        means.children = [child for child in means.children if not child.ended()]

    def _go_on(self, case: Case, now_ns: int, *, second: bool) -> None:
        try:
            if second and watching.expired(case):
                self._expire(case)
            match case.record.state:
                case "beginning":
                    beginning.go_on(self._means, case, now_ns)
                case "held" if second or case.pending:
                    watching.look(self._means, case, now_ns)
                case "releasing":
                    ending.release(self._means, case, now_ns)
                case "killing":
                    ending.kill(self._means, case, now_ns)
        except OSError as error:
            # The cgroup filesystem itself failed; the denial is in force, and the next second tries again.
            case.slow = True
            why = f"{error.filename or 'the kernel'}: {error.strerror}"
            if case.record.remark != why:
                case.record.remark = why
                self._means.say(case.record, f"cannot go on, and tries again each second: {why}", outcome="failed")

    def _expire(self, case: Case) -> None:
        record = case.record
        if record.state not in {"beginning", "held"}:
            return
        record.expired = True
        after = f"its {record.order.ttl_seconds} s are over"
        self._means.say(record, f"{after}: {record.order.on_expiry}", outcome="expired")
        try:
            match record.order.on_expiry:
                case "release":
                    self.release(record.id, operator=record.order.operator, reason=after)
                case "kill":
                    self.kill(record.id, operator=record.order.operator, reason=after)
                case "hold":
                    self._means.ledger.save(record)
        except ActError as error:
            record.remark = str(error)
            self._means.say(record, f"held on: {error}", outcome="failed")
            self._means.ledger.save(record)

    def _collected(self, found: Collected) -> None:
        record = self._records.get(found.quarantine_id)
        if record is not None and (case := self._cases.get(record.cgroup_id)) is not None and case.record is record:
            beginning.collected(self._means, case, found)

    def _each_second(self) -> None:
        means = self._means
        if not self.acting:
            for line in self.recover():
                means.told(line)
        for quarantine_id, why in means.ledger.failures():
            record = self._records[quarantine_id]
            if self._complained.get(quarantine_id) != why:
                self._complained[quarantine_id] = why
                text = f"critical: the ledger cannot be written ({why}): after a crash it is found by its denial alone"
                means.say(record, text, outcome="failed")
            means.ledger.save(record)
        for state in STATES:
            count = sum(record.state == state for record in self._records.values())
            means.metrics.gauge("pinfold_quarantines", (state,), count)
        means.metrics.gauge("pinfold_quarantines", ("damaged",), len(means.ledger.damaged))
        self._forget()

    def _forget(self) -> None:
        over = [record.id for record in self._records.values() if record.over and self._means.ledger.saved(record.id)]
        for quarantine_id in over[: max(0, len(over) - self._means.settings.keep_ended)]:
            del self._records[quarantine_id]
            self._means.ledger.remove(quarantine_id)

    # Starting and stopping.

    def recover(self) -> list[str]:
        """To be called once at start, after the sandboxes and processes that are there were looked at.

        :returns: a line each for the operator.
        :raises HostError: the ledger's folder cannot be trusted.
        """
        ledger = self._means.ledger
        self.acting = ledger.open(acting=True)
        records = ledger.load()
        self._records = {record.id: record for record in records}
        if not self.acting:
            return [f"quarantines: {_ANOTHER}; they are taken over as soon as it is done"]
        # Of the paths, those of the ledger are needed first.
        self._cases = {record.cgroup_id: Case(record, 0) for record in records if not record.over}
        cases, lines = recovery.recover(self._means, records, self._boot, time.monotonic_ns())
        self._cases = {}
        for case in cases:
            self._keep(case)
        return lines

    def read(self) -> None:
        """The ledger alone, for who only wants to see it.

        :raises HostError: its folder cannot be trusted.
        """
        self._means.ledger.open(acting=False)
        self._records = {record.id: record for record in self._means.ledger.load()}

    def reload(self, settings: Quarantine) -> None:
        self._means.settings = settings

    def run(self, timeout_s: float) -> None:
        """For a command, with the daemon dead: ticks until nothing is under way, or the time is over."""
        until = time.monotonic() + timeout_s
        while True:
            self.tick(time.monotonic_ns())
            if not self.busy or time.monotonic() >= until:
                return
            time.sleep(0.002)

    def close(self) -> None:
        """What is in force stays in force."""
        for case in self._cases.values():
            case.drop(self._means)
        if self._means.collector is not None:
            self._means.collector.close()
        self._means.ledger.close()
        self.acting = False
