"""Whose deed an event is: its number may be another's by now.

fanotify tells the number of whoever did it, and whether that one was still there when the event was read. The table is
as of a moment later. An event was queued after the queue was last seen empty, so that whoever has had the number since
before that is the one, and whoever has it since then may be a newcomer.
"""

from __future__ import annotations

import time

from msgspec import Struct

from sensor.enrich import procfs
from sensor.enrich.processes import Process, ProcessTable, same_start
from sensor.files.fanotify import Event

# From a process's last word in the table to what it does to files after it: it closes them. What waits there longer,
# for a file system of the sandbox's own, is not told for certain.
CLOSING_NS = 10_000_000_000


class Batch(Struct, frozen=True, gc=False):
    """What was read at once, in CLOCK_BOOTTIME: when the queue was last empty before, and when it had been read."""

    events: list[Event]
    since_ns: int
    until_ns: int


def whose(table: ProcessTable, event: Event, batch: Batch) -> tuple[Process | None, set[int]]:
    """Who did it; or else the sandboxes of those who may have: none of them where it was nobody in a sandbox."""
    newest = table.current.get(event.tgid)
    if newest is None or (newest.start_ns <= batch.since_ns and not newest.exited):
        return newest, set()
    older = table.replaced.get(event.tgid) if newest.start_ns > batch.since_ns else None
    if older is not None and not _may_have(older, batch):
        older = None
    if newest.start_ns > batch.until_ns:
        return older, set()
    if not event.gone:  # when it was read, the number was its own: it is there still, be it as a zombie
        return (newest if _was_there(newest, batch) else None), set()
    if not newest.exited and procfs.is_same(newest.tgid, newest.start_ns):
        return older, (set() if older is not None else {newest.sandbox_id})
    if older is None and _may_have(newest, batch):
        return newest, set()
    return None, {process.sandbox_id for process in (newest, older) if process is not None}


def _was_there(newest: Process, batch: Batch) -> bool:
    """False where its number had gone to someone in no sandbox, who is in no table."""
    if not newest.exited:
        return True
    now = procfs.read_stat(newest.tgid)
    return same_start(now.start_ns, newest.start_ns) if now is not None else _may_have(newest, batch)


def _may_have(process: Process, batch: Batch) -> bool:
    """Whether it was not over yet when the queue was last empty."""
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return not process.ended_ns or process.ended_ns + asleep_ns + CLOSING_NS > batch.since_ns
