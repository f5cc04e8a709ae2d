"""Conditions that further events could make false again (at most, exactly, between, an average, something that did not
happen): asked once, when the window that the group's first event opened has closed and late events had their time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from sensor.rules.correlation.groups import TOLERANCE_NS, Chain, Found, step, told
from sensor.rules.correlation.items import MOST_ITEMS, Item, Items
from sensor.rules.correlation.model import COUNTED, MEASURED, Correlation

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
    "neq": operator.ne,
}


class Closing:
    """`subject`: the last event of the window, as bytes, for the detection; `following`: of what came after it."""

    __slots__ = ("evicted", "following", "items", "subject", "subject_ns")

    def __init__(self) -> None:
        self.items = Items()
        self.subject = self.following = b""
        self.subject_ns = -(1 << 62)
        self.evicted = 0

    @property
    def first_ns(self) -> int:
        return self.items.times[0]

    def due(self, rule: Correlation, now_ns: int) -> bool:
        return now_ns >= self.first_ns + rule.timespan_ns + TOLERANCE_NS

    def add(self, item: Item, rule: Correlation, subject: bytes) -> None:
        items = self.items
        if rule.type not in COUNTED and rule.type not in MEASURED and self._known(item, rule):
            return
        items.add(item)
        if item.time_ns >= self.first_ns + rule.timespan_ns:
            self.following = subject
        elif item.time_ns >= self.subject_ns:
            self.subject, self.subject_ns = subject, item.time_ns
        if len(items) > MOST_ITEMS:
            # A count or a sum stays exact; of values, the oldest is given up.
            if rule.type in COUNTED and items.times[1] < self.first_ns + rule.timespan_ns:
                items.merge_oldest()
            else:
                items.remove(1, 2)
                self.evicted += 1

    def _known(self, item: Item, rule: Correlation) -> bool:
        """Whether the same was there in this window already; in a sequence, whether it comes right behind its like."""
        items = self.items
        end = items.before(items.times[0] + rule.timespan_ns) if len(items) else 0
        if not end or item.time_ns >= self.first_ns + rule.timespan_ns or item.time_ns < self.first_ns:
            return False
        if rule.type == "temporal_ordered":
            at = items.after(item.time_ns)
            return 0 < at < end and items[at - 1].part == item.part == items[at].part
        return item.value in items.values(0, end)

    def close(self, rule: Correlation) -> Found | None:
        """What the window held, where the condition holds. What came after it stays, and opens the next."""
        items = self.items
        end = items.before(self.first_ns + rule.timespan_ns)
        found = self._judged(rule, end)
        items.remove(0, end)
        self.subject, self.following = self.following, b""
        self.subject_ns = -(1 << 62)
        return found

    def _judged(self, rule: Correlation, end: int) -> Found | None:
        items = self.items
        if rule.alternatives:
            present = set(items.parts(0, end))
            for each in rule.alternatives:
                if present.isdisjoint(each.barred) and (
                    self._in_order(each.wanted, end, rule.timespan_ns)
                    if rule.type == "temporal_ordered"
                    else present.issuperset(each.wanted)
                ):
                    return told(items, 0, end, len(present))
            return None
        measure = _measured(rule, items.weights(0, end), items.values(0, end))
        if all(_COMPARE[name](measure, limit) for name, limit in rule.bounds):
            return told(items, 0, end, measure)
        return None

    def _in_order(self, wanted: tuple[int, ...], end: int, span: int) -> bool:
        levels: list[Chain | None] = [None] * len(wanted)
        return any(step(wanted, levels, self.items[at], span) is not None for at in range(end))


def _measured(rule: Correlation, weights: Sequence[int], values: Sequence[int]) -> float:
    """Of averages and percentiles the weight is how often the value was there."""
    if rule.type in COUNTED:
        return sum(weights)
    if rule.type not in MEASURED:
        return len(set(values))
    total = sum(weights)
    if rule.type == "value_avg":
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total
    return _percentile(sorted(zip(values, weights, strict=True)), total, rule.percentile)


def _percentile(ordered: Sequence[tuple[int, int]], total: int, percent: int) -> float:
    """Linear between the nearest ranks, so that the median of an even number is the middle of two."""
    rank, rest = divmod((total - 1) * percent, 100)
    low = _at(ordered, rank)
    return low if not rest else low + (_at(ordered, rank + 1) - low) * rest / 100


def _at(ordered: Sequence[tuple[int, int]], rank: int) -> int:
    for value, weight in ordered:
        rank -= weight
        if rank < 0:
            return value
    return ordered[-1][0]
