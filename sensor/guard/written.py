"""The contents of policy maps, compared with what this process last wrote into them.

`libbpf.update` and `delete` note what they do to a map that is followed: so whatever writes is known, whoever wrote it
and why, and nothing has to be worked out twice. One thread writes and compares: between the two nothing changes. Not
followed are maps that the probes write (sandboxes, processes, flows): of those the guard asks what it can know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

from msgspec import Struct

from sensor.bpf import libbpf
from sensor.errors import RefusedError

AT_ONCE = 256  # entries of a hash a second, each way
ARRAY_AT_ONCE = 1024  # of an array, by one system call


class Difference(Struct, frozen=True):
    """`key` is empty where the map could not be asked. `found` is None where the entry is gone, `expected` where it
    should not be."""

    map: str
    key: bytes
    expected: bytes | None
    found: bytes | None

    @property
    def digests(self) -> tuple[str, str]:
        return digest(self.expected), digest(self.found)


def digest(value: bytes | None) -> str:
    return hashlib.sha256(value).hexdigest()[:16] if value is not None else "none"


class Followed:
    """A map of which every entry is ours. `evicts`: the kernel may drop entries (LRU), so none need be there."""

    def __init__(self, name: str, descriptor: int, *, evicts: bool = False) -> None:
        self.name = name
        self.descriptor = descriptor
        self.expected = libbpf.follow(descriptor)
        self._evicts = evicts
        kind, self._key, self._value, self.entries = libbpf.map_shape(descriptor)
        self.array = kind == libbpf.MapType.ARRAY
        self._whole = b""
        self._whole_of: int = -1
        self._first = 0
        self._after: bytes | None = None
        self._turn: Iterator[tuple[bytes, bytes]] = iter(())

    def adopt(self) -> None:
        """What is there and was not written by this process: it stands from an earlier run, or is the zeroes of a new
        array. To be called once, after the configuration was written."""
        for key, value in self._entries():
            self.expected.setdefault(key, value)
        self.expected.revision += 1

    def differences(self) -> list[Difference]:
        """Bounded; a larger map is gone through in turns."""
        return self._array() if self.array else [*self._missing(), *self._foreign()]

    def repair(self, difference: Difference) -> str:
        """Empty, or why it could not be."""
        try:
            if difference.expected is not None:
                libbpf.update(self.descriptor, difference.key, difference.expected)
            elif not libbpf.delete(self.descriptor, difference.key):
                return "" if libbpf.lookup(self.descriptor, difference.key, self._value) is None else "it stays"
        except RefusedError as error:
            return str(error)
        return ""

    def _array(self) -> list[Difference]:
        revision = self.expected.revision
        if revision != self._whole_of:
            blank = bytes(self._value)
            keys = (index.to_bytes(4, "little") for index in range(self.entries))
            self._whole = b"".join(self.expected.get(key, blank) for key in keys)
            self._whole_of = revision
        size, first = self._value, self._first
        count = min(ARRAY_AT_ONCE, self.entries - first)
        self._first = first + count if first + count < self.entries else 0
        found = libbpf.lookup_array(self.descriptor, size, count, first)
        wanted = self._whole[first * size : (first + count) * size]
        if found == wanted:
            return []
        told = []
        for index in range(count):
            at = slice(index * size, (index + 1) * size)
            if found[at] != wanted[at]:
                told.append(Difference(self.name, (first + index).to_bytes(4, "little"), wanted[at], found[at]))
        return told

    def _missing(self) -> Iterator[Difference]:
        if self._evicts:
            return
        for key, value in self._next():
            found = libbpf.lookup(self.descriptor, key, self._value)
            if found != value:
                yield Difference(self.name, key, value, found)

    def _next(self) -> list[tuple[bytes, bytes]]:
        """The next ones in turn; all where they are few."""
        if len(self.expected) <= AT_ONCE:
            return list(self.expected.items())
        try:
            batch = list(islice(self._turn, AT_ONCE))
        except RuntimeError:  # it grew or shrank meanwhile
            batch = []
        if not batch:
            self._turn = iter(self.expected.items())
            batch = list(islice(self._turn, AT_ONCE))
        return batch

    def _foreign(self) -> Iterator[Difference]:
        keys = libbpf.keys(self.descriptor, self._key, AT_ONCE, self._after)
        self._after = keys[-1] if len(keys) == AT_ONCE else None
        for key in keys:
            if key not in self.expected:
                found = libbpf.lookup(self.descriptor, key, self._value)
                if found is not None:
                    yield Difference(self.name, key, None, found)
            elif self._evicts:
                found = libbpf.lookup(self.descriptor, key, self._value)
                if found not in {None, self.expected[key]}:
                    yield Difference(self.name, key, self.expected[key], found)

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        if self.array:
            found = libbpf.lookup_array(self.descriptor, self._value, self.entries)
            for index in range(self.entries):
                yield index.to_bytes(4, "little"), found[index * self._value : (index + 1) * self._value]
            return
        for key in libbpf.keys(self.descriptor, self._key, self.entries):
            value = libbpf.lookup(self.descriptor, key, self._value)
            if value is not None:
                yield key, value
