"""How many sandboxes of a class may be quarantined or frozen in a minute without a person: a rule that errs must not
stop a fleet."""

from __future__ import annotations

from collections import deque

MINUTE_NS = 60_000_000_000


class Budget:
    """By class. A sandbox that was counted in the last minute costs nothing again."""

    def __init__(self) -> None:
        self._spent: dict[
            str, deque[tuple[int, int]]
        ] = {}  # (when, sandbox id), oldest first; never longer than `most`
        self._told: dict[str, int] = {}

    def take(self, class_name: str, sandbox_id: int, most: int, now_ns: int) -> bool:
        """Whether it may be done. `now_ns`: CLOCK_MONOTONIC."""
        spent = self._spent.setdefault(class_name, deque())
        while spent and spent[0][0] <= now_ns - MINUTE_NS:
            spent.popleft()
        if any(sandbox == sandbox_id for _, sandbox in spent):
            return True
        if len(spent) >= most:
            return False
        spent.append((now_ns, sandbox_id))
        return True

    def say(self, class_name: str, now_ns: int) -> bool:
        """Whether to say loudly that it is spent: once a minute for each class."""
        last = self._told.get(class_name)
        if last is not None and now_ns - last < MINUTE_NS:
            return False
        self._told[class_name] = now_ns
        return True
