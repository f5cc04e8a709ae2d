"""Bytes to records: everything valid comes back, and nothing else raises or goes uncounted."""

from __future__ import annotations

import mmap
from struct import Struct as PackedStruct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.events import generate, layouts
from sensor.events.decode import Decoder
from sensor.events.layouts import HEADER_SIZE, READERS, Type
from tests.events.packing import LAYOUTS, packed

WIDTHS = {"B": 8, "H": 16, "I": 32, "Q": 64, "i": 31}
GUARD = b"\xee" * 64  # around a record: what is read of it was read beyond the record


def values(kind: Type) -> st.SearchStrategy[dict[str, Any]]:
    """Members of a record of this type, its tails included."""
    members: dict[str, st.SearchStrategy[Any]] = {}
    for name, letter, python in LAYOUTS[kind].members:
        if python == "int" and not name.endswith("_len"):
            members[name] = st.integers(0, 2 ** WIDTHS[letter] - 1)
        elif python == "bytes":
            length = int(letter[:-1])
            members[name] = st.binary(min_size=length, max_size=length)
    for tail in LAYOUTS[kind].tails:
        members[tail] = st.binary(max_size=300)
    return st.fixed_dictionaries(members)


records = st.sampled_from(Type).flatmap(lambda kind: st.tuples(st.just(kind), values(kind)))
plain = settings(max_examples=200)


@pytest.mark.parametrize("kind", Type, ids=lambda kind: str(kind.name))
@given(data=st.data(), before=st.integers(0, 64))
@settings(max_examples=40)
def test_a_valid_record_comes_back_whole(kind: Type, data: st.DataObject, before: int) -> None:
    members = data.draw(values(kind))
    raw = packed(kind, members)
    decoder = Decoder()
    record: Any = decoder.decode(b"\xee" * before + raw + GUARD, before, len(raw))
    assert type(record).__name__ == generate._camel(LAYOUTS[kind].name)
    for name in record.__struct_fields__:
        expected = {"type": int(kind), "size": len(raw)}.get(name, members.get(name))
        assert getattr(record, name) == expected, name
    assert not decoder.counters


@given(record=records)
@plain
def test_a_larger_area_than_the_record_is_accepted(record: tuple[Type, dict[str, Any]]) -> None:
    """A probe may reserve more than it fills; what it says of the size counts."""
    raw = packed(*record)
    assert Decoder().decode(raw + GUARD, 0, len(raw) + 40) == Decoder().decode(raw, 0, len(raw))


@pytest.mark.parametrize("length", range(HEADER_SIZE))
def test_what_has_no_room_for_a_header_is_short(length: int) -> None:
    decoder = Decoder()
    assert decoder.decode(bytes(256), 0, length) is None
    assert decoder.counters == {"short": 1}


@given(kind=st.integers(0, 2**16 - 1).filter(lambda kind: kind not in READERS))
@plain
def test_an_unknown_type_is_counted(kind: int) -> None:
    decoder = Decoder()
    assert decoder.decode(kind.to_bytes(2, "little") + bytes(300), 0, 300) is None
    assert decoder.counters == {"unknown_type": 1}


@given(record=records, data=st.data())
@plain
def test_a_cut_record_is_counted(record: tuple[Type, dict[str, Any]], data: st.DataObject) -> None:
    raw = packed(*record)
    length = data.draw(st.integers(HEADER_SIZE, len(raw) - 1))
    decoder = Decoder()
    assert decoder.decode(raw + GUARD, 0, length) is None
    assert decoder.counters == {"short" if length < LAYOUTS[record[0]].size else "corrupt": 1}


@given(record=records, size=st.integers(0, 2**32 - 1))
@plain
def test_a_size_that_cannot_be_is_counted(record: tuple[Type, dict[str, Any]], size: int) -> None:
    raw = bytearray(packed(*record))
    smallest, true = LAYOUTS[record[0]].size, len(raw)
    raw[4:8] = size.to_bytes(4, "little")
    decoder = Decoder()
    result = decoder.decode(bytes(raw) + GUARD, 0, true)
    if size == true:
        assert result is not None
    elif size < smallest:
        assert decoder.counters == {"short": 1}
    else:
        assert decoder.counters == {"corrupt": 1}


