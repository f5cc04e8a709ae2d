"""What is lost is said of whom it may concern, and what a sandbox makes of its files bounds nobody else's."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from sensor.configfiles import Files as Settings
from sensor.enrich.processes import Process, ProcessTable
from sensor.files import fanotify
from sensor.files.fanotify import OVERFLOW
from sensor.files.files import FOLDERS_MAX, Files
from sensor.files.marker import Answer, Look
from sensor.metrics import Metrics
from sensor.rules.ruleset import Ruleset
from tests.export import samples
from tests.files.events import SANDBOX, TGID, VIEW, batch, process, raw, telling

RULES = Ruleset((), (), (), (), beyond=("an-id",))


class Made(Files):
    def __init__(self, **settings: Any) -> None:
        self.told: list[str] = []
        self.metrics = Metrics()
        enricher = telling()[0]._enricher
        cast(Any, enricher.sandboxes).live = lambda: [SimpleNamespace(id=SANDBOX)]
        super().__init__(Settings(**settings), enricher, self.metrics, lambda text, **_: self.told.append(text), RULES)


def test_an_overflow_is_the_loss_of_every_sandbox_that_is_watched() -> None:
    files = Made(enabled=False)
    files.observe(samples.process_creation(SandboxId=SANDBOX))
    assert files.take() == [] and files.lost == {}
    files._sandboxes = {SANDBOX: cast(Any, None), 8: cast(Any, None)}
    files._waiting.append(batch(raw(OVERFLOW, tgid=0)))
    assert files.busy and files.take() == []
    assert files.lost == {SANDBOX: {"files_overflow": 1}, 8: {"files_overflow": 1}}
    assert files.metrics.value("pinfold_events_lost_total", ("files", "overflow")) == 2
    files._ended(8)
    assert files.lost.keys() == {SANDBOX}


def test_off_is_off() -> None:
    files = Made(enabled=False)
    files.collect()
    files.each_second(1)
    files.tick(1)
    assert files.descriptors == () and not files.busy
    files.close()


def test_rules_that_nobody_can_watch_for_are_named() -> None:
    assert Made(enabled=False).told == [
        "1 rules about files may match where nothing is watched, as an-id: name a folder in each"
    ]


def test_without_fanotify_the_sensor_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanotify, "_libc", SimpleNamespace(fanotify_init=lambda *_: -1))
    files = Made()
    assert files.descriptors == () and any(text.startswith("no file events: ") for text in files.told)
    files.observe(samples.sandbox_change(change="ended"))
    files.each_second(1)


def test_beyond_the_bound_of_marks_nothing_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanotify, "group", lambda: 99)
    monkeypatch.setattr(fanotify, "flush", lambda _: None)
    files = Made(marks=64)
    files._full = True
    files._look_whole(SANDBOX, 10**12)
    assert files.lost[SANDBOX]["files_unwatched"] == 1 and not files.busy
    files.each_second(10**12)  # after a while all are made anew
    assert not files._full and files.busy


def test_a_memory_full_of_folders_hides_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanotify, "group", lambda: 99)
    files = Made()

    def enters(number: int, milliseconds: int) -> bool:
        """Whether it is to be looked at."""
        made = samples.process_creation(
            SandboxId=SANDBOX, CurrentDirectory=f"/{number}", monotonic_ns=milliseconds * 1_000_000
        )
        files.observe(made)
        return (made.MountNamespace, f"/{number}") in files._sandboxes[SANDBOX].asked

    assert all(enters(number, 1) for number in range(FOLDERS_MAX))
    assert SANDBOX not in files.lost
    assert not enters(FOLDERS_MAX, 2)  # a flood: what is passed over is a loss, and said
    assert files.lost[SANDBOX]["files_unwatched"] == 1
    assert enters(FOLDERS_MAX + 1, 60)
    assert len(files._sandboxes[SANDBOX].asked) == FOLDERS_MAX


class Asked(Made):
    """Notes who is looked at, and answers as it is told to; `end` takes a process from the table."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fanotify, "group", lambda: 99)
        super().__init__()
        self.looks: list[Look] = []
        table = self._enricher.processes
        for number in (1, 2, 3, 4):
            newer = process(TGID + number)
            newer.start_ns = 5 + number
            table.found(newer)

    def _ask(self, look: Look) -> bool:
        self.looks.append(look)
        return True

    def whole(self, now_s: int, cause: Process | None = None) -> None:
        if cause is not None:
            self._telling.look_again[SANDBOX] = cause
        self._telling.now_ns = now_s * 10**9
        self._settle(self._telling.now_ns)

    def gone(self) -> None:
        self._answered(self.looks[-1], Answer("gone"))


