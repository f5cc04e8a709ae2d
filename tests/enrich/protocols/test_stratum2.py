from __future__ import annotations

import base64
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols.stratum2 import (
    CLIENT,
    CLIENT_DISTINCT,
    SERVER,
    SERVER_DISTINCT,
    dissect_pair,
)
from tests.enrich.protocols.checks import sound

_random = Random(5)  # noqa: S311
KEY, ANSWER = _random.randbytes(CLIENT), _random.randbytes(SERVER)


def distinct_below(size: int, bound: int) -> float:
    """The probability that fewer than `bound` of `size` random bytes are distinct."""
    chance = [1.0] + [0.0] * size
    for _ in range(size):
        chance = [
            chance[count] * count / 256 + (chance[count - 1] * (257 - count) / 256 if count else 0)
            for count in range(size + 1)
        ]
    return sum(chance[:bound])


def test_a_handshake() -> None:
    found = dissect_pair(KEY, ANSWER)
    assert found is not None
    assert (found.protocol, found.role, found.kind, found.certain) == ("stratum2", "client", "handshake", False)


def test_what_the_bounds_miss() -> None:
    assert distinct_below(CLIENT, CLIENT_DISTINCT) < 1.2e-4
    assert distinct_below(SERVER, SERVER_DISTINCT) < 3e-5


def test_random_pairs_pass_and_text_does_not() -> None:
    """Base64 has 64 values: of its 64 characters 48 are distinct once in 500 times, yet none has the high bit."""
    random = Random(6)  # noqa: S311
    passed = sum(dissect_pair(random.randbytes(CLIENT), random.randbytes(SERVER)) is not None for _ in range(2000))
    assert passed >= 1997
    for _ in range(500):
        text = base64.b64encode(random.randbytes(200))
        assert dissect_pair(text[:CLIENT], text[:SERVER]) is None


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (b"", b""),
        (KEY[:-1], ANSWER),
        (KEY + b"x", ANSWER),
        (KEY, ANSWER[:-1]),
        (KEY, ANSWER + b"x"),
        (ANSWER, KEY),
        (b"\x16\x03\x01\x00\x3b" + KEY[5:], ANSWER),  # TLS records of these lengths
        (KEY, b"\x16\x03\x03\x00\xa5" + ANSWER[5:]),
        (b"GET /".ljust(CLIENT, b"a"), ANSWER),
        (KEY, b"HTTP/1.1 200 OK\r\n".ljust(SERVER, b"b")),
        (KEY.hex().encode()[:CLIENT], ANSWER),
        (bytes(range(64)), ANSWER),  # distinct, but counted up
        (KEY, bytes(SERVER)),
        (KEY[:32] * 2, ANSWER),
        (KEY + KEY[:85], ANSWER),  # obfs4: 32 bytes of key, 85 of padding and more
    ],
)
def test_near_misses(client: bytes, server: bytes) -> None:
    assert dissect_pair(client, server) is None


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes(client: bytes, server: bytes) -> None:
    sound(dissect_pair(client, server), "stratum2")


@given(st.binary(min_size=CLIENT, max_size=CLIENT), st.binary(min_size=SERVER, max_size=SERVER))
def test_any_bytes_of_these_lengths(client: bytes, server: bytes) -> None:
    sound(dissect_pair(client, server), "stratum2")
