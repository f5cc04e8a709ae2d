"""Events of one group in order of their time, in two arrays: some 48 bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from msgspec import Struct

MOST_ITEMS = 1024
_ROW = 5  # generation, position, part, weight, value
_MOST = (1 << 63) - 1


class Item(Struct, frozen=True, gc=False, array_like=True):
    """`time_ns` is CLOCK_MONOTONIC; `part` the rule's number in its correlation; `weight` what it adds to a count or
    sum; `value` a field's value, or a hash of it."""

    time_ns: int
    generation: int
    position: int
    part: int
    weight: int
    value: int


class Items:
    __slots__ = ("rows", "times")

    def __init__(self, times: array[int] | None = None, rows: array[int] | None = None) -> None:
        self.times = array("q") if times is None else times
        self.rows = array("q") if rows is None else rows

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, at: int) -> Item:
        return Item(self.times[at], *self.rows[at * _ROW : at * _ROW + _ROW])

    def add(self, item: Item) -> int:
        """Its place: behind those of the same time."""
        at = bisect_right(self.times, item.time_ns)
        row = (item.generation, item.position, item.part, bounded(item.weight), item.value)
        self.times.insert(at, item.time_ns)
        self.rows[at * _ROW : at * _ROW] = array("q", row)
        return at

    def remove(self, begin: int, end: int) -> None:
        del self.times[begin:end]
        del self.rows[begin * _ROW : end * _ROW]

    def after(self, time_ns: int) -> int:
        """The first place that is later."""
        return bisect_right(self.times, time_ns)

    def before(self, time_ns: int) -> int:
        """The number of items that are earlier."""
        return bisect_left(self.times, time_ns)

    def parts(self, begin: int, end: int) -> array[int]:
        return self.rows[begin * _ROW + 2 : end * _ROW : _ROW]

    def weights(self, begin: int, end: int) -> array[int]:
        return self.rows[begin * _ROW + 3 : end * _ROW : _ROW]

    def values(self, begin: int, end: int) -> array[int]:
        return self.rows[begin * _ROW + 4 : end * _ROW : _ROW]

    def merge_oldest(self) -> None:
        """Two into one, that expires with the first of them: what is counted is never too much."""
        self.rows[3] = bounded(self.rows[3] + self.rows[_ROW + 3])
        self.remove(1, 2)


def bounded(number: int) -> int:
    return max(-_MOST, min(_MOST, number))


def columns(items: int) -> int:
    """How many numbers so many items have besides their times."""
    return items * _ROW
