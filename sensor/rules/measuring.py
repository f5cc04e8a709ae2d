"""How many events a second rules take, and which of them are dear: for people who write rules, on their own machine.

A rule's price is what it takes alone, over events of its category: its look-ups, and its condition where those hit. In
the daemon, look-ups are shared by all rules. Imports pySigma, so not for the core.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from sensor.events.activity import Activity
from sensor.rules import sigma
from sensor.rules.engine import Engine
from sensor.rules.files import rule_files
from sensor.rules.ruleset import Ruleset, load
from sensor.rules.testing import examples_of
from sensor.rules.unit import Rule

ALONE_NS = 20_000_000  # for one file
MOST_EVENTS = 100_000


class Pace(Struct, frozen=True):
    """Events of one category against all rules."""

    category: str
    rules: int
    events: int  # distinct ones
    per_second: int
    matched: int  # of `events`, those that some rule matches


class Price(Struct, frozen=True):
    rule: Rule
    ns: int  # an event of its category, alone
    matched: int
    indexed: bool  # there is something to look up


class Measured(Struct, frozen=True):
    paces: tuple[Pace, ...]
    prices: tuple[Price, ...]  # the dearest first
    refused: tuple[str, ...]


def events_of(paths: Sequence[Path | str]) -> list[Activity]:
    """The events of the examples beside the rules below `paths`, matching ones and near misses."""
    return [event for file in rule_files(paths) for event in examples_of(file)]


def measure(paths: Sequence[Path | str], events: Iterable[Activity], seconds: float) -> Measured:
    """Each category's events again and again for `seconds`. Raises RuleError where no rule can be loaded."""
    ruleset = load(paths, None, keep_going=True)
    by_category: dict[str, list[Activity]] = defaultdict(list)
    for number, event in enumerate(events):
        if number == MOST_EVENTS:
            break
        by_category[event.category].append(event)
    engine = Engine(ruleset)
    paces = []
    for category, of in by_category.items():
        rules = sum(rule.category == category for rule in ruleset.rules)
        if rules:
            matched = sum(bool(engine.match(event)) for event in of)
            paces.append(Pace(category, rules, len(of), int(1e9 / _each(engine, of, int(seconds * 1e9))), matched))
    return Measured(tuple(paces), tuple(_prices(ruleset, by_category)), ruleset.refused)


def _prices(ruleset: Ruleset, events: dict[str, list[Activity]]) -> list[Price]:
    found = []
    unindexed = frozenset(ruleset.unindexed)
    for file in dict.fromkeys(rule.file for rule in ruleset.rules):
        alone = sigma.build([Path(file)])
        engine = Engine(alone)
        for rule in alone.rules:
            of = events.get(rule.category)
            if of:
                matched = sum(any(one.id == rule.id for one in engine.match(event)) for event in of)
                found.append(Price(rule, int(_each(engine, of, ALONE_NS)), matched, rule.id not in unindexed))
    return sorted(found, key=lambda price: -price.ns)


def _each(engine: Engine, events: Sequence[Activity], budget_ns: int) -> float:
    """Nanoseconds an event, of processor time: what else the machine does is not counted."""
    match, clock = engine.match, time.thread_time_ns
    for event in events:  # what is remembered, and compiled when first needed
        match(event)
    began, rounds = clock(), 0
    while (took := clock() - began) < budget_ns or not rounds:
        for event in events:
            match(event)
        rounds += 1
    return max(took, 1) / (rounds * len(events))
