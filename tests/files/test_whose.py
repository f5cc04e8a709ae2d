"""Whose deed it is: two had the same number, or its owner was in no sandbox."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sensor.enrich import procfs
from sensor.enrich.processes import Process, ProcessTable
from sensor.files.fanotify import NO_PIDFD, Event
from sensor.files.whose import CLOSING_NS, Batch, whose
from tests.files.events import SANDBOX, process

NOBODY: tuple[None, set[int]] = (None, set())
SINCE, UNTIL = 1_000 * CLOSING_NS, 1_001 * CLOSING_NS
BEFORE, MEANWHILE, AFTER = SINCE - 10, SINCE + 10, UNTIL + 10
THERE = 7
# Above every pid_max: nobody has it.
TGID = 1 << 23


@pytest.fixture(autouse=True)
def never_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two clocks show the same, as on a machine that was never suspended."""
    monkeypatch.setattr("time.clock_gettime_ns", lambda _: 0)
    monkeypatch.setattr("time.monotonic_ns", lambda: 0)


def one(start_ns: int, ended_ns: int = 0, *, sandbox_id: int = SANDBOX, tgid: int = TGID) -> Process:
    made = process(tgid, sandbox_id)
    made.start_ns, made.ended_ns, made.exited = start_ns, ended_ns, ended_ns > 0
    return made


def asked(*processes: Process, gone: bool, tgid: int = TGID) -> tuple[Process | None, set[int]]:
    """Of processes that had the number one after the other."""
    table = ProcessTable(64)
    for each in processes:
        table.found(each)
    event = Event(0, tgid, b"", None, None, None, NO_PIDFD if gone else THERE)
    return whose(table, event, Batch([event], SINCE, UNTIL))


@pytest.mark.parametrize("gone", [False, True])
def test_who_has_had_the_number_all_along_is_the_one(gone: bool) -> None:
    before = one(BEFORE)
    assert asked(before, gone=gone) == (before, set())
    assert asked(one(5, 9), before, gone=gone) == (before, set())
    ended = one(BEFORE, MEANWHILE)
    assert asked(ended, gone=gone) == (ended, set())
    assert asked(gone=gone) == NOBODY


def test_one_that_is_there_is_the_number_s_last_owner_by_then() -> None:
    older, newest = one(BEFORE, MEANWHILE), one(MEANWHILE)
    assert asked(older, newest, gone=False) == (newest, set())
    assert asked(newest, gone=False) == (newest, set())
    short = one(MEANWHILE, AFTER)
    assert asked(older, short, gone=False) == (short, set())


def test_one_that_is_gone_is_not_the_newcomer() -> None:
    older = one(BEFORE, MEANWHILE)
    assert asked(older, one(AFTER), gone=True) == (older, set())
    assert asked(older, one(AFTER), gone=False) == (older, set())
    assert asked(one(AFTER), gone=True) == NOBODY
    # The newest has ended, though its record is not there yet.
    late = one(MEANWHILE)
    assert asked(late, gone=True) == (late, set())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        stat = procfs.read_stat(alive.pid)
        assert stat is not None
        newcomer = one(stat.start_ns, tgid=alive.pid)
        table = ProcessTable(64)
        event = Event(0, alive.pid, b"", None, None, None, NO_PIDFD)
        batch = Batch([event], stat.start_ns - 1, stat.start_ns + 1)
        table.found(newcomer)
        assert whose(table, event, batch) == (None, {SANDBOX})
        older = one(stat.start_ns - 100, stat.start_ns - 50, tgid=alive.pid)
        table = ProcessTable(64)
        table.found(older)
        table.found(newcomer)
        assert whose(table, event, batch) == (older, set())


def test_of_two_that_are_gone_none_is_named() -> None:
    older, newest = one(BEFORE, MEANWHILE), one(MEANWHILE, UNTIL, sandbox_id=8)
    assert asked(older, newest, gone=True) == (None, {SANDBOX, 8})
    # Unless the first was over long before.
    assert asked(one(5, SINCE - 2 * CLOSING_NS), newest, gone=True) == (newest, set())


def test_one_that_is_over_long_since_is_not_named() -> None:
    """Its number is somebody's outside, who is in no table. A gone one may have closed a file late."""
    over = one(5, SINCE - 2 * CLOSING_NS)
    assert asked(over, gone=False) == NOBODY
    assert asked(over, gone=True) == (None, {SANDBOX})
    elsewhere = one(5, MEANWHILE, tgid=os.getpid())
    assert asked(elsewhere, gone=False, tgid=os.getpid()) == NOBODY, "the number is ours by now"
