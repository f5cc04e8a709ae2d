"""Correlations on the live stream: matches in, findings out. Bounded: what is too much is evicted, oldest first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from sensor.events.activity import Activity
from sensor.rules.correlation import subject
from sensor.rules.correlation.closing import Closing
from sensor.rules.correlation.groups import TOLERANCE_NS, Found, Ordered, Sliding
from sensor.rules.correlation.items import Item, bounded
from sensor.rules.correlation.model import MEASURED, Correlation, Key, Value

MOST_GROUPS = 10_000  # of one correlation
SANDBOX_SHARE = 8  # one sandbox has at most this part of them: its noise must not push out the others
MOST_COST = 540_000  # of all: an item costs 1, some 48 bytes, and a group as much as ten
GROUP_COST = 10
ITEM_BYTES = 48
SWEEP_NS = 5_000_000_000  # between two looks for groups that nothing can come of: it only frees memory
MOST_CHARACTERS = 128  # of a group's value; a longer one ends in its digest

Group = Sliding | Ordered | Closing
Count = Callable[[str, int], None]


class Hit(Struct, frozen=True, array_like=True):
    """A match, as far as one correlation wants it. `values`: the group's; `subject`: the event, where one will be
    needed when its window closes."""

    correlation: str
    part: int
    sandbox: int
    values: tuple[Value, ...]
    item: Item
    rule: str
    subject: bytes = b""


class Fired(Struct, frozen=True):
    """`rules` has a rule's id for each part. `activity`: None where the window closed on what a restart cannot tell."""

    correlation: Correlation
    values: tuple[Value, ...]
    found: Found
    activity: Activity | None
    partial: bool


class State:
    """Of one correlation. `since_ns`: from when on all that belongs to it was seen."""

    __slots__ = ("cost", "groups", "rule", "since_ns", "sweep_ns", "total")

    def __init__(self, rule: Correlation, since_ns: int) -> None:
        self.rule = rule
        self.since_ns = since_ns
        self.sweep_ns = 0
        self.groups: dict[
            int, dict[bytes, tuple[tuple[Value, ...], Any]]
        ] = {}  # by sandbox, those untouched longest first
        self.total = 0
        self.cost = 0


def cost(group: Group) -> int:
    if isinstance(group, Closing):
        return GROUP_COST + (len(group.subject) + len(group.following)) // ITEM_BYTES + len(group.items)
    if isinstance(group, Ordered):
        held = sum(len(chain.items) for begun in group.begun for chain in begun if chain is not None)
        return GROUP_COST + 4 * (len(group.young) + held)
    return GROUP_COST + len(group.items)


