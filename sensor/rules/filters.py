"""Sigma's filters: conditions of an operator's own, which narrow other people's rules without touching their files.

A filter names rules by id or name, or `any`; it narrows those of them that its logsource holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from sensor.rules import ir
from sensor.rules.document import Document, Place, RefusalError
from sensor.rules.parse import checked_logsource, condition_trees, expression_of
from sensor.rules.scope import Scope

_SOURCE = ("category", "product", "service")


class Filter(Struct, frozen=True):
    rules: frozenset[str]  # ids and names, lower case; empty: any
    logsource: dict[str, Any]
    trees: list[Any]
    place: Place  # of the condition

    def narrows(self, rule: dict[str, Any]) -> bool:
        names = {str(rule[key]).lower() for key in ("id", "name") if key in rule}
        if self.rules and not names & self.rules:
            return False
        source = rule.get("logsource")
        theirs = source if isinstance(source, dict) else {}
        return all(self.logsource.get(key) in {None, theirs.get(key)} for key in _SOURCE)


def filter_of(document: Document) -> Filter:
    """Raises RefusalError with the line of what is wrong."""
    data, place = document.data, document.place
    if not isinstance(data.get("title"), str):
        raise RefusalError("title is missing or not text", place.at("title").line)
    logsource = checked_logsource(data, place)
    body, at = data["filter"], place.at("filter")
    if not isinstance(body, dict):
        raise RefusalError("filter is not a mapping", at.line)
    if isinstance(body.get("condition"), list):
        raise RefusalError("a filter has one condition", at.at("condition").line)
    trees = condition_trees(body, at, ("rules",))
    return Filter(_rules(body.get("rules"), at.at("rules")), logsource, trees, at.at("condition"))


def _rules(value: Any, at: Place) -> frozenset[str]:
    """As pySigma has it: `any`, or an empty list, is any; to say nothing is a mistake."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) and item for item in values):
        raise RefusalError("rules are ids or names of rules, or any", at.line)
    return frozenset() if value == [] or str(value).lower() == "any" else frozenset(item.lower() for item in values)


class Filters:
    def __init__(self) -> None:
        self._filters: list[tuple[Filter, str]] = []

    def add(self, one: Filter, where: str) -> None:
        """`where`: its file:line."""
        self._filters.append((one, where))

    def narrowing(self, rule: dict[str, Any]) -> tuple[Callable[[Scope], Sequence[ir.Expression]], list[str]]:
        """What all filters of this rule demand besides, in whichever category; and where these stand."""
        wanted = [i for i, (one, _) in enumerate(self._filters) if one.narrows(rule)]
        return lambda scope: [self._expression(i, scope) for i in wanted], [self._filters[i][1] for i in wanted]

    def _expression(self, number: int, scope: Scope) -> ir.Expression:
        one, where = self._filters[number]
        own = Scope(scope.category, scope.placeholders)  # a field that the filter misses is no fault of the rule
        try:
            return expression_of(one.trees, own, one.place)
        except RefusalError as error:
            file = where.rpartition(":")[0]
            raise RefusalError(f"filter {file}:{error.line}: {error.reason}") from error
