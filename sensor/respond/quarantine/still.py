"""Holds what is quarantined still: the cgroup by its freezer, what left it and what has no freezer by SIGSTOP.

A cgroup's freezer leaves nobody out and cannot be swallowed. SIGSTOP can (by a tracer) and misses a fork under way:
so it is repeated until nobody new is met. Who is to be stopped is on the disk before the signal goes out, and who
was stopped already is not written down: a release continues exactly whom we stopped.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

from sensor.respond import procfs
from sensor.respond.cgroupfs import GONE, CgroupDirectory
from sensor.respond.nevertouch import Refusal
from sensor.respond.quarantine.means import Case, Means
from sensor.respond.quarantine.record import MOST_STOPPED, Record
from sensor.respond.table import Identity, identity

AT_ONCE = 256  # processes looked at in one go: some 5 ms
SCAN_NS = 20_000_000
NAMED = 16  # tgids in a text
_STOPPED = frozenset("Tt")
_MOST_THREADS = 64


def strays(means: Means, record: Record, members: set[int]) -> list[Identity]:
    """Living processes that left its cgroup, as the process table and the ledger know them."""
    found = {identity(known): None for known in means.host.table.in_sandbox(record.cgroup_id)}
    found.update({Identity(*each): None for each in record.stopped + record.spared})
    return [one for one in found if one.tgid not in members and alive(one)]


def freeze(case: Case, directory: CgroupDirectory) -> None:
    """Asks for it and does not wait."""
    try:
        directory.write("cgroup.freeze", b"1")
        case.record.by_signal = ""
        return
    except OSError as error:
        if error.errno == errno.ENOENT:
            case.record.by_signal = "it has no cgroup.freeze"
        elif error.errno not in GONE:
            case.record.by_signal = f"cgroup.freeze: {error.strerror}"
    if case.record.by_signal and case.record.frozen_by == "us":
        case.record.frozen_by = ""


def frozen(directory: CgroupDirectory) -> bool:
    """All of it stands still, nested cgroups included; not merely asked to."""
    try:
        return b"frozen 1" in directory.read("cgroup.events")
    except OSError:
        return False


def stop(means: Means, case: Case, directory: CgroupDirectory | None, now_ns: int) -> bool:
    """True once everyone who is to be stopped was seen standing still. To be called again while False."""
    if case.pending:
        if not means.ledger.written(case.record.id):
            return False
        case.moving += [target for target in case.pending if send(target, signal.SIGSTOP)]
        case.pending.clear()
        case.scan_ns = 0
    met = _meet(means, case, directory) if now_ns >= case.scan_ns else False
    if not met and now_ns >= case.scan_ns:
        case.scan_ns = now_ns + SCAN_NS
    case.moving = [target for target in case.moving if not _still(target)]
    return not met and not case.pending and not case.moving


def _meet(means: Means, case: Case, directory: CgroupDirectory | None) -> bool:
    """Whether somebody new is there."""
    members = directory.processes() if directory is not None else []
    targets = strays(means, case.record, set(members))
    fresh = [target for target in targets if target not in case.known]
    if case.record.by_signal:
        known = {target.tgid: target for target in case.known}
        fresh += [one for tgid in members if (one := _identity(tgid)) is not None and one != known.get(tgid)]
    for target in fresh[:AT_ONCE]:
        case.known.add(target)
        if (refusal := refusal_of(means, target)) is not None:
            case.refused[refusal] = case.refused.get(refusal, 0) + 1
        elif len(case.record.stopped) + len(case.record.spared) >= MOST_STOPPED:
            case.refused["too many"] = case.refused.get("too many", 0) + 1
        elif _still(target):
            case.record.spared.append((target.tgid, target.start_ticks))
        else:
            case.record.stopped.append((target.tgid, target.start_ticks))
            case.pending.append(target)
    if case.pending:
        means.ledger.save(case.record)
    return bool(fresh)


def refusal_of(means: Means, target: Identity) -> str | None:
    """Why it may not be touched, as of now."""
    stat = procfs.stat(target.tgid)
    if stat is None or stat.start_ticks != target.start_ticks:
        return None
    refused: Refusal | None = means.guard.process(target, stat, means.host.table.get(target.tgid))
    return None if refused is None else refused.reason


def _identity(tgid: int) -> Identity | None:
    stat = procfs.stat(tgid)
    return None if stat is None or stat.gone else Identity(tgid, stat.start_ticks)


def _still(target: Identity) -> bool:
    """Stopped, or gone."""
    stat = procfs.stat(target.tgid)
    if stat is None or stat.gone or stat.start_ticks != target.start_ticks or stat.state in _STOPPED:
        return True
    if stat.state != "Z":
        return False
    # Its leader left by pthread_exit, and its other threads run on.
    threads = (procfs.stat_of_thread(target.tgid, tid) for tid in _threads(target.tgid))
    return all(thread is None or thread.state in _STOPPED | {"Z", "X"} for thread in threads)


def _threads(tgid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{tgid}/task")[:_MOST_THREADS]
    except OSError:
        return []


def alive(target: Identity) -> bool:
    stat = procfs.stat(target.tgid)
    return stat is not None and not stat.gone and stat.start_ticks == target.start_ticks


def send(target: Identity, number: int) -> bool:
    """To exactly this process. False: it is gone."""
    try:
        pidfd = os.pidfd_open(target.tgid)
    except OSError:
        return False
    try:
        if not alive(target):
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
            return True
        return False
    finally:
        os.close(pidfd)


def stop_again(record: Record) -> int:
    """Stops whom somebody continued, also those that were stopped before we came: an accomplice would do just so.
    How many."""
    count = 0
    for stopped in (record.stopped, record.spared):
        for each in list(stopped):
            target = Identity(*each)
            if _still(target):
                continue
            if stopped is record.spared:  # from now on by us
                record.spared.remove(each)
                record.stopped.append(each)
            count += send(target, signal.SIGSTOP)
    return count


def not_frozen(tgids: list[int]) -> Iterator[int | None]:
    """Those that the freezer waits for, None for the others. A frozen thread sleeps interruptibly; one that waits
    in the kernel for something else (D), or runs there, does not see that it is to stand still."""
    for tgid in tgids:
        yield tgid if _busy(tgid) else None


def _busy(tgid: int) -> bool:
    stat = procfs.stat(tgid)
    if stat is None or stat.gone:
        return False
    if stat.threads <= 1:
        return stat.state in "DR"
    threads = (procfs.stat_of_thread(tgid, tid) for tid in _threads(tgid))
    return any(thread is not None and thread.state in "DR" for thread in threads)


def named(tgids: list[int]) -> str:
    more = f" and {len(tgids) - NAMED} more" if len(tgids) > NAMED else ""
    return " ".join(map(str, tgids[:NAMED])) + more
