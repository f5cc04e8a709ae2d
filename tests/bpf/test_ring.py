"""The consumer's side of a ring buffer, on memory that the test lays out. The kernel's own is in tests/live/."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.bpf.ring import PAGE, Ring
from sensor.errors import HostError
from tests.bpf.fake_ring import BUSY, DISCARDED, FakeRing


@pytest.fixture
def fake() -> Iterator[FakeRing]:
    made = FakeRing()
    yield made
    made.close()


def test_an_empty_ring_gives_nothing(fake: FakeRing) -> None:
    assert list(fake.ring.pending(10)) == []
    assert (fake.ring.consumed, fake.ring.produced, fake.ring.used) == (0, 0, 0)


def test_records_come_in_order_with_their_positions(fake: FakeRing) -> None:
    positions = [fake.write(data) for data in (b"one", b"12345678", b"three")]
    seen = list(fake.ring.pending(10))
    assert [entry[0] for entry in seen] == positions == [0, 16, 32]
    assert [entry[3] for entry in seen] == [3, 8, 5]
    assert all(before[1] == after[0] for before, after in pairwise(seen))
    assert seen[-1][1] == fake.produced == fake.ring.produced == fake.ring.used
    assert fake.read() == [b"one", b"12345678", b"three"]


def test_at_most_so_many_and_reading_frees_nothing(fake: FakeRing) -> None:
    for number in range(5):
        fake.write(b"%d" % number)
    assert fake.read(2) == [b"0", b"1"]
    assert fake.read(0) == []
    assert fake.read() == [b"0", b"1", b"2", b"3", b"4"]
    assert fake.consumer == 0


def test_advance_frees_and_the_rest_stays(fake: FakeRing) -> None:
    for number in range(5):
        fake.write(b"%d" % number)
    *_, (_, following, _, _) = fake.ring.pending(2)
    fake.ring.advance(following)
    assert fake.consumer == following == fake.ring.consumed
    assert fake.read() == [b"2", b"3", b"4"]
    assert fake.ring.used == 48


def test_a_record_that_is_still_written_stops_the_reader(fake: FakeRing) -> None:
    fake.write(b"done")
    busy = fake.write(b"half", BUSY)
    fake.write(b"later")
    assert fake.read() == [b"done"]
    *_, (_, following, _, _) = fake.ring.pending(10)
    assert following == busy
    fake.ring.advance(following)
    assert fake.read() == []
    fake.mark(busy, 4)
    assert fake.read() == [b"half", b"later"]


def test_a_discarded_record_is_passed_over(fake: FakeRing) -> None:
    fake.write(b"first")
    fake.write(b"given up", DISCARDED)
    fake.write(b"second")
    assert fake.read() == [b"first", b"second"]
    assert fake.read(2) == [b"first", b"second"], "it counts for nothing"


def test_a_ring_full_of_discarded_records_is_emptied(fake: FakeRing) -> None:
    """Nobody is told of a record, and so nobody frees one."""
    for _ in range(3):
        fake.write(b"given up", DISCARDED)
    busy = fake.write(b"x", BUSY | DISCARDED)
    assert fake.read() == []
    assert fake.ring.consumed == fake.consumer == busy, "not beyond what is still written"
    fake.mark(busy, 1, DISCARDED)
    fake.write(b"last")
    assert fake.read() == [b"last"]


def test_discarded_while_busy_still_stops(fake: FakeRing) -> None:
    fake.write(b"x", BUSY | DISCARDED)
    fake.write(b"y")
    assert fake.read() == []


def test_a_record_that_wraps_around_is_one_piece(fake: FakeRing) -> None:
    fake.start_at(PAGE - 16)
    fake.write(b"abcdefghijklmnopqrstuvwxyz")
    fake.write(b"next")
    assert fake.read() == [b"abcdefghijklmnopqrstuvwxyz", b"next"]
    (position, following, at, _), *_ = fake.ring.pending(1)
    assert (position, following, at) == (PAGE - 16, PAGE + 24, PAGE - 8)


def test_positions_go_on_beyond_32_bits(fake: FakeRing) -> None:
    start = (1 << 40) + PAGE - 8
    fake.start_at(start)
    assert fake.write(b"far") == start
    assert fake.read() == [b"far"]
    fake.ring.advance(fake.produced)
    assert fake.consumer == start + 16
    assert fake.ring.used == 0


def test_what_is_not_published_is_not_there(fake: FakeRing) -> None:
    fake.write(b"seen")
    fake.write(b"not yet", publish=False)
    assert fake.read() == [b"seen"]
    fake.publish()
    assert fake.read() == [b"seen", b"not yet"]


def test_what_comes_while_reading_is_left_for_the_next_time(fake: FakeRing) -> None:
    """The end is read once: a producer that never rests does not hold the reader."""
    fake.write(b"a")
    reading = fake.ring.pending(10)
    next(reading)
    fake.write(b"b")
    assert list(reading) == []


steps = st.lists(
    st.tuples(st.binary(max_size=200), st.sampled_from(["plain", "discarded"]), st.booleans()), max_size=80
)


@given(steps=steps, start=st.integers(0, 3 * PAGE // 8).map(lambda words: words * 8))
@settings(max_examples=60)
def test_everything_written_is_read_once_in_order(steps: list[tuple[bytes, str, bool]], start: int) -> None:
    fake = FakeRing()
    try:
        fake.start_at(start)
        written, read = [], []

        def drain() -> None:
            following = 0
            for _, following, at, length in fake.ring.pending(7):  # noqa: B007 - the last one is used
                read.append(bytes(fake.ring.data[at : at + length]))
            if following:
                fake.ring.advance(following)

        for data, kind, pause in steps:
            while fake.size - fake.ring.used < len(data) + 16:
                before = fake.ring.used
                drain()
                assert fake.ring.used < before
            fake.write(data, DISCARDED if kind == "discarded" else 0)
            if kind == "plain":
                written.append(data)
            if pause:
                drain()
        for _ in range(len(steps)):
            drain()
        assert read == written
    finally:
        fake.close()


def test_elsewhere_than_on_x86_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    descriptor = os.memfd_create("ring")
    try:
        with pytest.raises(HostError, match="x86-64"):
            Ring(descriptor, PAGE)
    finally:
        os.close(descriptor)


def test_closing_gives_everything_back() -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum("memfd:ring" in line for line in maps)

    before: Any = descriptors(), mapped()
    fake = FakeRing()
    fake.write(b"x")
    fake.read()
    fake.close()
    assert (descriptors(), mapped()) == before


WATCH = """
import ctypes, mmap, sys
page = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
position = ctypes.c_uint64.from_buffer(page)
print("watching", flush=True)
low, high = 0x0101010101010101, 0x1010101010101010
torn = changes = 0
before = low
while changes < 500:
    value = position.value
    torn += value != low and value != high
    changes += value != before
    before = value
print(torn, flush=True)
"""


def torn(advance: Callable[[Ring, int], None]) -> int:
    """How often another process saw a position that was never set, while two were set in turn."""
    fake = FakeRing()
    fake.ring.advance(0x0101010101010101)
    descriptor = fake.ring.descriptor
    command = [sys.executable, "-I", "-S", "-c", WATCH, str(descriptor)]
    with subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE, bufsize=0) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == b"watching\n"
        while not select.select([watcher.stdout], [], [], 0)[0]:
            for _ in range(5_000):
                advance(fake.ring, 0x1010101010101010)
                advance(fake.ring, 0x0101010101010101)
        told = int(watcher.stdout.readline())
    fake.close()
    return told


def test_a_position_is_never_seen_half_written() -> None:
    """The kernel would take a position of zero, seen in the middle, for a full ring."""
    assert torn(Ring.advance) == 0
