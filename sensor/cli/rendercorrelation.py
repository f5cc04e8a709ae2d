"""What a correlation saw, beside the event that completed it. Nothing here is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sensor.cli.rendernet import Record, text

_UNITS = {"event_count": "events", "value_count": "values", "temporal": "rules", "temporal_ordered": "in order"}
_MOST_GROUP = 8
_MOST_EVENTS = 16


def brief(record: Record) -> str:
    """` (12 events in 4.5 s)`; "" of what is no correlation's."""
    seen = record.get("Correlation")
    if not isinstance(seen, dict):
        return ""
    lasted = _lasted(seen)
    return f" ({_count(seen)}{f' in {lasted}' if lasted else ''}{', partial' if seen.get('partial') is True else ''})"


def described(record: Record) -> Iterator[tuple[str, str]]:
    seen = record.get("Correlation")
    if not isinstance(seen, dict):
        return
    yield "Correlation", f"{text(seen, 'type')}: {_count(seen)}, from {text(seen, 'first')} to {text(seen, 'last')}"
    group = seen.get("group")
    if isinstance(group, dict) and group:
        yield "Grouped by", ", ".join(f"{name}={value}" for name, value in list(group.items())[:_MOST_GROUP])
    events = seen.get("events")
    for number, one in enumerate(events[-_MOST_EVENTS:] if isinstance(events, list) else ()):
        if isinstance(one, dict):
            yield "" if number else "Made of", f"event {text(one, 'event')} of rule {text(one, 'rule')}"
    if seen.get("partial") is True:
        yield "Partial", "the sensor began to look within the timespan: something before may be missing"


def _count(seen: dict[str, Any]) -> str:
    count = seen.get("count")
    number = f"{count:g}" if isinstance(count, float) and not count.is_integer() else text({"n": _whole(count)}, "n")
    unit = _UNITS.get(text(seen, "type"), text(seen, "type").removeprefix("value_"))
    return f"{number} {unit}"


def _whole(count: Any) -> Any:
    return int(count) if isinstance(count, float) and count.is_integer() else count


def _lasted(seen: dict[str, Any]) -> str:
    try:
        first, last = (datetime.fromisoformat(text(seen, name)[:26] + "+00:00") for name in ("first", "last"))
    except ValueError:
        return ""
    return f"{max(0.0, (last - first).total_seconds()):.3g} s"
