"""Who is killed for leaving, and who is not: real processes, and a table that the test writes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.metrics import Metrics
from sensor.respond import containment
from sensor.respond.containment import Containment, Escape
from sensor.respond.disarm import Arming
from tests.respond.host import SANDBOX, Record, Table, alive, host, record_of, running, sleeper

OUTSIDE = 99


class Acting:
    """A containment, and what it told."""

    def __init__(self, folder: Path, table: Table, *, own: tuple[int, ...] = ()) -> None:
        self.metrics = Metrics()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.swept: list[tuple[int, int]] = []
        self.arming = Arming(str(folder))
        self.containment = Containment(
            host(table, own_pids=own),
            lambda name: name == "strict",
            self.arming,
            self.metrics,
            lambda text, **fields: self.told.append((text, fields)),
            lambda sandbox_id, cgroup_id: self.swept.append((sandbox_id, cgroup_id)),
        )

    def escaped(self, record: Record, mover: int = 0, name: str = "strict", **more: bool) -> None:
        escape = Escape(
            SANDBOX, record.tgid, record.start_ns, OUTSIDE, time.monotonic_ns() - 1_000_000, mover or record.tgid
        )
        self.containment.escaped(escape, name, **more)

    def count(self, outcome: str) -> float:
        return self.metrics.value("pinfold_containments_total", (outcome,))

    def settle(self, until: str = "") -> None:
        deadline = time.monotonic() + 20
        while self.containment.pending and not (until and any(until in text for text, _ in self.told)):
            assert time.monotonic() < deadline
            self.containment.settle()


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[str]]:
    with running(*sleeper()) as process:
        yield process


def test_it_is_killed_and_the_window_told(tmp_path: Path, sleeping: subprocess.Popen[str]) -> None:
    record = record_of(sleeping.pid)
    acting = Acting(tmp_path, Table(record))
    acting.escaped(record)
    assert sleeping.wait() == -9
    ((text, fields),) = acting.told
    assert fields["window_ns"] >= 1_000_000
    assert f"killed {fields['window_ns'] / 1e6:.3f} ms after the move" in text
    assert acting.swept == [(SANDBOX, OUTSIDE)]
    acting.settle()
    assert acting.swept == [(SANDBOX, OUTSIDE)] * 2, "once more for what was passed on late"
    assert acting.count("killed") == 1


@pytest.mark.parametrize(("name", "disarmed"), [("lenient", False), ("strict", True)])
def test_where_nothing_is_enforced_it_lives(
    tmp_path: Path, sleeping: subprocess.Popen[str], name: str, disarmed: bool
) -> None:
    record = record_of(sleeping.pid)
    acting = Acting(tmp_path, Table(record))
    if disarmed:
        acting.arming.disarm()
    acting.escaped(record, name=name)
    assert alive(sleeping.pid)
    assert (acting.told, acting.swept, acting.count("would")) == ([], [], 1)


def test_never_touch_is_asked_when_acting(tmp_path: Path, sleeping: subprocess.Popen[str]) -> None:
    record = record_of(sleeping.pid)
    acting = Acting(tmp_path, Table(record), own=(sleeping.pid,))
    acting.escaped(record)
    acting.settle()
    assert alive(sleeping.pid)
    assert acting.count("never_touch") == 1
    assert "a process of pinfold" in acting.told[0][0]


def test_a_later_process_of_its_number_is_not_touched(tmp_path: Path, sleeping: subprocess.Popen[str]) -> None:
    record = record_of(sleeping.pid)
    acting = Acting(tmp_path, Table(record))
    acting.escaped(Record(record.tgid, record.start_ns - 10**9))
    assert alive(sleeping.pid)
    assert acting.count("gone") == 1


def test_who_moved_it_dies_too_where_it_is_a_sandboxs(tmp_path: Path, sleeping: subprocess.Popen[str]) -> None:
    with running(*sleeper()) as mover, running(*sleeper()) as stranger:
        record, by = record_of(sleeping.pid), record_of(mover.pid)
        acting = Acting(tmp_path, Table(record, by))
        acting.escaped(record, mover.pid)
        assert (sleeping.wait(), mover.wait()) == (-9, -9)
        acting.escaped(record, stranger.pid)
        assert alive(stranger.pid), "no record knows it"


def test_what_a_gone_process_forked_is_killed_when_its_record_is_read(tmp_path: Path) -> None:
    with running(*sleeper()) as orphan:
        gone = Record(2**22 - 3, 5)
        table = Table()
        acting = Acting(tmp_path, table)
        acting.escaped(gone)
        assert acting.count("gone") == 1
        table.add(record_of(orphan.pid, parent=gone))
        deadline = time.monotonic() + 20
        while orphan.poll() is None:
            assert time.monotonic() < deadline
            acting.containment.settle()
        assert orphan.returncode == -9


def test_a_replay_of_one_that_is_dead_says_nothing(tmp_path: Path) -> None:
    acting = Acting(tmp_path, Table())
    acting.escaped(Record(os.getpid(), 5), again=True)
    assert (acting.told, acting.containment.pending) == ([], False)


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment, "MOST_PENDING", 3)
    acting = Acting(tmp_path, Table())
    for number in range(5):
        acting.escaped(Record(2**22 - 3, number))
    assert acting.metrics.value("pinfold_responses_unsettled_total") == 2
