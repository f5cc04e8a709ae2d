"""What was found for bytes that repeat: the same programs, hosts and servers make most of a fleet's flows.

Everything here is shared by all sandboxes, so a hostile one may try to fill it. It is bounded in entries and in bytes,
and emptied when full. Then others look afresh at what they had in it, once; filling it took as many looks of that kind,
so nobody slows others by more than what it spends itself.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
SEEN = 4096


class Memo(dict[K, V]):
    """At most `entries`, whose keys have `most` bytes together. A key of a sixteenth of them or more is not kept."""

    __slots__ = ("_entries", "_held", "_most")

    def __init__(self, entries: int, most: int) -> None:
        super().__init__()
        self._entries = entries
        self._most = most
        self._held = 0

    def keep(self, key: K, value: V, size: int) -> None:
        """`size`: bytes of the key, which is not there yet."""
        if size >= self._most >> 4:
            return
        if len(self) >= self._entries or self._held + size > self._most:
            self.clear()
            self._held = 0
        self[key] = value
        self._held += size


class Seen:
    """Which keys came once, by their hashes: what never comes again need not be kept. A wrong yes does no harm."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: set[int] = set()

    def again(self, key: Hashable) -> bool:
        mark = hash(key)
        if mark in self._marks:
            return True
        if len(self._marks) >= SEEN:
            self._marks.clear()
        self._marks.add(mark)
        return False
