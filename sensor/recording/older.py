"""Records whose layout was another when they were recorded: members go over by their names.

A member that came since is zero or empty, one that went is left out. What members mean must not change: enums only
grow.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

from sensor.errors import RecordingError
from sensor.events import layouts
from sensor.events.decode import Decoder
from sensor.events.layouts import HEADER_SIZE, Buffer

_FORMAT = re.compile(r"<(?:\d{0,4}[xBHIQiqs])+", re.ASCII)
_MOST_BYTES = 65536
_START = struct.Struct("<HHI")


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """`unpacked`: what `format` gives, in its order. The tails follow, in the order of `members`; `NAME_len` says how
    long the tail NAME is."""

    format: str
    unpacked: tuple[str, ...]
    members: tuple[str, ...]


def record_layouts() -> dict[int, Layout]:
    """Of this version, as generated code has them."""
    found = {}
    for kind, (_, reader) in layouts.READERS.items():
        packed: struct.Struct = getattr(layouts, "_PF_" + reader.__name__.removeprefix("read_").upper())
        members = tuple(getattr(layouts, str(reader.__annotations__["return"])).__struct_fields__)
        tails = layouts.TAILS[kind]
        names = [name for name in members if name not in tails]
        for tail, place in tails.items():
            names.insert(place, f"{tail}_len")
        found[int(kind)] = Layout(str(packed.format), tuple(names), members)
    return found


class OlderDecoder(Decoder):
    """As the decoder, of a recording with these layouts."""

    def __init__(self, recorded: Mapping[int, Layout]) -> None:
        super().__init__()
        now = record_layouts()
        self._older = {kind: _Older(kind, then) for kind, then in recorded.items() if now.get(kind, then) != then}

    def decode(self, buffer: Buffer, at: int, length: int) -> Any:
        if length < HEADER_SIZE:
            self.counters["short"] += 1
            return None
        kind, _, size = _START.unpack_from(buffer, at)
        older = self._older.get(kind)
        if older is None:
            return super().decode(buffer, at, length)
        if length < older.packed.size or size > length:
            self.counters["short" if length < older.packed.size else "corrupt"] += 1
            return None
        found = older.read(buffer, at, size)
        if found is None:
            self.counters["corrupt"] += 1
        return found


class _Older:
    def __init__(self, kind: int, then: Layout) -> None:
        self._names = then.unpacked
        self._tails = tuple(name for name in then.members if name not in then.unpacked)
        known = set(then.unpacked)
        sound = _FORMAT.fullmatch(then.format) and all(f"{name}_len" in known for name in self._tails)
        self.packed = struct.Struct(then.format if sound else "<")
        if not sound or not self._fits():
            raise RecordingError(f"the recording says of records of type {kind} what cannot be: record it again")
        _, reader = layouts.READERS[kind]
        self._shape = getattr(layouts, str(reader.__annotations__["return"]))
        self._neutral = {name: b"" if hint is bytes else 0 for name, hint in get_type_hints(self._shape).items()}

    def _fits(self) -> bool:
        if not HEADER_SIZE <= self.packed.size <= _MOST_BYTES:
            return False
        values = self.packed.unpack(bytes(self.packed.size))
        lengths = {f"{name}_len" for name in self._tails}
        numbers = all(type(value) is int for name, value in zip(self._names, values, strict=False) if name in lengths)
        return len(values) == len(self._names) and numbers

    def read(self, buffer: Buffer, at: int, size: int) -> msgspec.Struct | None:
        """None where a tail reaches beyond the record, or a member is of another kind by now."""
        found = dict(zip(self._names, self.packed.unpack_from(buffer, at), strict=True))
        start, end = at + self.packed.size, at + size
        for name in self._tails:
            length = found[f"{name}_len"]
            if not 0 <= length <= end - start:
                return None
            found[name] = bytes(buffer[start : start + length])
            start += length
        values = {name: found.get(name, neutral) for name, neutral in self._neutral.items()}
        if any(type(values[name]) is not type(neutral) for name, neutral in self._neutral.items()):
            return None
        made: msgspec.Struct = self._shape(**values)
        return made
