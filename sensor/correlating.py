"""Matches to correlations, and what they find to detections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from sensor.events.activity import AnyActivity
from sensor.events.detection import Correlated, Detection, event_id
from sensor.metrics import Metrics
from sensor.rules.correlation.correlator import Correlator, Fired
from sensor.rules.engine import Engine

TICK_NS = 1_000_000_000


class Correlating:
    """Between the engine and the pipeline. `use` gives it the rules of a reload."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._metrics = metrics
        self.correlator = Correlator(engine.correlations, time.monotonic_ns(), self._count)
        self._engine = engine
        self._next_ns = 0

    def use(self, engine: Engine) -> None:
        """Of other rules. What did not change keeps what it holds."""
        self._engine = engine
        self.correlator.replace(engine.correlations, time.monotonic_ns())

    def observe(self, rule: str, activity: AnyActivity) -> list[Detection]:
        """What a rule's match completes. Never raises for what a sandbox did."""
        hits = self.correlator.hits(rule, activity)
        return self._detections([fired for hit in hits for fired in self.correlator.feed(hit, activity)])

    def tick(self, monotonic_ns: int) -> list[Detection]:
        """What completes as time passes; to be called often."""
        if monotonic_ns < self._next_ns:
            return []
        self._next_ns = monotonic_ns + TICK_NS
        return self._detections(self.correlator.tick(monotonic_ns))

    def _detections(self, fired: Sequence[Fired]) -> list[Detection]:
        for each in fired:
            self._engine.hits[each.correlation.id] += 1
        found = [self._detection(each) for each in fired if each.correlation.id not in self._engine.silent]
        return [each for each in found if each is not None]

    def _detection(self, fired: Fired) -> Detection | None:
        rule, activity, found = fired.correlation, fired.activity, fired.found
        if activity is None:
            return None
        to_utc = activity.time_ns - activity.monotonic_ns
        seen = Correlated(
            rule.type,
            tuple(zip(rule.group_by, fired.values, strict=True)),
            found.count,
            found.first_ns + to_utc,
            found.last_ns + to_utc,
            tuple((event_id(each.generation, each.position), rule.parts[each.part].rule) for each in found.items),
            fired.partial,
        )
        identity = f"{event_id(activity.generation, activity.position)}/{rule.id}"
        known = cast(AnyActivity, activity)
        return Detection(identity, time.time_ns(), rule.id, rule.title, rule.level, rule.tags, known, seen)

    def _count(self, what: str, number: int) -> None:
        self._metrics.count("pinfold_correlation_evicted_total", (what,), number)
