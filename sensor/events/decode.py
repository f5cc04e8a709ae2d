"""Bytes of the ring to records. What is unknown, short or inconsistent is counted, never raised."""

from __future__ import annotations

from collections import Counter
from struct import Struct as PackedStruct

from msgspec import Struct

from sensor.events.layouts import HEADER_SIZE, READERS, Buffer, ShortRecord

_START = PackedStruct("<HHI")


class Decoder:
    """`counters` has `unknown_type`, `short` and `corrupt`, the reasons of lost events of this stage."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    def decode(self, buffer: Buffer, at: int, length: int) -> Struct | None:
        """The record of `length` bytes at `at`, or None."""
        if length < HEADER_SIZE:
            self.counters["short"] += 1
            return None
        kind, _, size = _START.unpack_from(buffer, at)
        entry = READERS.get(kind)
        if entry is None:
            self.counters["unknown_type"] += 1
            return None
        smallest, read = entry
        if length < smallest or size < smallest:
            self.counters["short"] += 1
            return None
        if size > length:
            self.counters["corrupt"] += 1
            return None
        try:
            return read(buffer, at)
        except ShortRecord:
            self.counters["corrupt"] += 1
            return None