@pytest.mark.parametrize("kind", [kind for kind in Type if LAYOUTS[kind].tails], ids=lambda kind: str(kind.name))
def test_tails_beyond_the_record_are_corrupt(kind: Type) -> None:
    layout = LAYOUTS[kind]
    members: dict[str, Any] = {name: bytes(int(letter[:-1])) if python == "bytes" else 0
                               for name, letter, python in layout.members if python}  # fmt: skip
    members |= dict.fromkeys(layout.tails, b"abc")
    raw = packed(kind, members)
    for tail in layout.tails:
        letters = [letter for name, letter, _ in layout.members]
        names = [name for name, _, _ in layout.members]
        at = PackedStruct("<" + "".join(letters[: names.index(f"{tail}_len")])).size
        for wrong in (4, 1000, 0xFFFF):
            broken = bytearray(raw)
            broken[at : at + 2] = wrong.to_bytes(2, "little")
            decoder = Decoder()
            assert decoder.decode(bytes(broken) + GUARD * 2048, 0, len(raw)) is None
            assert decoder.counters == {"corrupt": 1}


@given(
    record=records, noise=st.dictionaries(st.integers(0, 7), st.integers(0, 255), max_size=3), less=st.integers(0, 9)
)
@settings(max_examples=600)
def test_split_or_not_it_is_the_same_record(
    record: tuple[Type, dict[str, Any]], noise: dict[int, int], less: int
) -> None:
    """Whatever is wrong with it, in its header or its length."""
    raw = bytearray(packed(*record))
    length = len(raw) - less
    for at, byte in noise.items():
        raw[at] = byte
    whole, split = Decoder(), Decoder(split=True)
    area = bytes(raw) + GUARD
    one: Any = whole.decode(area, 0, length)
    other: Any = split.decode(area, 0, length)
    assert split.counters == whole.counters
    if type(other) is not tuple:
        assert other == one and (one is None or one.type not in layouts.SPLITTERS)
        return
    members, *tails = other
    assert members == layouts.SPLIT_MEMBERS[one.type](one)
    named = [getattr(one, tail) for tail in LAYOUTS[one.type].tails]
    joined = [named[0], b"".join(named[1:]), *map(len, named[1:-1])] if len(named) > 1 else named
    assert tails == joined


def judge(decoder: Decoder, buffer: bytes, at: int, length: int) -> None:
    """Either a record made of the area's bytes alone, or one count; never an exception."""
    record: Any = decoder.decode(buffer, at, length)
    if record is None:
        assert sum(decoder.counters.values()) == 1
        assert set(decoder.counters) <= {"short", "unknown_type", "corrupt"}
        return
    assert not decoder.counters
    tails = LAYOUTS[Type(record.type)].tails
    smallest, _ = READERS[record.type]
    assert smallest + sum(len(getattr(record, tail)) for tail in tails) <= record.size <= length
    for tail in tails:
        assert getattr(record, tail) in buffer[at : at + length]


@given(noise=st.binary(max_size=600), at=st.integers(0, 40))
@plain
def test_noise_never_raises(noise: bytes, at: int) -> None:
    judge(Decoder(), b"\xee" * at + noise + GUARD, at, len(noise))


@given(kind=st.sampled_from(Type), noise=st.binary(min_size=256, max_size=600))
@plain
def test_noise_of_a_known_type_never_raises(kind: Type, noise: bytes) -> None:
    body = int(kind).to_bytes(2, "little") + noise[2:4] + len(noise).to_bytes(4, "little") + noise[8:]
    judge(Decoder(), body + GUARD, 0, len(body))


@given(record=records, data=st.data())
@settings(max_examples=400)
def test_a_mutated_record_never_raises(record: tuple[Type, dict[str, Any]], data: st.DataObject) -> None:
    raw = bytearray(packed(*record))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, min(len(raw), 160) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(raw)))
    judge(Decoder(), bytes(raw) + GUARD, 0, length)


def test_a_mapping_gives_the_same_as_its_bytes() -> None:
    """The ring is one; its slices must be bytes, which are looked up as they are."""
    members: dict[str, Any] = {name: 7 for name, _, python in LAYOUTS[Type.EXEC].members if python == "int"}
    tails = {name: name.encode() for name in LAYOUTS[Type.EXEC].tails}
    raw = packed(Type.EXEC, members | tails) + GUARD
    with mmap.mmap(-1, len(raw)) as mapping:
        mapping.write(raw)
        record = Decoder().decode(mapping, 0, len(raw) - len(GUARD))
    assert isinstance(record, layouts.Exec)
    assert record == Decoder().decode(raw, 0, len(raw) - len(GUARD))
    assert {type(tail) for tail in (record.argv, record.filename, record.image_path, record.cwd_path)} == {bytes}
