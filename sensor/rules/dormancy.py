"""What is said of a rule that names what is not there: warnings, and why it can never match."""

from __future__ import annotations

from collections.abc import Sequence

from sensor.rules import taxonomy
from sensor.rules.scope import Scope

MOST_NAMES = 4  # in one reason


def warnings(scopes: Sequence[Scope]) -> tuple[tuple[int, str], ...]:
    """Line and text for each field that none of the rule's categories has."""
    categories = [scope.category for scope in scopes]
    return tuple((line, taxonomy.why_absent(categories, name)) for name, line in _absent(scopes).items())


def reason(scopes: Sequence[Scope]) -> str:
    """Why a rule that was lowered in `scopes` matches in none: the values or fields that no event has."""
    causes = [{**dict.fromkeys(scope.absent, ""), **scope.unmet} for scope in scopes]
    shared = [name for name in causes[0] if all(name in of for of in causes)]
    unmet = {name: value for of in causes for name, value in of.items() if name in shared and value}
    if unmet:
        return _listed([f"{name} {value}" for name, value in sorted(unmet.items())])
    names = shared or min((list(of) for of in causes if of), key=len, default=[])
    return f"field {_listed(sorted(names))}" if names else "nothing that can hold"


def _absent(scopes: Sequence[Scope]) -> dict[str, int]:
    if not scopes:
        return {}
    return {name: line for name, line in scopes[0].absent.items() if all(name in scope.absent for scope in scopes)}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]).replace(": ", " ") + (f" and {more} more" if more > 0 else "")
