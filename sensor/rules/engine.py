"""Rules against activities: a few look-ups for most events, and Python only for candidates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from sensor.events.activity import Activity
from sensor.rules import compile as compiler
from sensor.rules import cost as costs
from sensor.rules import index
from sensor.rules.correlation.model import Correlation
from sensor.rules.cost import Cost, Dear
from sensor.rules.fields import CATEGORIES
from sensor.rules.index import Finder
from sensor.rules.ruleset import Ruleset
from sensor.rules.unit import Compiled, Rule, needs_of

log = logging.getLogger(__name__)

Predicate = Callable[[Activity], bool]


class _Loaded:
    """A rule's functions, run into being when one is first asked for: most rules of a catalogue never are."""

    __slots__ = ("code", "cost", "digest", "functions", "rule", "since")

    def __init__(self, compiled: Compiled) -> None:
        self.rule = compiled.rule
        self.code = compiled.code
        self.digest = compiled.digest
        self.cost = Cost()
        self.since = 0  # events that its category had had before it was loaded
        self.functions: dict[str, Predicate] | None = None

    def function(self, name: str) -> Predicate:
        if self.functions is None:
            self.functions = compiler.functions(self.code)
        return self.functions[name]


class _Entry:
    """A branch. `test` replaces itself by the branch's own function."""

    __slots__ = ("bit", "cost", "loaded", "name", "rule", "test")

    def __init__(self, loaded: _Loaded, name: str) -> None:
        self.loaded = loaded
        self.rule = loaded.rule
        self.cost = loaded.cost
        self.name = name
        self.bit = 0
        self.test: Predicate = self._first

    def _first(self, activity: Activity) -> bool:
        self.test = self.loaded.function(self.name)
        return self.test(activity)


class _Category:
    """`find` gives the candidates' bits; bit n is `entries[n]`. A rule's bits stand side by side, and the first rule's
    are the highest."""

    __slots__ = ("entries", "events", "find", "full")

    def __init__(self, find: Finder, entries: list[_Entry]) -> None:
        self.find = find
        self.entries = entries
        self.events = 0
        self.full = (1 << len(entries)) - 1


class Engine:
    """`prefilter` False evaluates every rule of the category as a whole: the same result, slowly.

    `hits` and `errors` count by rule id; a rule that raises is counted and the others go on. Of the branches that are
    evaluated, one in about `cost.EVERY` is timed.
    """

    def __init__(self, ruleset: Ruleset, prefilter: bool = True) -> None:
        self.rules = ruleset.rules
        self.unindexed = ruleset.unindexed
        self.correlations = ruleset.correlations
        self.all: tuple[Rule | Correlation, ...] = (*ruleset.rules, *ruleset.correlations)
        self.silent = frozenset(ruleset.silent)  # matched for correlations alone
        self.hits: dict[str, int] = {rule.id: 0 for rule in self.all}
        self.errors: dict[str, int] = {}
        self.index_errors = 0  # events for which the index itself raised, and every rule was evaluated
        self._until_timed = costs.EVERY
        self._loaded = {_key(compiled): _Loaded(compiled) for compiled in ruleset.compiled}
        self._by_type = {CATEGORIES[name]: self._category(name, ruleset, prefilter) for name in _categories(ruleset)}

    def _category(self, name: str, ruleset: Ruleset, prefilter: bool) -> _Category:
        entries: list[_Entry] = []
        needs: list[Any] = []
        for compiled in ruleset.compiled:
            if compiled.rule.category != name:
                continue
            loaded = self._loaded[_key(compiled)]
            if not prefilter:
                entries.append(_Entry(loaded, "rule"))
                continue
            of_rule = needs_of(compiled)
            needs += of_rule
            entries += [
                _Entry(loaded, f"branch_{number}" if len(of_rule) > 1 else "rule") for number in range(len(of_rule))
            ]
        entries.reverse()
        needs.reverse()
        for number, entry in enumerate(entries):
            entry.bit = 1 << number
        category = _Category(index.finder(name, needs), entries)
        if not prefilter:
            category.find = lambda _, full=category.full: full  # type: ignore[misc]
        return category

    def match(self, activity: object) -> tuple[Rule, ...]:
        """The rules that `activity` matches, in the order they were loaded. Never raises for any event;
        what is no rules' category, such as a SandboxChange, matches none."""
        category = self._by_type.get(type(activity))  # type: ignore[arg-type]
        if category is None:
            return ()
        category.events += 1
        try:
            bits = category.find(activity)
        except Exception:  # an event that broke the index must not be one that no rule sees
            self.index_errors += 1
            bits = category.full
        return self._evaluate(category, bits, activity) if bits else ()

    def _evaluate(self, category: _Category, bits: int, activity: Any) -> tuple[Rule, ...]:
        matched: list[Rule] = []
        last: Rule | None = None
        entries = category.entries
        while bits:
            entry = entries[bits.bit_length() - 1]
            bits ^= entry.bit
            rule = entry.rule
            if rule is last:  # another branch has decided
                continue
            entry.cost.evaluations += 1
            self._until_timed -= 1
            try:
                if entry.test(activity) if self._until_timed > 0 else self._timed(entry, activity):
                    last = rule
                    self.hits[rule.id] += 1
                    matched.append(rule)
            except Exception:
                last = rule
                self._failed(rule)
        return tuple(matched)

    def _timed(self, entry: _Entry, activity: Activity) -> bool:
        if not entry.loaded.functions:  # what loading it takes is no cost of the rule's
            return entry.test(activity)
        began = costs.clock()
        try:
            return entry.test(activity)
        finally:
            took = costs.clock() - began
            entry.cost.add(took)
            self._until_timed = costs.after(took)

    def costs(self) -> Iterator[tuple[Rule, Cost, int]]:
        """Of each rule: what it cost, and how many events of its category there were since it was loaded."""
        for loaded in self._loaded.values():
            yield loaded.rule, loaded.cost, self._by_type[CATEGORIES[loaded.rule.category]].events - loaded.since

    def digest(self, rule_id: str) -> str:
        """Of a rule's content; "" of one that is not there."""
        return " ".join(loaded.digest for (identity, _), loaded in self._loaded.items() if identity == rule_id)

    def dear(self) -> list[Dear]:
        """The rules that are too dear, each with the reason."""
        return costs.too_dear(self.costs(), self.unindexed)

    def inherit(self, before: Engine) -> None:
        """Go on where another engine stopped: with its counts and the code it loaded, for rules that are the same."""
        for kind, category in self._by_type.items():
            if kind in before._by_type:
                category.events = before._by_type[kind].events
        for key, loaded in self._loaded.items():
            old, rule_id = before._loaded.get(key), loaded.rule.id
            if old is None or old.digest != loaded.digest:
                loaded.since = self._by_type[CATEGORIES[loaded.rule.category]].events
                continue
            loaded.cost.take(old.cost)
            loaded.since = old.since
            loaded.functions = old.functions
            self.hits[rule_id] = before.hits[rule_id]
            if rule_id in before.errors:
                self.errors[rule_id] = before.errors[rule_id]

    def _failed(self, rule: Rule) -> None:
        count = self.errors.get(rule.id, 0)
        self.errors[rule.id] = count + 1
        if not count:  # once: a sandbox could repeat it a million times
            log.exception("rule %s (%s) raised; it is counted from now on", rule.id, rule.file)


def _key(compiled: Compiled) -> tuple[str, str]:
    """A rule may be of several categories."""
    return compiled.rule.id, compiled.rule.category


def _categories(ruleset: Ruleset) -> list[str]:
    return list(dict.fromkeys(rule.category for rule in ruleset.rules))
