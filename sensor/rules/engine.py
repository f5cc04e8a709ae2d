"""Rules against activities: a few look-ups for most events, and Python only for candidates."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sensor.events.activity import Activity
from sensor.rules import compile as compiler
from sensor.rules.correlation.model import Correlation
from sensor.rules.fields import CATEGORIES
from sensor.rules.ruleset import Rule, Ruleset

log = logging.getLogger(__name__)

Predicate = Callable[[Activity], bool]
Finder = Callable[[Activity], int]


class _Category:
    """`find` gives the candidates' bits; bit n is `entries[n]`, and a rule's bits stand side by side."""

    __slots__ = ("entries", "find", "full")

    def __init__(self, find: Finder, entries: list[tuple[Rule, Predicate]]) -> None:
        self.find = find
        self.entries = entries
        self.full = (1 << len(entries)) - 1


class Engine:
    """`prefilter` False evaluates every rule of the category: the same result, slowly.

    `hits` and `errors` count by rule id; a rule that raises is counted and the others go on.
    """

    def __init__(self, ruleset: Ruleset, prefilter: bool = True) -> None:
        self.rules = ruleset.rules
        self.source = ruleset.source
        self.unindexed = ruleset.unindexed
        self.correlations = ruleset.correlations
        self.all: tuple[Rule | Correlation, ...] = (*ruleset.rules, *ruleset.correlations)
        self.silent = frozenset(ruleset.silent)  # matched for correlations alone
        self.hits: dict[str, int] = {rule.id: 0 for rule in self.all}
        self.errors: dict[str, int] = {}
        self.index_errors = 0  # events for which the index itself raised, and every rule was evaluated
        self._prefilter = prefilter
        self._by_type = self._load()

    def _load(self) -> dict[type, _Category]:
        predicates, finders = compiler.load(self.source)
        by_type: dict[type, _Category] = {}
        for name, (find, numbers) in finders.items():
            category = _Category(find, [(self.rules[n], predicates[n]) for n in numbers])
            if not self._prefilter:
                category.find = lambda _, full=category.full: full  # type: ignore[misc]
            by_type[CATEGORIES[name]] = category
        return by_type

    def match(self, activity: object) -> tuple[Rule, ...]:
        """The rules that `activity` matches, in the order they were loaded. Never raises for any event;
        what is no rules' category, such as a SandboxChange, matches none."""
        category = self._by_type.get(type(activity))
        if category is None:
            return ()
        try:
            bits = category.find(activity)  # type: ignore[arg-type]
        except Exception:  # an event that broke the index must not be one that no rule sees
            self.index_errors += 1
            bits = category.full
        return self._evaluate(category, bits, activity) if bits else ()

    def _evaluate(self, category: _Category, bits: int, activity: object) -> tuple[Rule, ...]:
        matched: list[Rule] = []
        last: Rule | None = None
        while bits:
            lowest = bits & -bits
            bits ^= lowest
            rule, predicate = category.entries[lowest.bit_length() - 1]
            if rule is last:
                continue
            last = rule
            try:
                if predicate(activity):  # type: ignore[arg-type]
                    self.hits[rule.id] += 1
                    matched.append(rule)
            except Exception:
                self._failed(rule)
        return tuple(matched)

    def _failed(self, rule: Rule) -> None:
        count = self.errors.get(rule.id, 0)
        self.errors[rule.id] = count + 1
        if not count:  # once: a sandbox could repeat it a million times
            log.exception("rule %s (%s) raised; it is counted from now on", rule.id, rule.file)
