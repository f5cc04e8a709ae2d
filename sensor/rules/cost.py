"""What each rule costs: how often a branch of it was evaluated, and the time of one in so many of these."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from msgspec import Struct

from sensor.rules.unit import Rule

EVERY = 64  # evaluations, of which one is timed, about
# What a rule may take of each event of its category, on average, before it is named: an event has 20 µs for all rules.
DEAR_NS = 2_000
LEAST_EVENTS = 20_000  # before anything is said of a rule
LEAST_TIMED = 32

Clock = Callable[[], int]
clock: Clock = time.thread_time_ns  # processor time: what else the host does costs no rule anything


class Cost:
    """Of a rule."""

    __slots__ = ("_reckoned", "evaluations", "ns", "timed")

    def __init__(self) -> None:
        self.evaluations = 0
        self.timed = 0
        self.ns = 0  # of all evaluations up to the last that was timed, extrapolated
        self._reckoned = 0

    def add(self, ns: int) -> None:
        """One was timed, and stands for those since the last that was: so that the sum only ever grows."""
        self.timed += 1
        self.ns += ns * (self.evaluations - self._reckoned)
        self._reckoned = self.evaluations

    def take(self, other: Cost) -> None:
        self.evaluations, self.timed, self.ns = other.evaluations, other.timed, other.ns
        self._reckoned = other._reckoned

    @property
    def seconds(self) -> float:
        return self.ns / 1e9


class Dear(Struct, frozen=True):
    """A rule that is too dear, and why, in words."""

    rule: Rule
    reason: str


def after(ns: int) -> int:
    """How many evaluations until the next is timed. Not always the same: work that repeats must not always show
    the same rule."""
    return EVERY // 2 + 1 + ns % EVERY


def too_dear(costs: Iterable[tuple[Rule, Cost, int]], unindexed: Iterable[str]) -> list[Dear]:
    """Of rules, what they cost, and how many events their category had."""
    everywhere = frozenset(unindexed)
    found = []
    for rule, cost, events in costs:
        if cost.timed < LEAST_TIMED or events < LEAST_EVENTS:
            continue
        each = cost.ns / events
        if each < DEAR_NS:
            continue
        often = f"{100 * cost.evaluations / events:.3g} evaluations for 100 events"
        why = "nothing in it can be looked up" if rule.id in everywhere else often
        found.append(Dear(rule, f"it takes {each / 1000:.3g} µs of each {rule.category} event: {why}"))
    return found
