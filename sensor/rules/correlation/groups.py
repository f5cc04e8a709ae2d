"""What is held for one group of a correlation, and when it fires. Windows are half open: what is exactly as old as the
timespan is out. Late events are sorted in, and the windows that they were in are asked again."""

from __future__ import annotations

from msgspec import Struct

from sensor.rules.correlation.items import MOST_ITEMS, Item, Items
from sensor.rules.correlation.model import COUNTED, Alternative, Correlation

TOLERANCE_NS = 2_000_000_000  # by which an event may come late
MOST_SHOWN = 16
MOST_TOLD = 32  # items that are kept beyond need, so that a count says how many they were
MOST_YOUNG = 128


class Found(Struct, frozen=True):
    """`items` are the last that contributed, oldest first."""

    count: float
    first_ns: int
    last_ns: int
    items: tuple[Item, ...]


class Sliding:
    """Counts, sums and sets that events only increase: asked at each event. Once fired, silent for a timespan."""

    __slots__ = ("items", "quiet_ns")

    def __init__(self) -> None:
        self.items = Items()
        self.quiet_ns = -(1 << 62)  # no window that ends before it fires

    def add(self, item: Item, rule: Correlation) -> Found | None:
        items, span = self.items, rule.timespan_ns
        if rule.type not in COUNTED:
            self._forget_same(item)
        at = items.add(item)
        found = None
        end_ns = item.time_ns + span
        for last in range(at, len(items)):
            if items.times[last] >= end_ns:
                break
            if items.times[last] >= self.quiet_ns:
                found = self._window(last, rule)
                if found is not None:
                    self.quiet_ns = found.last_ns + span
                    break
        self._trim(rule)
        return found

    def _forget_same(self, item: Item) -> None:
        """Of a value only its latest event can matter, unless another came late."""
        try:
            at = self.items.values(0, len(self.items)).index(item.value)
        except ValueError:
            return
        if self.items.times[at] <= item.time_ns:
            self.items.remove(at, at + 1)

    def _window(self, last: int, rule: Correlation) -> Found | None:
        items = self.items
        begin, end = items.after(items.times[last] - rule.timespan_ns), last + 1
        count: float
        if rule.type in COUNTED:
            count = sum(items.weights(begin, end))
            holds = count >= rule.least
        else:
            values = set(items.values(begin, end))
            count = len(values)
            holds = _satisfied(rule.alternatives, values) if rule.alternatives else count >= rule.least
        return told(items, begin, end, count) if holds else None

    def _trim(self, rule: Correlation) -> None:
        """What no window can reach, and what is not needed for any to be full."""
        items = self.items
        expired = items.after(items.times[-1] - rule.timespan_ns - TOLERANCE_NS)
        if expired:
            items.remove(0, expired)
        if rule.type in COUNTED:
            weights = items.weights(0, len(items))
            spare, total = 0, sum(weights)
            for weight in weights[:-MOST_TOLD]:
                if weight < 0 or total - weight < rule.least:
                    break
                total -= weight
                spare += 1
            items.remove(0, spare)
            while len(items) > MOST_ITEMS:
                items.merge_oldest()
        else:
            most = len(rule.parts) if rule.type == "temporal" else int(rule.least)
            items.remove(0, max(0, len(items) - most - MOST_SHOWN))


def told(items: Items, begin: int, end: int, count: float) -> Found:
    shown = tuple(items[at] for at in range(max(begin, end - MOST_SHOWN), end))
    return Found(count, items.times[begin], items.times[end - 1], shown)


def _satisfied(alternatives: tuple[Alternative, ...], parts: set[int]) -> bool:
    return any(parts.issuperset(each.wanted) and parts.isdisjoint(each.barred) for each in alternatives)


class Chain(Struct, frozen=True, array_like=True):
    """The first parts of a sequence, seen in order: of all such, the one that began last."""

    first_ns: int
    items: tuple[Item, ...]


class Ordered:
    """Sequences. What is older than the tolerance is kept as the best beginnings alone; what is younger as it came,
    since something earlier may come yet."""

    __slots__ = ("begun", "quiet_ns", "young")

    def __init__(self) -> None:
        self.young: list[Item] = []
        self.begun: list[list[Chain | None]] = []
        self.quiet_ns = -(1 << 62)

    def add(self, item: Item, rule: Correlation) -> Found | None:
        if not self.begun:
            self.begun = [[None] * len(each.wanted) for each in rule.alternatives]
        self._insert(item)
        found = None
        for alternative, begun in zip(rule.alternatives, self.begun, strict=True):
            chain = self._whole(alternative, list(begun), item, rule.timespan_ns)
            if chain is not None and chain.items[-1].time_ns >= self.quiet_ns:
                last_ns = chain.items[-1].time_ns
                found = Found(len(chain.items), chain.first_ns, last_ns, chain.items[-MOST_SHOWN:])
                self.quiet_ns = last_ns + rule.timespan_ns
                break
        self._age(rule)
        return found

    def _insert(self, item: Item) -> None:
        at = len(self.young)
        while at and self.young[at - 1].time_ns > item.time_ns:
            at -= 1
        if 0 < at < len(self.young) and self.young[at - 1].part == item.part == self.young[at].part:
            return  # in the midst of its like it changes nothing
        self.young.insert(at, item)
        if at >= 2 and self.young[at - 1].part == self.young[at - 2].part == item.part:
            del self.young[at - 1]

    def _whole(self, alternative: Alternative, levels: list[Chain | None], item: Item, span: int) -> Chain | None:
        """The sequence with `item` in it, where the last of its parts is there."""
        for each in self.young:
            grown = step(alternative.wanted, levels, each, span)
            if grown is not None and item in grown.items:
                return grown
        return None

    def _age(self, rule: Correlation) -> None:
        newest = self.young[-1].time_ns
        old = 0
        while self.young[old].time_ns < newest - TOLERANCE_NS or len(self.young) - old > MOST_YOUNG:
            for alternative, begun in zip(rule.alternatives, self.begun, strict=True):
                step(alternative.wanted, begun, self.young[old], rule.timespan_ns)
            old += 1
        del self.young[:old]


def step(wanted: tuple[int, ...], levels: list[Chain | None], item: Item, span: int) -> Chain | None:
    """Extends what has begun by `item`; the whole sequence, where it is whole by it."""
    whole = None
    for level in range(len(wanted) - 1, -1, -1):
        if wanted[level] != item.part:
            continue
        before = levels[level - 1] if level else None
        if level and (before is None or item.time_ns - before.first_ns >= span):
            continue
        chain = Chain(before.first_ns, (*before.items, item)) if before else Chain(item.time_ns, (item,))
        known = levels[level]
        if known is None or known.first_ns <= chain.first_ns:
            levels[level] = chain
        if level == len(wanted) - 1:
            whole = chain
    return whole
