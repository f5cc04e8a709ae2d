"""What rules cost, as metrics and notices tell it."""

from __future__ import annotations

from typing import Any

import pytest

from sensor.metrics import Metrics
from sensor.rulecosts import RuleCosts
from sensor.rules import cost
from sensor.rules.engine import Engine
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

RULE = "00000000-0000-4000-8000-000000000001"
TEXT = rule_text("s:\n  ProcessId|gt: 5\ncondition: s", rule_id=RULE)


def feed(engine: Engine, count: int) -> None:
    event = activity("process_creation", {"ProcessId": 9})
    for _ in range(count):
        engine.match(event)


def test_costs_are_counted_on_over_a_reload_and_a_dear_rule_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    time = iter(range(0, 10**12, 5_000))
    monkeypatch.setattr(cost, "clock", lambda: next(time))
    monkeypatch.setattr(cost, "LEAST_EVENTS", 3_000)
    metrics, notices = Metrics(), list[dict[str, Any]]()
    costs = RuleCosts(metrics, lambda text, **fields: notices.append({"text": text, **fields}))

    def told(name: str) -> float:
        return metrics.value(f"pinfold_rule_{name}_total", (RULE,))

    engine = Engine(build(TEXT))
    costs.each_second(engine)
    assert told("evaluations") == 0
    feed(engine, 5_000)
    for _ in range(2):
        costs.each_second(engine)
        assert told("evaluations") == 5_000
        assert 0.024 < told("seconds") <= 0.025
    assert metrics.value("pinfold_rules_dear") == 1
    (notice,) = notices
    assert (notice["text"], notice["rule"]) == ("a rule is too dear", RULE)
    assert "5 µs" in notice["reason"] or "4.9" in notice["reason"]

    same = Engine(build(TEXT))
    same.inherit(engine)
    feed(same, 10)
    costs.each_second(same)
    assert told("evaluations") == 5_010
    assert len(notices) == 1

    changed = Engine(build(TEXT.replace("5\n", "6\n")))
    changed.inherit(same)
    feed(changed, 4_000)
    costs.each_second(changed)
    assert told("evaluations") == 9_010
    assert len(notices) == 2