class Correlator:
    """`count(what, number)` is told of what was evicted (groups, items) or came too late (late).

    `now_ns` is CLOCK_MONOTONIC."""

    def __init__(
        self, correlations: Iterable[Correlation], now_ns: int, count: Count = lambda _what, _number: None
    ) -> None:
        self.states: dict[str, State] = {}
        self._count = count
        self.newest_ns = 0
        self.replace(correlations, now_ns)

    def replace(self, correlations: Iterable[Correlation], now_ns: int) -> None:
        """Other definitions from here on. Those that mean the same keep what they hold."""
        old = self.states
        self.states = {}
        for rule in correlations:
            state = old.get(rule.id)
            if state is None or state.rule.digest != rule.digest:
                state = State(rule, now_ns)
            state.rule = rule
            self.states[rule.id] = state
        self._parts: dict[str, list[tuple[State, int]]] = {}
        for state in self.states.values():
            for number, part in enumerate(state.rule.parts):
                self._parts.setdefault(part.rule, []).append((state, number))
        self._late_subject = self._waiting()

    def _waiting(self) -> set[str]:
        """Correlations whose event must be had again: their windows close after it, or a restart finds again what they
        found, for others that refer to them."""
        found = {
            identity for identity, state in self.states.items() if not state.rule.prompt or identity in self._parts
        }
        for state in reversed(self.states.values()):  # who refers stands behind what it refers to
            if state.rule.id in found:
                found.update(part.rule for part in state.rule.parts)
        return found

    @property
    def closing(self) -> bool:
        """Whether windows wait for their end."""
        return any(state.total and not state.rule.prompt for state in self.states.values())

    # From an activity to hits.

    def hits(self, rule: str, activity: Activity) -> list[Hit]:
        """What the match of a rule is to correlations. Never raises for what a sandbox did."""
        parts = self._parts.get(rule)
        return [] if parts is None else [self._hit(state, number, rule, activity, ()) for state, number in parts]

    def _hit(self, state: State, number: int, rule: str, activity: Activity, inner: tuple[Value, ...]) -> Hit:
        definition = state.rule
        part = definition.parts[number]
        repeats = max(1, getattr(activity, "Count", 1))
        weight, value = repeats, number
        if part.value:
            given = [_value(key, activity, inner) for key in part.value]
            if definition.type == "value_count":
                value = _hash64(given)
            else:
                value = bounded(given[0]) if isinstance(given[0], int) else 0
                if part.value[0].attribute == "Count":
                    repeats = 1
                weight = value * repeats if definition.type not in MEASURED else repeats
        item = Item(activity.monotonic_ns, activity.generation, activity.position, number, bounded(weight), value)
        values = tuple(short(_value(key, activity, inner)) for key in part.keys)
        sandbox = 0 if definition.across_sandboxes else activity.SandboxId
        packed = subject.pack(activity) if definition.id in self._late_subject else b""
        return Hit(definition.id, number, sandbox, values, item, rule, packed)

    # From hits to findings.

    def feed(self, hit: Hit, activity: Activity | None) -> list[Fired]:
        """What fires by it, inner correlations before those that refer to them."""
        state = self.states.get(hit.correlation)
        if state is None or hit.part >= len(state.rule.parts):
            return []
        rule = state.rule
        self.newest_ns = max(self.newest_ns, hit.item.time_ns)
        if hit.item.time_ns <= self.newest_ns - rule.timespan_ns - TOLERANCE_NS:
            self._count("late", 1)
            return []
        group = self._group(state, hit)
        before = cost(group)
        if isinstance(group, Closing):
            group.add(hit.item, rule, hit.subject)
            found = None
        else:
            found = group.add(hit.item, rule)
        state.cost += cost(group) - before
        self._make_room()
        return [] if found is None else self._fired(state, hit.sandbox, hit.values, found, activity, hit.subject)

    def _fired(  # noqa: PLR0917
        self,
        state: State,
        sandbox: int,
        values: tuple[Value, ...],
        found: Found,
        activity: Activity | None,
        packed: bytes,
    ) -> list[Fired]:
        if activity is None:
            activity = subject.unpack(packed)
        partial = found.last_ns - state.rule.timespan_ns < state.since_ns
        fired = [Fired(state.rule, values, found, activity, partial)]
        if activity is not None:
            for outer, number in self._parts.get(state.rule.id, ()):
                fired += self.feed(self._hit(outer, number, state.rule.id, activity, values), activity)
        return fired

    def _group(self, state: State, hit: Hit) -> Group:
        """The group of a hit, made where there is none, and the one touched last."""
        key = hashlib.blake2b(msgspec.msgpack.encode(hit.values), digest_size=16).digest()
        groups = state.groups.setdefault(hit.sandbox, {})
        known = groups.pop(key, None)
        if known is None:
            rule = state.rule
            group: Group = Sliding() if rule.prompt else Closing()
            if rule.prompt and rule.type == "temporal_ordered":
                group = Ordered()
            known = (hit.values if isinstance(group, Closing) else (), group)
            state.total += 1
            state.cost += cost(group)
            self._make_room_for(state, hit.sandbox)
        groups[key] = known
        return known[1]

    # What is held.

    def _make_room_for(self, state: State, sandbox: int) -> None:
        most = MOST_GROUPS if state.rule.across_sandboxes else MOST_GROUPS // SANDBOX_SHARE
        if len(state.groups[sandbox]) >= most:
            self._evict(state, sandbox)
        elif state.total > MOST_GROUPS:
            self._evict(state, max(state.groups, key=lambda each: len(state.groups[each])))

    def _make_room(self) -> None:
        while sum(state.cost for state in self.states.values()) > MOST_COST:
            state = max(self.states.values(), key=lambda each: each.cost)
            if state.total <= 1:
                return
            self._evict(state, max(state.groups, key=lambda each: len(state.groups[each])))

    def _evict(self, state: State, sandbox: int) -> None:
        groups = state.groups[sandbox]
        self._forget(state, sandbox, next(iter(groups)))
        self._count("groups", 1)

    def _forget(self, state: State, sandbox: int, key: bytes) -> None:
        groups = state.groups[sandbox]
        _, group = groups.pop(key)
        state.total -= 1
        state.cost -= cost(group)
        if not groups:
            del state.groups[sandbox]

    def tick(self, now_ns: int) -> list[Fired]:
        """Windows that are over are judged, and groups that nothing can come of are let go."""
        fired: list[Fired] = []
        for state in self.states.values():
            if state.rule.prompt and now_ns < state.sweep_ns:
                continue
            state.sweep_ns = now_ns + SWEEP_NS
            for sandbox in list(state.groups):
                if state.rule.prompt:
                    self._expire(state, sandbox, now_ns)
                else:
                    fired += self._close(state, sandbox, now_ns)
        return fired

    def _expire(self, state: State, sandbox: int, now_ns: int) -> None:
        past = now_ns - state.rule.timespan_ns - TOLERANCE_NS
        groups = state.groups[sandbox]
        over = []
        for key, (_, group) in groups.items():  # those touched last are behind
            if max(_latest(group), group.quiet_ns - state.rule.timespan_ns) > past:
                break
            over.append(key)
        for key in over:
            self._forget(state, sandbox, key)

    def _close(self, state: State, sandbox: int, now_ns: int) -> list[Fired]:
        fired: list[Fired] = []
        due = [
            (key, values, group)
            for key, (values, group) in state.groups[sandbox].items()
            if group.due(state.rule, now_ns)
        ]
        for key, values, group in due:
            before = cost(group)
            while len(group.items) and group.due(state.rule, now_ns):
                packed, evicted = group.subject, group.evicted
                found = group.close(state.rule)
                if evicted:
                    self._count("items", evicted)
                    group.evicted = 0
                if found is not None:
                    fired += self._fired(state, sandbox, values, found, None, packed)
            state.cost += cost(group) - before
            if not len(group.items):
                self._forget(state, sandbox, key)
        return fired


def _latest(group: Any) -> int:
    times = group.items.times if isinstance(group, Sliding) else [each.time_ns for each in group.young]
    return times[-1] if len(times) else -(1 << 62)


def _value(key: Key, activity: Activity, inner: tuple[Value, ...]) -> Value:
    if key.child >= 0:
        return inner[key.child] if key.child < len(inner) else ""
    value = getattr(activity, key.attribute, "")
    return value if isinstance(value, str | int) else ""


def short(value: Value) -> Value:
    """Of a group's value so much as can be held ten thousand times."""
    if not isinstance(value, str) or len(value) <= MOST_CHARACTERS:
        return value
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{value[: MOST_CHARACTERS - 17]}…{digest}"


def _hash64(values: list[Value]) -> int:
    text = "\0".join(map(str, values)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
