"""What a start finds: the ledger of a daemon that was stopped or killed, and what the kernel still refuses."""

from __future__ import annotations

import time

from sensor.bpf.denials import Deny
from sensor.enrich.sandboxes.cgroupfs import CgroupPaths
from sensor.errors import PinfoldError
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.quarantine import denying, still, watching
from sensor.respond.quarantine.means import Case, Means
from sensor.respond.quarantine.record import Order, Record, new_record

FOUND = "found in force without a ledger entry"


def recover(means: Means, records: list[Record], boot: str, now_ns: int) -> tuple[list[Case], list[str]]:
    """`now_ns`: CLOCK_MONOTONIC. The quarantines that go on, and a line for the operator for each thing found."""
    cases: dict[int, Case] = {}
    lines = [
        f"critical: {means.ledger.path}/{name} is not readable as what we wrote: it is kept aside, and what the kernel "
        "refuses is left in force; look at it, then remove it"
        for name in means.ledger.damaged
    ]
    for record in records:
        if record.over:
            continue
        shown = f"quarantine {record.id} of {record.order.path!a}"
        if record.boot_id != boot:
            means.finish(record, "ended", "the host was started again since")
        elif record.cgroup_id in cases:
            means.finish(record, "ended", f"another, {cases[record.cgroup_id].record.id}, is of the same sandbox")
        else:
            cases[record.cgroup_id] = case = Case(record, now_ns)
            lines.append(f"{shown} {_taken_up(means, case)}")
            continue
        lines.append(f"{shown} {record.state}: {record.remark}")
    for sandbox_id, deny in _in_force(means).items():
        if sandbox_id not in cases:
            case_or_none, line = _adopt(means, sandbox_id, deny, boot, now_ns)
            lines.append(line)
            if case_or_none is not None:
                cases[sandbox_id] = case_or_none
    return list(cases.values()), lines


def _in_force(means: Means) -> dict[int, Deny]:
    try:
        return {} if means.denials is None else means.denials.all()
    except (PinfoldError, OSError) as error:
        means.told(f"what the kernel refuses to quarantined sandboxes cannot be read: {error}")
        return {}


def _taken_up(means: Means, case: Case) -> str:
    record = case.record
    if record.state == "beginning":
        for step in record.steps:
            if step.state == "begun":
                step.state = "waiting"
    if record.state not in {"beginning", "held"}:
        return f"goes on: {record.state}"
    if record.state == "beginning" and record.order.cut and not record.deny:  # cannot be; but nothing must never be put
        record.deny = int(denying.wanted(record.order, [], all_known=False)[0])
    with means.opened(record) as directory:
        gone = directory is None and not still.strays(means, record, set())
    if gone or denying.in_force(means, record):
        return f"goes on: {record.state}"
    lost = record.step("network").state == "done"
    put = denying.put(means, record, Deny(record.deny))
    if lost and put:
        watching.restart_sockets(case)
        return "was no longer in force in the kernel, and is again; its connections are destroyed again"
    return "goes on" if put else f"is not in force in the kernel: {record.step('network').detail}"


def _adopt(means: Means, sandbox_id: int, deny: Deny, boot: str, now_ns: int) -> tuple[Case | None, str]:
    """A crash came between the denial and the first write; or the entry is damaged, and then nothing is added to what
    is in force, since nobody knows what was asked for."""
    path = means.host.path(sandbox_id)
    if path is None:
        below = CgroupPaths(means.host.cgroup_mount).path(sandbox_id)
        path = None if below is None else "/" + below
    living = bool(means.host.table.in_sandbox(sandbox_id))
    if path is None and not living:
        left = ""
        try:
            if means.denials is not None:
                means.denials.lift(sandbox_id)
        except (PinfoldError, OSError) as error:
            left = f", and is in force still: {error}"
        return None, f"a denial of the cgroup {sandbox_id}, which is gone, concerned nobody{left or ' and is lifted'}"
    damaged = bool(means.ledger.damaged)
    frozen = _frozen(means, sandbox_id, path)
    order = Order(
        sandbox_id,
        path or f"/cgroup-{sandbox_id}-is-gone",
        (path or "").rpartition("/")[2] or str(sandbox_id),
        reason=FOUND,
        operator="nobody known",
        loopback=not deny & Deny.LOOPBACK,
        freeze=frozen or not damaged,
        evidence=not damaged,
    )
    record = new_record(order, boot, 0, time.time_ns())
    record.deny, record.remark, record.found = int(deny), FOUND, True
    # With a damaged ledger it was most likely frozen by us; else not, since a freeze comes after the first write.
    record.frozen_by = "somebody" if frozen and not damaged else "us"
    case = Case(record, now_ns)
    denying.put(means, record, deny, FOUND)
    means.ledger.save(record)
    return case, f"critical: a quarantine of {order.path!a} was {FOUND}, and is held as {record.id}"


def _frozen(means: Means, sandbox_id: int, path: str | None) -> bool:
    if path is None:
        return False
    try:
        with CgroupDirectory(means.host.cgroup_mount, path, sandbox_id) as directory:
            return directory.frozen()
    except OSError:
        return False
