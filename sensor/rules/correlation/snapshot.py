"""What a correlator holds, as data that can be written down and taken up again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from msgspec import Struct

from sensor.rules.correlation.closing import Closing
from sensor.rules.correlation.correlator import Correlator, Group, State, cost
from sensor.rules.correlation.groups import Chain, Ordered, Sliding
from sensor.rules.correlation.items import Item, Items, columns
from sensor.rules.correlation.model import Value


class Held(Struct, frozen=True, array_like=True):
    """One group: `s`liding, `o`rdered or `c`losing, and what that kind has."""

    sandbox: int
    key: bytes
    values: tuple[Value, ...]
    kind: str
    quiet_ns: int = 0
    times: bytes = b""
    rows: bytes = b""
    young: tuple[Item, ...] = ()
    begun: tuple[tuple[Chain | None, ...], ...] = ()
    subject: bytes = b""
    subject_ns: int = 0
    following: bytes = b""


class Kept(Struct, frozen=True, array_like=True):
    id: str
    digest: str
    since_ns: int
    groups: tuple[Held, ...]


def take(correlator: Correlator) -> tuple[Kept, ...]:
    return tuple(
        Kept(
            state.rule.id,
            state.rule.digest,
            state.since_ns,
            tuple(
                _held(sandbox, key, values, group)
                for sandbox, groups in state.groups.items()
                for key, (values, group) in groups.items()
            ),
        )
        for state in correlator.states.values()
    )


def restore(correlator: Correlator, kept: Iterable[Kept]) -> frozenset[str]:
    """The ids of correlations that go on where they were: of those that mean something else now, nothing is taken.

    Raises ValueError where it does not fit; the correlator is then to be thrown away."""
    found = set()
    for each in kept:
        state = correlator.states.get(each.id)
        if state is None or state.rule.digest != each.digest:
            continue
        state.since_ns = each.since_ns
        for held in each.groups:
            group = _group(held, state)
            state.groups.setdefault(held.sandbox, {})[held.key] = (held.values, group)
            state.total += 1
            state.cost += cost(group)
        found.add(each.id)
    return frozenset(found)


def _held(sandbox: int, key: bytes, values: tuple[Value, ...], group: Group) -> Held:
    if isinstance(group, Ordered):
        begun = tuple(map(tuple, group.begun))
        return Held(sandbox, key, values, "o", group.quiet_ns, young=tuple(group.young), begun=begun)
    times, rows = group.items.times.tobytes(), group.items.rows.tobytes()
    if isinstance(group, Sliding):
        return Held(sandbox, key, values, "s", group.quiet_ns, times, rows)
    return Held(
        sandbox, key, values, "c", 0, times, rows, (), (), group.subject, group.subject_ns, group.following
    )  # fmt: skip


def _group(held: Held, state: State) -> Group:
    rule = state.rule
    if held.kind == "o" and rule.prompt:
        chains = Ordered()
        chains.quiet_ns, chains.young = held.quiet_ns, list(held.young)
        chains.begun = [list(begun) for begun in held.begun]
        if chains.begun and [len(begun) for begun in chains.begun] != [len(each.wanted) for each in rule.alternatives]:
            raise ValueError("a sequence of other length")
        return chains
    items = _items(held)
    if held.kind == "s" and rule.prompt:
        sliding = Sliding()
        sliding.items, sliding.quiet_ns = items, held.quiet_ns
        return sliding
    if held.kind != "c" or rule.prompt or not len(items):
        raise ValueError("a group of another kind")
    closing = Closing()
    closing.items, closing.subject, closing.following = items, held.subject, held.following
    closing.subject_ns = held.subject_ns
    return closing


def _items(held: Held) -> Items:
    times: array[Any] = array("q")
    rows: array[Any] = array("q")
    times.frombytes(held.times)
    rows.frombytes(held.rows)
    if len(rows) != columns(len(times)) or any(a > b for a, b in pairwise(times)):
        raise ValueError("events that are in no order")
    return Items(times, rows)
