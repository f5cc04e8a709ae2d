"""Examples of correlations: events with their seconds, run through rules and correlations. For tests and the CLI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sensor.events.activity import Activity
from sensor.rules.correlation.correlator import Correlator
from sensor.rules.correlation.groups import TOLERANCE_NS
from sensor.rules.correlation.model import Correlation
from sensor.rules.engine import Engine

MOST_TIMES = 100_000
_SECOND = 1_000_000_000
_START = 1_000_000 * _SECOND

Make = Callable[[str, dict[str, Any]], Activity]


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """An event `at` seconds from the beginning, `times` times, a step of `every` seconds apart. `varying`: a text or
    number field that is another each time."""

    at: float
    category: str
    event: dict[str, Any]
    times: int = 1
    every: float = 0.0
    varying: str = ""


def fires(engine: Engine, correlation: Correlation, steps: Sequence[Step], make: Make) -> bool:
    """Whether the correlation is told of these events, or of the time after them. Raises ValueError for an event that
    cannot be."""
    correlator = Correlator(engine.correlations, 0)
    fired = False
    last = _START
    for position, (time_ns, category, event) in enumerate(_events(steps), 1):
        made = make(category, event)
        activity = replace(made, generation=1, position=8 * position, monotonic_ns=time_ns, time_ns=time_ns)
        last = time_ns
        fired |= any(each.correlation == correlation for each in correlator.tick(time_ns))
        for rule in engine.match(activity):
            for hit in correlator.hits(rule.id, activity):
                fired |= any(each.correlation == correlation for each in correlator.feed(hit, activity))
    for state in list(correlator.states.values()):  # an outer window opens when an inner one has closed
        last += state.rule.timespan_ns + TOLERANCE_NS
        fired |= any(each.correlation == correlation for each in correlator.tick(last))
    return fired


def _events(steps: Sequence[Step]) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    for step in steps:
        if not 1 <= step.times <= MOST_TIMES:
            raise ValueError(f"times: 1 to {MOST_TIMES}, not {step.times}")
        for number in range(step.times):
            event = step.event
            if step.varying:
                given = event.get(step.varying, "")
                event = {**event, step.varying: given + number if isinstance(given, int) else f"{given}{number}"}
            found.append((_START + round((step.at + number * step.every) * _SECOND), step.category, event))
    return sorted(found, key=lambda each: each[0])
