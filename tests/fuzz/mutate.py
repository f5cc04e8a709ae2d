"""Bytes that a hostile sandbox might send: noise, and true first bytes with something wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

LONGEST = 4200
LIES = (0, 1, 0x7F, 0x80, 0xFF, 0x3FFF, 0x7FFF, 0xC000, 0xFFFF)


def noise(source: Random, _: bytes, __: bytes) -> bytes:
    return source.randbytes(source.choice((0, 1, 5, 12, 64, 170, 600, LONGEST)))


def flip(source: Random, sample: bytes, _: bytes) -> bytes:
    data = bytearray(sample)
    for _turn in range(source.randint(1, 8) if data else 0):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(data)


def cut(source: Random, sample: bytes, _: bytes) -> bytes:
    return sample[: source.randint(0, len(sample))]


def splice(source: Random, sample: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of another."""
    return sample[: source.randint(0, len(sample))] + other[source.randint(0, len(other)) :]


def lie(source: Random, sample: bytes, _: bytes) -> bytes:
    """Somewhere, perhaps where a length is, a value that lengths and counts are not meant to have."""
    data = bytearray(sample)
    for _turn in range(source.randint(1, 3)):
        size = source.choice((1, 2, 2, 4))
        at = source.randint(0, max(0, min(len(data) - size, 120)))
        data[at : at + size] = (source.choice(LIES) & (1 << 8 * size) - 1).to_bytes(size)
    return bytes(data)


def repeat(source: Random, sample: bytes, _: bytes) -> bytes:
    """A piece again and again, up to all that is captured: nested, listed, or as many records."""
    at = source.randint(0, len(sample))
    piece = sample[at : at + source.choice((1, 2, 5, 40))]
    return sample[:at] + piece * (source.randint(1, LONGEST) // max(1, len(piece))) + sample[at:]


def insert(source: Random, sample: bytes, _: bytes) -> bytes:
    at = source.randint(0, len(sample))
    return sample[:at] + source.randbytes(source.randint(1, 16)) + sample[at:]


MUTATIONS: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (noise, flip, cut, splice, lie, repeat, insert)


def mutated(source: Random, samples: list[bytes]) -> bytes:
    """At most LONGEST bytes; every third has two things wrong."""
    data = source.choice(samples)
    for _ in range(source.choice((1, 1, 2))):
        data = source.choice(MUTATIONS)(source, data, source.choice(samples))
    return data[:LONGEST]
