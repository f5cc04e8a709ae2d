"""Conditions that are asked when a window has closed: at most, exactly, between, averages, percentiles."""

from __future__ import annotations

import pytest

from tests.rules.correlation.stream import Stream, correlation, named

FLOW = named("a", "network_flow")


def judged(condition: str, values: list[int], kind: str = "event_count") -> list[float]:
    """What is told of flows of these bytes, a second apart."""
    run = Stream(FLOW, correlation(f"type: {kind}\nrules: a\ntimespan: 60s\ncondition: {condition}"))
    for second, value in enumerate(values):
        assert run.take("a", second, "network_flow", BytesOut=value, Count=1) == []
    assert run.tick(61.9) == []
    return [fired.found.count for fired in run.tick(62)]


@pytest.mark.parametrize(
    ("condition", "count", "told"),
    [
        ("{lt: 3}", 2, True),
        ("{lt: 3}", 3, False),
        ("{lte: 3}", 3, True),
        ("{eq: 3}", 3, True),
        ("{eq: 3}", 4, False),
        ("{neq: 3}", 4, True),
        ("{gte: 2, lte: 4}", 4, True),
        ("{gte: 2, lte: 4}", 5, False),
        ("{gte: 2, lte: 4}", 1, False),
    ],
)
def test_numbers_of_events(condition: str, count: int, told: bool) -> None:
    assert judged(condition, [1] * count) == ([count] if told else [])


@pytest.mark.parametrize(
    ("kind", "condition", "told"),
    [
        ("value_avg", "{gt: 3, field: BytesOut}", [4.0]),
        ("value_avg", "{gt: 4, field: BytesOut}", []),
        ("value_median", "{gte: 2.5, field: BytesOut}", [2.5]),
        ("value_median", "{gt: 2.5, field: BytesOut}", []),
        ("value_percentile", "{gte: 10, field: BytesOut, percentile: 100}", [10]),
        ("value_percentile", "{lt: 2, field: BytesOut, percentile: 10}", [1.3]),
        ("value_sum", "{lt: 17, field: BytesOut}", [16]),
        ("value_count", "{lt: 5, field: BytesOut}", [4]),
        ("value_count", "{lt: 4, field: BytesOut}", []),
    ],
)
def test_what_is_measured(kind: str, condition: str, told: list[float]) -> None:
    assert judged(condition, [1, 10, 3, 2], kind) == pytest.approx(told)


def test_repeats_weigh_what_they_are() -> None:
    run = Stream(FLOW, correlation("type: value_avg\nrules: a\ntimespan: 60s\ncondition: {gt: 0, field: BytesOut}"))
    run.take("a", 0, "network_flow", BytesOut=10, Count=3)
    run.take("a", 1, "network_flow", BytesOut=2, Count=1)
    assert [fired.found.count for fired in run.tick(62)] == [8]


def test_the_next_event_after_a_window_opens_another() -> None:
    run = Stream(FLOW, correlation("type: event_count\nrules: a\ntimespan: 10s\ncondition: {lt: 3}"))
    for second in (0, 9.9, 10, 11):
        run.take("a", second, "network_flow", Count=1)
    assert [(fired.found.count, fired.activity and fired.activity.position) for fired in run.tick(12)] == [(2, 16)]
    assert [(fired.found.count, fired.activity and fired.activity.position) for fired in run.tick(22)] == [(2, 32)]
    assert not run.correlator.states[run.engine.correlations[0].id].groups


def test_many_events_stay_exact_and_bounded() -> None:
    run = Stream(FLOW, correlation("type: event_count\nrules: a\ntimespan: 10s\ncondition: {eq: 3000}"))
    for number in range(3000):
        run.take("a", number / 1000, "network_flow", Count=1)
    assert [fired.found.count for fired in run.tick(12)] == [3000]
