"""What is said of a rule that names what is not there: warnings, and why it can never match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sensor.rules import taxonomy
from sensor.rules.scope import Scope

MOST_NAMES = 4  # in one reason

_T = TypeVar("_T")


def warnings(scopes: Sequence[Scope]) -> tuple[tuple[int, str], ...]:
    """Line and text for each field that none of the rule's categories has."""
    categories = [scope.category for scope in scopes]
    return tuple((line, taxonomy.why_absent(categories, name)) for name, line in _absent(scopes).items())


def reason(scopes: Sequence[Scope]) -> str:
    """Why a rule that was lowered in `scopes` matches in none: the fields or values that no event has."""
    absent = _absent(scopes)
    if absent:
        return f"field {_listed(sorted(absent))}"
    unmet = _in_all([scope.unmet for scope in scopes])
    return _listed(sorted(unmet)) if unmet else "nothing that can hold"


def _absent(scopes: Sequence[Scope]) -> dict[str, int]:
    return _in_all([scope.absent for scope in scopes])


def _in_all(tables: Sequence[dict[str, _T]]) -> dict[str, _T]:
    if not tables:
        return {}
    return {name: value for name, value in tables[0].items() if all(name in table for table in tables)}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]).replace(": ", " ") + (f" and {more} more" if more > 0 else "")
