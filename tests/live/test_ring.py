"""The reader against the kernel's own ring: what the kernel lays out, wraps, discards and frees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sensor.bpf import libbpf
from sensor.bpf.ring import PAGE
from tests.live.bpfwriter import CONSUMER, DISCARD, PRODUCER, KernelRing

SIZE = 4 * PAGE


@pytest.fixture
def kernel() -> Iterator[KernelRing]:
    made = KernelRing(SIZE)
    yield made
    made.close()


def number(record: bytes) -> int:
    return int.from_bytes(record[:8], "little")


def test_the_kernel_tells_the_size(kernel: KernelRing) -> None:
    assert libbpf.map_entries(kernel.ring.descriptor) == SIZE


def test_records_come_as_they_were_written(kernel: KernelRing) -> None:
    for value, size in ((1, 8), (2, 100), (3, 13), (4, 2000)):
        assert kernel.write(value, size)
    records, following = kernel.read()
    assert [(number(record), len(record)) for record in records] == [(1, 8), (2, 100), (3, 13), (4, 2000)]
    assert following == kernel.ring.produced == kernel.ring.used


def test_discarded_records_are_passed_over(kernel: KernelRing) -> None:
    kernel.write(1)
    kernel.write(2, 40, end=DISCARD)
    kernel.write(3)
    kernel.write(4, end=DISCARD)
    records, following = kernel.read()
    assert [number(record) for record in records] == [1, 3]
    kernel.ring.advance(following)
    kernel.write(5)
    assert [number(record) for record in kernel.read()[0]] == [5]


def test_advancing_is_what_makes_room(kernel: KernelRing) -> None:
    count = kernel.fill()
    assert count == SIZE // 16 - 1  # one byte always stays free
    assert kernel.read()[0][-1][:8] == (count - 1).to_bytes(8, "little")
    assert not kernel.write(99), "reading frees nothing"
    _, following = kernel.read(1)
    kernel.ring.advance(following)
    assert kernel.write(100)
    assert not kernel.write(101), "room for one was made"
    records, following = kernel.read()
    assert [number(record) for record in records] == [*range(1, count), 100]
    kernel.ring.advance(following)
    assert kernel.ring.used == 0


def test_the_kernel_sees_the_position_that_was_set(kernel: KernelRing) -> None:
    for _ in range(3):
        kernel.write(0)
        kernel.ring.advance(kernel.read()[1])
        before = kernel.ring.consumed
        kernel.write(0, query=CONSUMER)
        kernel.write(0, query=PRODUCER)
        consumer, producer = (number(record) for record in kernel.read()[0])
        assert (consumer, producer) == (before, before + 16)


def test_records_wrap_around_in_one_piece(kernel: KernelRing) -> None:
    """Record sizes that do not divide the ring's, so that every alignment crosses its end."""
    written, read, turns = 0, [], 0
    size = 1000
    while turns < 50:
        if kernel.write(written, size):
            written += 1
            continue
        records, following = kernel.read()
        assert {len(record) for record in records} == {size}
        read += [number(record) for record in records]
        kernel.ring.advance(following)
        turns += 1
    assert read == list(range(written))
    assert kernel.ring.consumed > 40 * SIZE
    assert any(position % SIZE > SIZE - size for position in range(0, kernel.ring.consumed, 1008))
