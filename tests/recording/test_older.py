"""Records of an older version: their members go over by name, whatever stood where."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import asdict, replace

from sensor.errors import RecordingError
from sensor.events.decode import Decoder
from sensor.events.layouts import Type
from sensor.recording.entries import KnownProcess
from sensor.recording.older import Layout, OlderDecoder, record_layouts
from tests.events.packing import LAYOUTS, bytes_of
from tests.test_pipeline import HOSTILE

RECORDS = [record for record in HOSTILE.elements]  # type: ignore[attr-defined]  # noqa: C416 - a list of its own


def then(kind: int) -> tuple[Layout, list[tuple[str, str]]]:
    """A layout without the last fixed member that is no tail's length, and with one before the tails that is gone."""
    layout = LAYOUTS[Type(kind)]
    pairs = [(name, letter) for name, letter, _ in layout.members]
    lengths = {f"{tail}_len" for tail in layout.tails}
    last = max(n for n, (name, letter) in enumerate(pairs) if name not in lengths and "x" not in letter)
    pairs[last : last + 1] = [("gone", "Q")]
    names = tuple(name for name, letter in pairs if "x" not in letter)
    text = "<" + "".join(letter for _, letter in pairs)
    return Layout(text, names, (*(name for name in names if name not in lengths), *layout.tails)), pairs


def packed(record: Struct, layout: Layout) -> bytes:
    fields = asdict(record)
    tails = [fields[name] for name in layout.members if name not in layout.unpacked]
    size = struct.calcsize(layout.format) + sum(map(len, tails))
    known: dict[str, Any] = fields | {"gone": 7, "size": size}
    known |= {f"{name}_len": len(fields[name]) for name in layout.members if name not in layout.unpacked}
    return struct.pack(layout.format, *(known[name] for name in layout.unpacked)) + b"".join(tails)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_member_that_came_since_is_zero_and_the_others_are_as_they_were(record: Any) -> None:
    layout, _ = then(record.type)
    raw = packed(record, layout)
    (lacking,) = {name for name, letter, _ in LAYOUTS[Type(record.type)].members if "x" not in letter} - {
        *layout.unpacked
    }
    decoder = OlderDecoder({int(record.type): layout})
    wanted = replace(record, size=len(raw), **{lacking: b"" if isinstance(getattr(record, lacking), bytes) else 0})
    assert decoder.decode(b"\xee" * 8 + raw + b"\xee" * 8, 8, len(raw)) == wanted
    assert not decoder.counters


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_layout_that_is_the_same_is_read_as_ever(record: Any) -> None:
    raw = bytes_of(record)
    assert OlderDecoder(record_layouts()).decode(raw, 0, len(raw)) == Decoder().decode(raw, 0, len(raw)) is not None


def test_the_layouts_name_what_the_header_has() -> None:
    for kind, layout in record_layouts().items():
        members = LAYOUTS[Type(kind)].members
        assert layout.format == "<" + "".join(letter for _, letter, _ in members)
        assert layout.unpacked == tuple(name for name, letter, _ in members if "x" not in letter)


@given(st.sampled_from(RECORDS), st.binary(max_size=64), st.integers(0, 200), st.integers(0, 400))
def test_damaged_records_are_counted(record: Any, noise: bytes, at: int, length: int) -> None:
    layout, _ = then(record.type)
    raw = packed(record, layout)
    raw = (raw[:at] + noise + raw[at + len(noise) :])[:length]
    decoder = OlderDecoder({int(record.type): layout})
    assert (decoder.decode(raw, 0, len(raw)) is None) == bool(decoder.counters)


@given(
    st.integers(0, 100), st.text("<xBHIQs0123456789", max_size=12), st.lists(st.text("ab_len", max_size=6), max_size=4)
)
def test_a_layout_that_cannot_be_is_refused(kind: int, text: str, names: list[str]) -> None:
    with contextlib.suppress(RecordingError):
        OlderDecoder({kind: Layout(text, tuple(names), (*names, "tail"))}).decode(bytes(64), 0, 64)


@pytest.mark.parametrize("brought_along", [True, False])
def test_who_was_brought_along_is_so_in_the_replay_and_nobody_of_an_older_recording(brought_along: bool) -> None:
    ids = (600, 5, 7, 7001, 7001, 1, 0, (600, 5, "/usr/bin/runc", "", False))
    texts = ("", "600-5", "/usr/bin/runc", (0, 0), "", "/", "root", None, False)
    written = msgspec.msgpack.encode(KnownProcess(*ids, *texts, brought_along))  # type: ignore[arg-type]
    assert msgspec.msgpack.decode(written, type=KnownProcess).brought_along is brought_along
    older = msgspec.msgpack.encode((*ids, *texts))
    assert msgspec.msgpack.decode(older, type=KnownProcess).brought_along is False
