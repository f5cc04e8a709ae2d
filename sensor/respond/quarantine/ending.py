"""The ends of a quarantine: a release, which undoes what was done in reverse and looks whether it is undone, and a
kill. Both go on until they are over, also after a crash; what cannot be done is stated, and tried each second."""

from __future__ import annotations

import signal

from sensor.respond import procfs
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.kill import Gone
from sensor.respond.nevertouch import Refusal
from sensor.respond.quarantine import denying, still
from sensor.respond.quarantine.beginning import vanished
from sensor.respond.quarantine.means import SECOND_NS, Case, Means
from sensor.respond.quarantine.record import begin
from sensor.respond.table import Identity


def release(means: Means, case: Case, now_ns: int) -> None:
    """To be called again while the record's state is `releasing`."""
    record = case.record
    if not means.ledger.written(record.id):
        return
    case.drop(means)
    with means.opened(record) as directory:
        if directory is None and not still.strays(means, record, set()):
            vanished(means, case)
        elif _thaw(means, case, directory, now_ns) and _continue(means, case) and _lift(means, case):
            means.finish(record, "released")


def _thaw(means: Means, case: Case, directory: CgroupDirectory | None, now_ns: int) -> bool:
    record = case.record
    step = record.undo("thaw")
    if step.state in {"done", "skipped"}:
        return True
    if directory is None or record.frozen_by != "us":
        why = {"somebody": "somebody else had frozen it before: left frozen"}.get(record.frozen_by, "it was not frozen")
        means.end_step(record, step, "skipped", why if directory is not None else "its cgroup is gone")
        return True
    begin(step)
    try:
        if directory.frozen():
            directory.thaw()
        asked = directory.read("cgroup.freeze").strip() != b"0"
    except FileNotFoundError:
        asked = False
    except OSError as error:
        return _not_yet(means, case, "thaw", f"it stays frozen: cgroup.freeze: {error.strerror}")
    if asked:
        return _not_yet(means, case, "thaw", "somebody freezes it again and again")
    if still.frozen(directory):
        # The kernel tells of it a moment later; or a cgroup above it is frozen, which is not ours to thaw.
        if now_ns < case.until_ns:
            return False
        means.end_step(record, step, "done", "its own freeze is undone; it stands still as one above it is frozen")
    else:
        means.end_step(record, step, "done", "frozen 0")
    means.ledger.save(record)
    return True


def _not_yet(means: Means, case: Case, name: str, why: str) -> bool:
    step = case.record.undo(name)
    if step.state != "failed" or step.detail != why:
        means.end_step(case.record, step, "failed", f"{why}; tried again each second")
        step.detail = why
        means.ledger.save(case.record)
    case.slow = True
    return False


def _continue(means: Means, case: Case) -> bool:
    record = case.record
    step = record.undo("continue")
    if step.over:
        return True
    if not record.stopped:
        means.end_step(record, step, "skipped", "nobody was stopped")
        return True
    begin(step)
    continued = sum(still.send(Identity(*each), signal.SIGCONT) for each in record.stopped)
    left = [tgid for tgid, ticks in record.stopped if _stopped(tgid, ticks)]
    detail = f"{continued} continued" + (f", stopped still: {still.named(left)}" if left else "")
    means.end_step(record, step, "failed" if left else "done", detail)
    return True


def _stopped(tgid: int, ticks: int) -> bool:
    stat = procfs.stat(tgid)
    return stat is not None and stat.start_ticks == ticks and stat.state == "T"


def _lift(means: Means, case: Case) -> bool:
    record = case.record
    step = record.undo("lift")
    if step.state == "done":
        return True
    begin(step)
    if left := denying.lift(means, record):
        return _not_yet(means, case, "lift", left)
    means.end_step(record, step, "done", "programs, devices and the network are no longer refused")
    return True


def kill(means: Means, case: Case, now_ns: int) -> None:
    """To be called again while the record's state is `killing`."""
    record = case.record
    if not means.ledger.written(record.id):
        return
    case.drop(means)
    step = record.undo("kill")
    if now_ns >= case.second_ns and not step.over:
        begin(step)
        case.second_ns = now_ns + SECOND_NS
        if not _kill(means, case):
            return
    with means.opened(record) as directory:
        if not step.over and (left := _living(means, case, directory)):
            _state_living(means, case, left, now_ns)
            return
        if not step.over:
            means.end_step(record, step, "done", "nothing of it lives")
        # An orchestrator may use the cgroup again: nothing that it starts there is to stand still.
        if _thaw(means, case, directory, now_ns) and _lift(means, case):
            means.finish(record, "killed")


def _kill(means: Means, case: Case) -> bool:
    """Asks for it. False: it must not be, and the quarantine is held on."""
    record = case.record
    try:
        done = means.killer.kill(record.order.sandbox_id)
    except Gone:
        done = None
    except OSError as error:
        means.say(record, f"the kernel refused to kill it: {error.strerror}; tried again each second")
        done = None
    if isinstance(done, Refusal):
        means.end_step(record, record.undo("kill"), "failed", f"never touched: {done.reason}; held on")
        record.undone.clear()
        record.state = "held"
        record.remark = f"not killed: {done.reason}"
        means.ledger.save(record)
        return False
    for each in record.stopped + record.spared:  # those that left, whom a table without records does not know
        target = Identity(*each)
        if still.refusal_of(means, target) is None:
            still.send(target, signal.SIGKILL)
    return True


def _living(means: Means, case: Case, directory: CgroupDirectory | None) -> list[int]:
    away = [one.tgid for one in still.strays(means, case.record, set())]
    try:
        inside = directory.processes() if directory is not None and directory.populated() else []
    except OSError:
        inside = []
    return sorted({*inside, *away})


def _state_living(means: Means, case: Case, left: list[int], now_ns: int) -> None:
    if now_ns < case.until_ns:
        return
    case.slow = True
    if case.stated:
        return
    case.stated = True
    case.record.remark = (
        f"{len(left)} of its processes do not die, and die as soon as the kernel lets go of them: {still.named(left)}; "
        "what is denied stays denied"
    )
    means.say(case.record, case.record.remark, step="kill", outcome="failed")
    means.ledger.save(case.record)
