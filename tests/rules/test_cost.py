"""What rules cost, by a clock of the test's own."""

from __future__ import annotations

import pytest

from sensor.rules import cost
from sensor.rules.engine import Engine
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

ONE, TWO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
EVERYWHERE = rule_text("s:\n  ProcessId|gt: 5\ncondition: s", rule_id=ONE)
INDEXED = rule_text("s:\n  Image: /x\n  ProcessId|gt: 5\ncondition: s", rule_id=TWO)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each look at it takes as many nanoseconds as its first item says."""
    state = [3_000, 0]

    def look() -> int:
        state[1] += state[0]
        return state[1]

    monkeypatch.setattr(cost, "clock", look)
    monkeypatch.setattr(cost, "LEAST_EVENTS", 1_000)
    return state


def feed(engine: Engine, count: int, image: str = "/y") -> None:
    event = activity("process_creation", {"Image": image, "ProcessId": 9})
    for _ in range(count):
        engine.match(event)


def by_id(engine: Engine) -> dict[str, cost.Cost]:
    return {rule.id: one for rule, one, _ in engine.costs()}


def test_every_evaluation_is_counted_and_some_are_timed(clock: list[int]) -> None:
    engine = Engine(build(EVERYWHERE, INDEXED))
    feed(engine, 10_000)
    feed(engine, 500, "/x")
    first, second = by_id(engine)[ONE], by_id(engine)[TWO]
    assert (first.evaluations, second.evaluations) == (10_500, 500)
    assert 10_500 / cost.EVERY / 2 < first.timed < 10_500 / cost.EVERY * 2
    assert 0.95 * 10_500 * 3_000 < first.ns <= 10_500 * 3_000
    assert 0 < second.timed < 500


def test_rules_that_cost_too_much_are_named_with_the_reason(clock: list[int]) -> None:
    engine = Engine(build(EVERYWHERE, INDEXED))
    feed(engine, 900)
    assert engine.dear() == []
    feed(engine, 4_100)
    (dear,) = engine.dear()
    assert dear.rule.id == ONE
    assert "process_creation event: nothing in it can be looked up" in dear.reason
    feed(engine, 20_000, "/x")
    assert [one.rule.id for one in engine.dear()] == [ONE, TWO]
    assert "80 evaluations for 100 events" in engine.dear()[1].reason


def test_a_rule_that_costs_little_is_not_named(clock: list[int]) -> None:
    clock[0] = 100
    engine = Engine(build(EVERYWHERE, INDEXED))
    feed(engine, 50_000)
    assert engine.dear() == []


def test_a_reload_keeps_what_was_counted_of_rules_that_are_the_same(clock: list[int]) -> None:
    engine = Engine(build(EVERYWHERE, INDEXED))
    feed(engine, 3_000, "/x")
    changed = INDEXED.replace("/x", "/z")
    after = Engine(build(changed, EVERYWHERE))
    after.inherit(engine)
    assert after.hits == {TWO: 0, ONE: 3_000}
    kept, new = by_id(after)[ONE], by_id(after)[TWO]
    assert (kept.evaluations, kept.ns) == (3_000, by_id(engine)[ONE].ns)
    assert (new.evaluations, new.ns) == (0, 0)
    assert [events for _, _, events in after.costs()] == [0, 3_000]
    feed(after, 100, "/z")
    assert after.hits == {TWO: 100, ONE: 3_100}
    assert by_id(after)[ONE].evaluations == 3_100
    assert by_id(engine)[ONE].evaluations == 3_000
