"""The shapes of activities by category, and one filled with what is there: what another version wrote may have members
more or fewer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

import msgspec
from msgspec import structs

from sensor.events.activity import Activity, SandboxChange

_NEUTRAL: dict[Any, Any] = {str: "", int: 0, bool: False, bytes: b""}


@cache
def kinds() -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {SandboxChange.category: SandboxChange}
    below: list[type[Any]] = [Activity]
    for kind in below:
        below += kind.__subclasses__()
        if kind.category:
            found[kind.category] = kind
    return found


@cache
def _neutral(category: str) -> dict[str, Any]:
    kind = kinds()[category]
    hints = get_type_hints(kind)
    return {each.name: _NEUTRAL.get(hints[each.name]) for each in structs.fields(kind)}


def filled(category: str, values: Mapping[str, Any]) -> Any | None:
    """None for a category that there is not. Raises msgspec.ValidationError where a member is of another type."""
    kind = kinds().get(category)
    if kind is None:
        return None
    members = _neutral(category)
    # Not from __dict__ of the Struct: `convert` checks the types, and a sandbox's text may stand in any of them.
    return msgspec.convert(members | {name: value for name, value in values.items() if name in members}, kind)
