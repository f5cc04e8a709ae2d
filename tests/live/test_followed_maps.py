"""Maps of the test's own, followed: every difference is seen, none is invented, and repair makes them equal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.bpf import libbpf, maps
from sensor.bpf.libbpf import MapType
from sensor.guard.written import ARRAY_AT_ONCE, AT_ONCE, Followed

ENTRIES = 3000


@pytest.fixture(params=[MapType.HASH, MapType.ARRAY], ids=["hash", "array"])
def followed(request: pytest.FixtureRequest) -> Iterator[Followed]:
    descriptor = maps.create("test_followed", maps.Map(request.param, 4, 8, ENTRIES))
    try:
        yield Followed("test", descriptor)
    finally:
        libbpf.follow_no_more(descriptor)
        os.close(descriptor)


def rounds(followed: Followed) -> list[object]:
    """Everything is looked at once at least."""
    return [each for _ in range(2 + ENTRIES // min(AT_ONCE, ARRAY_AT_ONCE)) for each in followed.differences()]


def behind(descriptor: int, key: int, value: int | None) -> None:
    """As another process would, by a descriptor of its own."""
    other = os.dup(descriptor)
    try:
        if value is None:
            libbpf.delete(other, pack("<I", key))
        else:
            libbpf.update(other, pack("<I", key), pack("<Q", value))
    finally:
        os.close(other)


def test_what_was_there_before_is_adopted(followed: Followed) -> None:
    behind(followed.descriptor, 7, 7)
    followed.adopt()
    assert rounds(followed) == []


@settings(max_examples=40)
@given(
    ours=st.dictionaries(st.integers(0, ENTRIES - 1), st.integers(1, 2**64 - 1), max_size=600),
    theirs=st.dictionaries(st.integers(0, ENTRIES - 1), st.none() | st.integers(1, 2**64 - 1), max_size=9),
)
def test_every_difference_is_found_and_repaired(
    followed: Followed, ours: dict[int, int], theirs: dict[int, int | None]
) -> None:
    for key in [*followed.expected]:
        if followed.array:
            libbpf.update(followed.descriptor, key, bytes(8))
        else:
            libbpf.delete(followed.descriptor, key)
    for number, value in ours.items():
        libbpf.update(followed.descriptor, pack("<I", number), pack("<Q", value))
    followed.adopt()
    assert rounds(followed) == [], "our own writes are no difference"
    for number, changed in theirs.items():
        behind(followed.descriptor, number, changed)
    nothing = 0 if followed.array else None
    wrong = {
        number
        for number, changed in theirs.items()
        if changed != ours.get(number, nothing) and not (followed.array and changed is None)
    }
    found = rounds(followed)
    assert {int.from_bytes(each.key, "little") for each in found} == wrong  # type: ignore[attr-defined]
    for each in found:
        assert followed.repair(each) == ""  # type: ignore[arg-type]
    assert rounds(followed) == []
    for number in theirs:
        value_now = libbpf.lookup(followed.descriptor, pack("<I", number), 8)
        wanted = ours.get(number, nothing)
        assert value_now == (None if wanted is None else pack("<Q", wanted))


def test_of_a_map_that_evicts_absence_says_nothing_and_a_stranger_much() -> None:
    descriptor = maps.create("test_evicts", maps.Map(MapType.LRU_HASH, 4, 8, 100))
    followed = Followed("test", descriptor, evicts=True)
    try:
        libbpf.update(descriptor, pack("<I", 1), pack("<Q", 1))
        libbpf.update(descriptor, pack("<I", 2), pack("<Q", 2))
        behind(descriptor, 1, None)
        assert followed.differences() == []
        behind(descriptor, 2, 3)
        behind(descriptor, 9, 9)
        found = {int.from_bytes(each.key, "little"): each for each in followed.differences()}
        assert sorted(found) == [2, 9]
        assert [followed.repair(each) for each in found.values()] == ["", ""]
        assert followed.differences() == []
        assert libbpf.lookup(descriptor, pack("<I", 9), 8) is None
    finally:
        libbpf.follow_no_more(descriptor)
        os.close(descriptor)
