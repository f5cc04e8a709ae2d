"""Repeats of a detection: which are folded into the first, for how long, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.events.detection import Correlated, Detection
from sensor.rules import folding
from sensor.rules.engine import Engine
from sensor.rules.folding import Folding
from tests.enrich import records
from tests.enrich.records import START
from tests.export import samples
from tests.rules.helpers import build
from tests.test_pipeline import BORN, CONNECT, MINER, MINES, Run, connect

SECOND = 1_000_000_000


def found(at: int, rule: str = "r", **fields: Any) -> Detection:
    activity = samples.network_connection(monotonic_ns=at, time_ns=at, position=at, **fields)
    return samples.detection(activity, rule_id=rule, id=f"{at}/{rule}")


def test_the_first_is_told_and_its_repeats_are_counted() -> None:
    fold = Folding(60, 0)
    assert [fold.fold(found(at), at * SECOND) for at in (1, 2, 60)] == [False, True, True]
    assert fold.tick(60 * SECOND) == []
    (told,) = fold.tick(61 * SECOND)
    assert (told.detection, told.count, told.first_ns, told.last_ns, told.why) == ("1/r", 2, 2, 60, "repeated")
    assert fold.fold(found(61), 61 * SECOND) is False
    assert fold.tick(None) == []


def test_a_window_that_ends_by_the_next_detection_is_told_too() -> None:
    fold = Folding(60, 0)
    assert [fold.fold(found(at), at * SECOND) for at in (1, 2, 70)] == [False, True, False]
    assert [told.count for told in fold.tick(70 * SECOND)] == [1]


@pytest.mark.parametrize(
    "other",
    [
        {"rule": "s"},
        {"SandboxId": 5},
        {"ProcessGuid": "1000-5"},
        {"DestinationIp": "203.0.113.8"},
        {"DestinationPort": 444},
        {"DestinationPath": "/run/x"},
    ],
)
def test_anything_else_is_no_repeat(other: dict[str, Any]) -> None:
    fold = Folding(60, 0)
    assert fold.fold(found(1), SECOND) is False
    assert fold.fold(found(2, **other), SECOND) is False
    assert fold.fold(found(3, Image="/other", Count=9), SECOND) is True


@pytest.mark.parametrize("make", samples.EVERY_ACTIVITY)
def test_every_category_has_something_that_repeats(make: Any) -> None:
    fold = Folding(60, 0)
    activity = make()
    assert [fold.fold(samples.detection(activity), 0) for _ in range(2)] == [False, True]


def test_more_of_a_rule_in_a_sandbox_than_its_rate_is_counted() -> None:
    fold = Folding(0, 3)
    assert [fold.fold(found(at, DestinationPort=at), at * SECOND) for at in range(5)] == [False] * 3 + [True] * 2
    assert fold.fold(found(5, SandboxId=8), 5 * SECOND) is False
    assert fold.fold(found(5, rule="s"), 5 * SECOND) is False
    assert fold.fold(found(61), 61 * SECOND) is False
    (told,) = fold.tick(61 * SECOND)
    assert (told.detection, told.count, told.why) == ("0/r", 2, "many")


def test_a_correlation_is_never_folded() -> None:
    fold = Folding(60, 1)
    seen = Correlated("event_count", (), 3, 0, 0, (), partial=False)
    detection = samples.detection(samples.process_creation(), correlation=seen)
    assert [fold.fold(detection, 0) for _ in range(3)] == [False] * 3


def test_it_is_bounded_and_forgets_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MOST_KEYS", 4)
    fold = Folding(60, 0)
    for port in range(20):
        for _ in range(2):
            fold.fold(found(1, DestinationPort=port), SECOND)
    assert len(fold._repeats) == 4
    assert sum(told.count for told in fold.tick(None)) == 20


def test_in_the_pipeline_what_is_answered_is_told_and_the_rest_folded(tmp_path: Path) -> None:
    run = Run(tmp_path, Engine(build(MINER, CONNECT)))
    run.pipeline.fold(60, 600)
    run.take(0, BORN)
    run.take(8, MINES)
    for position in (16, 24):
        run.take(position, connect())
    assert len(run.acting.asked) == 3, "each would be answered"
    run.acting.silent = True
    for position in (32, 40, 48):
        run.take(position, connect())
    run.take(56, records.exec_(501, START, b"xmrig\0", "/tmp/xmrig"))
    detections = [line for line in run.lines() if line["kind"] == "detection"]
    assert [int(line["event"].rpartition("-")[2], 16) for line in detections] == [8, 16, 24, 32, 56]
    rule = detections[-2]["rule"]["id"]
    assert run.counted("pinfold_detections_folded_total", rule, "high") == 2
    run.pipeline.end()
    (notice,) = [line for line in run.lines() if line["kind"] == "notice"]
    assert notice["fields"]["detection"] == detections[-2]["id"]
    assert notice["fields"]["count"] == 2
