"""Matches to correlations, and what they find to detections."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import cast

from sensor.correlating.state import Memory
from sensor.events.activity import AnyActivity
from sensor.events.detection import Correlated, Detection, event_id
from sensor.export.log import EventLog
from sensor.metrics import Metrics
from sensor.rules.correlation.correlator import Correlator, Fired
from sensor.rules.engine import Engine

TICK_NS = 1_000_000_000
RETRY_NS = 60_000_000_000


class Correlating:
    """Between the engine and the pipeline. `use` gives it the rules of a reload."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        now: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._metrics = metrics
        self._now, self._monotonic = now, monotonic
        self.correlator = Correlator(engine.correlations, monotonic(), self._count)
        self._engine = engine
        self._memory: Memory | None = None
        self._log: EventLog | None = None
        self._told = (0, -1)  # generation and position: what the last run has told already
        self._renewed = False  # rules that the checkpoint does not know
        self._next_ns = self._retry_ns = 0

    def remember(self, memory: Memory, last_event: tuple[int, int] | None, log: EventLog) -> None:
        """Once, before the first event: goes on where the last run was, as far as `memory` has it."""
        try:
            if memory.restore(self.correlator, last_event):
                self._told = memory.last
        except (OSError, ValueError) as error:
            now_ns = self._monotonic()
            self.correlator = Correlator(self._engine.correlations, now_ns, self._count)
            log.add_notice("what correlations held before the restart cannot be read", reason=str(error))
        self._memory, self._log = memory, log
        log.first = self._flush
        self._checkpoint()

    def use(self, engine: Engine) -> None:
        """Of other rules. What did not change keeps what it holds."""
        self._engine = engine
        self.correlator.replace(engine.correlations, self._monotonic())
        self._renewed = True

    def observe(self, rule: str, activity: AnyActivity) -> list[Detection]:
        """What a rule's match completes. Never raises for what a sandbox did."""
        hits = self.correlator.hits(rule, activity)
        if not hits or (activity.generation == self._told[0] and activity.position <= self._told[1]):
            return []
        if self._memory is not None:
            for hit in hits:
                self._memory.tell(hit)
        return self._detections([fired for hit in hits for fired in self.correlator.feed(hit, activity)])

    def tick(self, monotonic_ns: int) -> list[Detection]:
        """What completes as time passes; to be called often."""
        if monotonic_ns < self._next_ns:
            return []
        self._next_ns = monotonic_ns + TICK_NS
        memory = self._memory
        if memory is not None and (memory.due or self._renewed) and monotonic_ns >= self._retry_ns:
            self._checkpoint()
        closing = self.correlator.closing
        fired = self.correlator.tick(monotonic_ns)
        if memory is not None and closing:
            memory.ticked(monotonic_ns, bool(fired))
        return self._detections(fired)

    def close(self) -> None:
        """Once, at the end, when the log has all."""
        if self._memory is not None:
            try:
                self._memory.close(self.correlator)
            except OSError as error:
                self._failed(error)

    def _flush(self) -> None:
        if self._memory is not None:
            try:
                self._memory.flush()
            except OSError as error:
                self._failed(error)

    def _checkpoint(self) -> None:
        if self._memory is None or not self._memory.settled:
            return
        try:
            self._memory.checkpoint(self.correlator)
            self._renewed = False
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        """Nothing is on disk then, and a restart says `partial`."""
        self._retry_ns = self._monotonic() + RETRY_NS
        self._metrics.count("pinfold_correlation_state_failures_total")
        if self._log is not None:
            text = "what correlations hold would not survive a restart"
            self._log.add_notice(text, reason=error.strerror or type(error).__name__)

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
        return Detection(identity, self._now(), rule.id, rule.title, rule.level, rule.tags, known, seen)

    def _count(self, what: str, number: int) -> None:
        self._metrics.count("pinfold_correlation_evicted_total", (what,), number)
