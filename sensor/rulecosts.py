"""What rules cost, told: by rule as metrics, and in the log when one is too dear."""

from __future__ import annotations

from collections.abc import Callable

from sensor.metrics import Metrics
from sensor.rules.engine import Engine


class RuleCosts:
    def __init__(self, metrics: Metrics, notice: Callable[..., None]) -> None:
        self._metrics = metrics
        self._notice = notice
        self._told: dict[tuple[str, str], tuple[int, float]] = {}  # rule id and category → evaluations, seconds
        self._named: dict[str, str] = {}  # rule id → the content it was named for

    def each_second(self, engine: Engine) -> None:
        told = {}
        for rule, cost, _ in engine.costs():
            if not cost.evaluations:
                continue
            evaluations, seconds = self._told.get((rule.id, rule.category), (0, 0.0))
            if cost.evaluations < evaluations:  # it was changed, and counts from the beginning
                evaluations, seconds = 0, 0.0
            self._metrics.count("pinfold_rule_evaluations_total", (rule.id,), cost.evaluations - evaluations)
            self._metrics.count("pinfold_rule_seconds_total", (rule.id,), max(0.0, cost.seconds - seconds))
            told[rule.id, rule.category] = cost.evaluations, cost.seconds
        self._told = told
        self._name(engine)

    def _name(self, engine: Engine) -> None:
        """Once for each content of a rule: a sandbox could make it dear again and again."""
        dear = engine.dear()
        self._metrics.gauge("pinfold_rules_dear", (), len(dear))
        for one in dear:
            content = engine.digest(one.rule.id)
            if self._named.get(one.rule.id) != content:
                self._named[one.rule.id] = content
                self._notice(
                    "a rule is too dear", rule=one.rule.id, title=one.rule.title, file=one.rule.file, reason=one.reason
                )
        self._named = {rule_id: content for rule_id, content in self._named.items() if engine.digest(rule_id)}
