"""The steps of a quarantine after the kernel's denial, in order, none of them waited for.

The freeze does not wait for the child that destroys sockets: that takes 30 ms to start. Evidence waits for both.
"""

from __future__ import annotations

from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.evidence.collector import Collected, Wanted
from sensor.respond.quarantine import denying, still
from sensor.respond.quarantine.means import SECOND_NS, Case, Means
from sensor.respond.quarantine.record import Record, begin
from sensor.respond.quarantine.sweeping import Request, Sweep

SETTLE_NS = 2 * SECOND_NS
CHECKED_AT_ONCE = 256  # processes held against the never-touch list: some 5 ms
_EVIDENCE_SLACK = 5  # seconds beyond its own time, until it is given up


def go_on(means: Means, case: Case, now_ns: int) -> None:
    """To be called again while the record's state is `beginning`."""
    record = case.record
    with means.opened(record) as directory:
        if directory is None and not still.strays(means, record, set()):
            vanished(means, case)
        elif _checked(means, case, directory, now_ns):
            _sockets(means, case, directory, now_ns)
            _freeze(means, case, directory, now_ns)
            _evidence(means, case, directory, now_ns)
            _hold(means, case, now_ns)


def vanished(means: Means, case: Case) -> None:
    """Nothing is left to hold. A later cgroup of that path is another sandbox."""
    record = case.record
    remark = "its cgroup is gone, and nothing of it runs"
    if means.recycled(record):
        remark += "; another has its name, which is not quarantined"
    for step in record.steps:
        if not step.over:
            means.end_step(record, step, "skipped", "its cgroup is gone")
    case.drop(means)
    if left := denying.lift(means, record):
        remark += f"; its denial, which concerns nobody, is {left}"
    means.finish(record, "ended", remark)


def _checked(means: Means, case: Case, directory: CgroupDirectory | None, now_ns: int) -> bool:
    """Whether everyone in it may be touched, as of now. Nothing but the denial was done before."""
    record = case.record
    if record.checked:
        return True
    if case.unchecked is None:
        case.unchecked = directory.processes() if directory is not None else []
    part, case.unchecked = case.unchecked[:CHECKED_AT_ONCE], case.unchecked[CHECKED_AT_ONCE:]
    refusal = means.guard.sandbox(record.order.path, part)
    if refusal is None:
        record.checked = not case.unchecked
        return record.checked
    case.check_ns = case.check_ns or now_ns + SETTLE_NS
    if not refusal.final and now_ns < case.check_ns:
        case.unchecked = part + case.unchecked
        return False
    for step in record.steps:
        if not step.over:
            means.end_step(record, step, "skipped", refusal.reason)
    if record.found:
        record.state, record.remark = "held", f"{record.remark}; never touched: {refusal.reason}"
        means.ledger.save(record)
        return False
    left = denying.lift(means, record)
    means.finish(record, "failed", f"never touched: {refusal.reason}; the denial is {left or 'lifted'}")
    return False


def _sockets(means: Means, case: Case, directory: CgroupDirectory | None, now_ns: int) -> None:
    record = case.record
    step = record.step("sockets")
    if step.state == "waiting" and not record.order.cut:
        means.end_step(record, step, "skipped", denying.NOT_ASKED)
    elif step.state == "waiting":
        begin(step)
        folder = means.host.cgroup_mount.rstrip("/") + record.order.path
        away = _away(means, record, directory)
        try:
            until = now_ns + means.settings.destroy_seconds * SECOND_NS
            case.sweep = Sweep(Request(folder, record.cgroup_id, away), until)
        except OSError as error:
            means.end_step(record, step, "failed", f"no child: {error.strerror}; the network is denied all the same")
            means.ledger.save(record)
    elif case.sweep is not None and not step.over and (swept := case.sweep.poll(now_ns)) is not None:
        for outcome in ("destroyed", "gone", "failed"):
            means.metrics.count("pinfold_sockets_destroyed_total", (outcome,), getattr(swept, outcome))
        means.end_step(record, step, "done" if swept.complete and not swept.failed else "failed", swept.text)
        means.ledger.save(record)
        means.children.append(case.sweep)
        case.sweep = None


# The freeze.


