"""A held quarantine, looked at each second: what undoes it is told and undone, what is left to do is done."""

from __future__ import annotations

import time

from sensor.bpf.denials import Deny
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.quarantine import denying, still
from sensor.respond.quarantine.beginning import CHECKED_AT_ONCE, vanished
from sensor.respond.quarantine.means import Case, Means


def look(means: Means, case: Case, now_ns: int) -> None:
    record = case.record
    with means.opened(record) as directory:
        if directory is None and not still.strays(means, record, set()):
            vanished(means, case)
            return
        _deny(means, case)
        if record.order.freeze and record.step("freeze").state != "skipped":
            _freeze(means, case, directory)
            _stop(means, case, directory, now_ns)
            _late(means, case, directory)


def _deny(means: Means, case: Case) -> None:
    """Lifted by another hand, or with the pins."""
    record = case.record
    if means.denials is None or denying.in_force(means, record):
        return
    was = record.step("network").state
    if denying.put(means, record, Deny(record.deny)) and was == "done":
        means.say(record, "critical: the kernel's denial was gone, and is in force again", outcome="restored")
        restart_sockets(case)


def restart_sockets(case: Case) -> None:
    """Connections may have been made while nothing was denied."""
    for name in ("sockets", "hold"):
        step = case.record.step(name)
        step.state, step.detail = "waiting", ""
    case.record.state = "beginning"


def _freeze(means: Means, case: Case, directory: CgroupDirectory | None) -> None:
    record = case.record
    if directory is None or case.record.by_signal or directory.frozen():
        return
    refusal = means.guard.sandbox(record.order.path, directory.processes()[:CHECKED_AT_ONCE])
    if refusal is not None:
        if record.remark != refusal.reason:
            record.remark = refusal.reason
            means.say(record, f"was thawed, and is not frozen again: {refusal.reason}", outcome="never_touch")
        return
    record.thawed += 1
    record.frozen_by = "us"
    means.ledger.save(record)
    still.freeze(case, directory)
    if record.thawed & (record.thawed - 1) == 0:  # 1, 2, 4, …: who does it each second fills no log
        again = "is frozen again" if not case.record.by_signal else f"cannot be frozen again: {case.record.by_signal}"
        means.say(record, f"somebody thawed it, and it {again} ({record.thawed} times so far)", outcome="thawed")


def _stop(means: Means, case: Case, directory: CgroupDirectory | None, now_ns: int) -> None:
    """Who left since, and whom somebody continued."""
    record = case.record
    before = len(record.stopped)
    if still.stop_again(record):
        means.ledger.save(record)
        means.say(record, "somebody continued processes of it, which are stopped again", outcome="continued")
    still.stop(means, case, directory, now_ns)
    if len(record.stopped) > before:
        fresh = [tgid for tgid, _ in record.stopped[before:]]
        means.say(record, f"processes left its cgroup, and are stopped: {still.named(fresh)}", outcome="left")


def _late(means: Means, case: Case, directory: CgroupDirectory | None) -> None:
    """The kernel let go of what did not freeze in time."""
    record = case.record
    step = record.step("freeze")
    if step.state != "failed" or case.moving or case.pending:
        return
    if case.record.by_signal or directory is None or still.frozen(directory):
        means.end_step(record, step, "done", "late: all of it stands still now")
        means.ledger.save(record)


def expired(case: Case) -> bool:
    record = case.record
    return bool(record.expires_ns) and time.time_ns() >= record.expires_ns and not record.expired
