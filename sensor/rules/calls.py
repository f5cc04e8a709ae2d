"""Which system calls a rule can be about: what the probe at their gate, where it is on, lets through."""

from __future__ import annotations

from sensor.events.callnames import CALLS_OF_ACTION, NUMBERS
from sensor.rules import ir

CATEGORY = "system_call"
_SOCKETS = frozenset({"packet_socket", "raw_socket"})
_ANY = frozenset({"socket"}.union(*CALLS_OF_ACTION.values()))


def of_rule(category: str, expression: ir.Expression) -> tuple[int, ...]:
    """Their numbers; `expression` is simplified. A rule that names neither call nor action is about all that have an
    action."""
    if category != CATEGORY:
        return ()
    bound = _bound(expression)
    names = _ANY if bound is None else bound
    return tuple(sorted(NUMBERS[name] for name in names if name in NUMBERS))


def _bound(item: ir.Expression) -> frozenset[str] | None:
    """Calls beyond which the condition cannot hold; None: any."""
    if isinstance(item, ir.And):
        bounds = [bound for part in item.items if (bound := _bound(part)) is not None]
        return min(bounds, key=len) if bounds else None
    if isinstance(item, ir.Or):
        found: frozenset[str] = frozenset()
        for part in item.items:
            bound = _bound(part)
            if bound is None:
                return None
            found |= bound
        return found
    return _named(item) if isinstance(item, ir.Text) and item.shape == "exact" else None


def _named(item: ir.Text) -> frozenset[str] | None:
    if item.attribute == "Capability" and item.value:  # the gate tells none
        return frozenset()
    if item.attribute == "SystemCall":
        return frozenset({item.value})
    if item.attribute == "Action":
        return frozenset({"socket"} if item.value in _SOCKETS else CALLS_OF_ACTION.get(item.value, ()))
    return None