def _freeze(means: Means, case: Case, directory: CgroupDirectory | None, now_ns: int) -> None:
    record = case.record
    step = record.step("freeze")
    if step.over:
        return
    if step.state == "waiting":
        if not record.order.freeze:
            means.end_step(record, step, "skipped", "not asked for")
            return
        # What a release undoes is on the disk before it is done.
        if not means.ledger.written(record.id):
            return
        begin(step)
        case.until_ns = now_ns + means.settings.freeze_seconds * SECOND_NS
        if directory is not None:
            still.freeze(case, directory)
    stopped = still.stop(means, case, directory, now_ns)
    frozen = directory is None or bool(case.record.by_signal) or still.frozen(directory)
    if stopped and frozen:
        means.end_step(record, step, "done", _what_stands_still(case))
        means.metrics.observe("pinfold_quarantine_seconds", (now_ns - case.since_ns) / SECOND_NS, ("frozen",))
        means.ledger.save(record)
    elif now_ns >= case.until_ns:
        _state_unfrozen(means, case, directory)


def _what_stands_still(case: Case) -> str:
    record = case.record
    parts = [
        f"{case.record.by_signal}, so that each process was stopped by a signal"
        if case.record.by_signal
        else "frozen 1"
    ]
    if record.frozen_by == "somebody":
        parts.append("somebody had frozen it before, and a release leaves it so")
    if record.stopped and not case.record.by_signal:
        parts.append(f"stopped, since they left its cgroup: {_named(record)}")
    elif record.stopped:
        parts.append(f"{len(record.stopped)} stopped: {_named(record)}")
    parts += [f"not stopped: {count}, {why}" for why, count in case.refused.items()]
    return "; ".join(parts)


def _named(record: Record) -> str:
    return still.named([tgid for tgid, _ in record.stopped])


def _state_unfrozen(means: Means, case: Case, directory: CgroupDirectory | None) -> None:
    """Some of them, a part at a time."""
    record = case.record
    if case.scanning is None:
        case.members = directory.processes() if directory is not None else []
        case.scanning = still.not_frozen([] if case.record.by_signal else case.members)
        case.left = []
    for _ in range(CHECKED_AT_ONCE):
        try:
            if (tgid := next(case.scanning)) is not None:
                case.left.append(tgid)
        except StopIteration:
            break
    else:
        return
    case.scanning = None
    left = sorted({*case.left, *(target.tgid for target in case.moving)})
    total = len({*case.members, *(tgid for tgid, _ in record.stopped)})
    why = f"{case.record.by_signal}; " if case.record.by_signal else ""
    detail = (
        f"{why}{len(left)} of {total} processes not frozen after {means.settings.freeze_seconds} s: "
        f"{still.named(left)}; what is denied stays denied, and they stand still as soon as the kernel lets go of them"
    )
    means.end_step(record, record.step("freeze"), "failed", detail)
    means.ledger.save(record)


# Evidence, and the end.


def _evidence(means: Means, case: Case, directory: CgroupDirectory | None, now_ns: int) -> None:
    record = case.record
    step = record.step("evidence")
    if step.over or not (record.step("sockets").over and record.step("freeze").over):
        return
    if means.collector is None or not record.order.evidence:
        means.end_step(record, step, "skipped", "not asked for" if not record.order.evidence else "no collector")
        return
    if step.state == "waiting":
        begin(step)
        case.until_ns = now_ns + (means.settings.evidence_seconds + _EVIDENCE_SLACK) * SECOND_NS
    if not case.collecting:
        case.collecting = means.collector.start(_wanted(means, record, directory), now_ns)
    if now_ns >= case.until_ns:
        means.end_step(record, step, "failed", "the collector did not answer in time")
        means.ledger.save(record)


def _wanted(means: Means, record: Record, directory: CgroupDirectory | None) -> Wanted:
    away = _away(means, record, directory)
    return Wanted(record.id, record.order.sandbox_id, record.order.path, away, means.facts(record))


def _away(means: Means, record: Record, directory: CgroupDirectory | None) -> tuple[tuple[int, int], ...]:
    members = set(directory.processes()) if directory is not None else set()
    return tuple((one.tgid, one.start_ticks) for one in still.strays(means, record, members))


def collected(means: Means, case: Case, found: Collected) -> None:
    record = case.record
    step = record.step("evidence")
    if step.over or record.state != "beginning":
        return
    case.collecting = False
    record.evidence = found.archive
    means.end_step(record, step, "done" if found.ok else "failed", found.detail)
    means.ledger.save(record)


def _hold(means: Means, case: Case, now_ns: int) -> None:
    record = case.record
    step = record.step("hold")
    if not record.step("evidence").over:
        return
    failed = [each.name for each in record.steps if each.state == "failed"]
    record.state = "held"
    means.end_step(record, step, "done", f"not done: {', '.join(failed)}" if failed else "")
    means.metrics.observe("pinfold_quarantine_seconds", (now_ns - case.since_ns) / SECOND_NS, ("held",))
    means.ledger.save(record)
