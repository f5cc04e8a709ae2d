"""Bytes of the ring to records. What is unknown, short or inconsistent is counted, never raised."""

from __future__ import annotations

from collections import Counter
from struct import Struct as PackedStruct
from typing import Any

from sensor.events.layouts import HEADER_SIZE, READERS, SPLITTERS, Buffer, ShortRecord

_START = PackedStruct("<HHI")


class Decoder:
    """`counters` has `unknown_type`, `short` and `corrupt`, the reasons of lost events of this stage. `split`: records
    that are most of all come as a layouts.Split, and only the others as a Struct."""

    def __init__(self, split: bool = False) -> None:
        self.counters: Counter[str] = Counter()
        self._split = {kind: (READERS[kind][0], read) for kind, read in SPLITTERS.items()} if split else {}

    def decode(self, buffer: Buffer, at: int, length: int) -> Any:
        """The record of `length` bytes at `at`, or None."""
        if length < HEADER_SIZE:
            self.counters["short"] += 1
            return None
        entry: tuple[int, Any] | None = self._split.get(buffer[at])  # the lower byte of its type
        if entry is not None and length >= entry[0]:
            # What is right is unpacked once; of anything else it is found out below what is wrong with it.
            try:
                found = entry[1](buffer, at)
            except ShortRecord:
                found = None
            if found is not None and found[0][0] < 256 and entry[0] <= found[0][2] <= length:
                return found
        kind, _, size = _START.unpack_from(buffer, at)
        entry = READERS.get(kind)
        if entry is None:
            self.counters["unknown_type"] += 1
            return None
        smallest, read = entry
        if not smallest <= size <= length:
            self.counters["short" if length < smallest or size < smallest else "corrupt"] += 1
            return None
        try:
            return read(buffer, at)
        except ShortRecord:
            self.counters["corrupt"] += 1
            return None
