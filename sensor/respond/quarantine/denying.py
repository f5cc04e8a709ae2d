"""What the kernel refuses to a quarantined sandbox: put, looked after, lifted."""

from __future__ import annotations

import os
from contextlib import suppress

from sensor.bpf.denials import Deny
from sensor.errors import PinfoldError
from sensor.respond.quarantine.means import Means
from sensor.respond.quarantine.record import DENIED, Order, Record, denial

_NOTHING_PINNED = "nothing is pinned: the sensor was not started, or its pins are gone"


NOT_ASKED = "not asked for"


def wanted(order: Order, members: list[int], *, all_known: bool) -> tuple[Deny, str]:
    """Loopback is allowed only where it leads nowhere but to the sandbox itself."""
    deny = denial(order)
    if not order.cut or not order.loopback:
        return deny, ""
    if not all_known or any(_in_our_network(tgid) for tgid in members):
        return deny | Deny.LOOPBACK, "loopback denied too: it shares a network namespace with the host"
    return deny, "loopback within its own network namespace allowed"


def _in_our_network(tgid: int) -> bool:
    """Ours is the host's; that of PID 1 is asked too where it may be, which lockdowns and user namespaces forbid."""
    ours = {os.stat("/proc/self/ns/net").st_ino}
    with suppress(OSError):
        ours.add(os.stat("/proc/1/ns/net").st_ino)
    try:
        return os.stat(f"/proc/{tgid}/ns/net").st_ino in ours
    except FileNotFoundError:
        return False
    except OSError:
        return True


def put(means: Means, record: Record, deny: Deny, detail: str = "") -> bool:
    """One write for three steps. Not taken by the kernel is no reason to leave the rest undone."""
    state, why = "done", detail
    if not record.order.cut:
        for name in DENIED:
            if not record.step(name).over:
                means.end_step(record, record.step(name), "skipped", NOT_ASKED)
        return True
    try:
        if means.denials is None:
            state, why = "failed", _NOTHING_PINNED
        else:
            means.denials.put(record.cgroup_id, deny)
    except (PinfoldError, OSError) as error:
        state, why = "failed", f"the kernel did not take it: {error}"
    for name in DENIED:
        step = record.step(name)
        if step.state != state:
            means.end_step(record, step, state, why if name == "network" or state == "failed" else "")  # type: ignore[arg-type]
    record.deny = int(deny)
    return state == "done"


def in_force(means: Means, record: Record) -> bool:
    try:
        return means.denials is not None and means.denials.get(record.cgroup_id) == Deny(record.deny)
    except (PinfoldError, OSError):
        return False


def lift(means: Means, record: Record) -> str:
    """Lifts and verifies it: "", or why it is in force still."""
    if means.denials is None:
        return ""
    try:
        means.denials.lift(record.cgroup_id)
        left = means.denials.get(record.cgroup_id)
    except (PinfoldError, OSError) as error:
        return f"the kernel did not lift it: {error}"
    return f"in force still: {left!r}" if left else ""