def test_where_the_newest_has_ended_others_are_asked_up_to_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Asked(monkeypatch)
    maker = process(TGID + 4)
    files.whole(100, maker)
    for _ in range(4):
        files.gone()
    assert [look.tgid - TGID for look in files.looks] == [4, 3, 1, 0]
    assert all(look.cause is maker and look.since_ns == files.looks[0].since_ns for look in files.looks)
    # Nobody was there: whatever is looked at next is to find what this look was to find.
    first_ns = files.looks[0].since_ns
    files.whole(101)
    files._look_whole(SANDBOX, 101 * 10**9)
    assert (files.looks[-1].cause, files.looks[-1].since_ns) == (maker, first_ns) and files.lost == {}
    files._answered(files.looks[-1], Answer("done", VIEW))
    files._look_whole(SANDBOX, 200 * 10**9)
    assert files.looks[-1].cause is None


def test_a_sandbox_whose_processes_all_end_before_they_are_looked_at_is_unwatched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = Asked(monkeypatch)
    for turn in range(3):
        assert files.lost == {}
        files._look_whole(SANDBOX, (100 + turn) * 10**9)
        while files._sandboxes[SANDBOX].waits:
            files.gone()
    assert files.lost == {SANDBOX: {"files_unwatched": 1}}


def test_a_root_that_is_ours_is_looked_at_by_us_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made a folder in it, and something in that, was all there was."""
    files = Asked(monkeypatch)
    made = samples.process_creation(
        SandboxId=SANDBOX, ProcessId=TGID, MountNamespace=os.stat("/proc/self/ns/mnt").st_ino
    )
    files.observe(made)
    files.whole(100, process())
    while not files.looks[-1].whole or files.looks[-1].tgid != os.getpid():
        files.gone()
    assert len(files.looks) == 2 + 5
    files._answered(files.looks[-1], Answer("done", VIEW))
    files._enricher.processes = ProcessTable(64)
    files.whole(200, process())
    assert files.looks[-1].tgid == os.getpid() and len(files.looks) == 2 + 6
    files._answered(files.looks[-1], Answer("done", VIEW))
    files._look_whole(SANDBOX, 300 * 10**9)
    assert len(files.looks) == 2 + 6  # nobody is there, and nothing was made


def test_what_is_found_late_is_put_down_to_nobody_and_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Asked(monkeypatch)
    told = []
    monkeypatch.setattr(files._telling, "changed", lambda path, cause, _: told.append((path, cause)))
    maker = process()
    files.whole(100, maker)
    answer = Answer("done", VIEW, changed=("/etc/crontab", "/etc/passwd"))
    files._answered(files.looks[-1], answer)
    assert told == [(b"/etc/crontab", maker), (b"/etc/passwd", maker)] and files.lost == {}
    files._answered(structs.replace(files.looks[-1], since_ns=files.looks[-1].since_ns - 11 * 10**9), answer)
    assert len(told) == 2 and files.lost == {SANDBOX: {"files_unattributed": 2}}


def test_those_in_which_something_appeared_wait_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they keep the others from their turn, however many there are."""
    files = Asked(monkeypatch)
    live = [SimpleNamespace(id=number) for number in range(1, 31)]
    cast(Any, files._enricher.sandboxes).live = lambda: live
    cast(Any, files._enricher.processes).in_sandbox = lambda _: [process()]
    files.each_second(10**12)
    for look in list(files.looks):
        files._answered(look, Answer("done", VIEW))
    assert len(files.looks) == 30
    for number in range(21, 31):
        files._sandboxes[number].since = (process(), 1)
    del files.looks[:]
    files.each_second(2 * 10**12)
    assert [look.sandbox_id for look in files.looks] == [21, 22, 23, 24, 1, 2, 3, 4]
