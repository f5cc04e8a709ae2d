"""State that a sandbox makes grow, with its bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

State = TypeVar("State")
HOUR_NS = 3_600 * 10**9
SECOND_NS = 10**9


class PerSandbox(Generic[State]):
    """A state a sandbox, made when first asked for. At `most`, the oldest sandbox's goes: events that trail behind
    the end of their sandbox make states that nobody would end."""

    def __init__(self, make: Callable[[], State], most: int, counters: Counter[str], name: str) -> None:
        self._make = make
        self._most = most
        self._counters = counters
        self._name = f"{name}_sandboxes_evicted"
        self._states: dict[int, State] = {}

    def __len__(self) -> int:
        return len(self._states)

    def get(self, sandbox_id: int) -> State:
        state = self._states.get(sandbox_id)
        if state is None:
            if len(self._states) >= self._most:
                del self._states[next(iter(self._states))]
                self._counters[self._name] += 1
            state = self._states[sandbox_id] = self._make()
        return state

    def peek(self, sandbox_id: int) -> State | None:
        return self._states.get(sandbox_id)

    def forget(self, sandbox_id: int) -> None:
        self._states.pop(sandbox_id, None)

    def items(self) -> Iterator[tuple[int, State]]:
        return iter(self._states.items())


class Levels:
    """Lets an accusation through when its score first passes a mark, so at most once a mark and hour for each key,
    and at most `most_an_hour` times a sandbox: keys are the sandbox's to invent."""

    def __init__(self, marks: tuple[int, ...], most_keys: int, most_an_hour: int) -> None:
        self._marks = marks
        self._most_keys = most_keys
        self._most_an_hour = most_an_hour
        self._passed: dict[object, tuple[int, int]] = {}  # key → marks passed, since when
        self._told = 0
        self._hour_ns = 0

    def passes(self, key: object, score: int, now_ns: int, counters: Counter[str]) -> bool:
        level = sum(score >= mark for mark in self._marks)
        before, since = self._passed.get(key, (0, now_ns))
        if now_ns - since > HOUR_NS:
            before, since = 0, now_ns
        if level <= before:
            return False
        if now_ns - self._hour_ns > HOUR_NS:
            self._hour_ns, self._told = now_ns, 0
        if self._told >= self._most_an_hour:
            counters["behaviors_over_hourly_limit"] += 1
            return False
        self._told += 1
        self._passed.pop(key, None)
        if len(self._passed) >= self._most_keys:
            del self._passed[next(iter(self._passed))]
        self._passed[key] = (level, since)
        return True


class Budget:
    """`most` a minute: scans of /proc cost the host, and the sandbox decides how often one would be asked for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most
        self._since_ns = 0

    def take(self, now_ns: int) -> bool:
        if now_ns - self._since_ns > 60 * SECOND_NS:
            self._since_ns, self._left = now_ns, self._most
        if self._left <= 0:
            return False
        self._left -= 1
        return True
