from __future__ import annotations

from random import Random

import pytest
from hypothesis import given

from sensor.enrich.protocols.wireguard import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound

_random = Random(3)  # noqa: S311
KEYS = [_random.randbytes(4096) for _ in range(4)]
INITIATION = b"\1\0\0\0" + KEYS[0][:128] + bytes(16)  # without load, the second MAC is zero
RESPONSE = b"\2\0\0\0" + KEYS[1][:72] + bytes(16)
COOKIE = b"\3\0\0\0" + KEYS[2][:60]
KEEPALIVE = b"\4\0\0\0" + KEYS[3][:4] + bytes(8) + KEYS[3][4:20]
DATA = b"\4\0\0\0" + KEYS[3][:4] + b"\x05" + bytes(7) + KEYS[3][4 : 4 + 1408]
SAMPLES = (INITIATION, RESPONSE, COOKIE, KEEPALIVE, DATA)


@pytest.mark.parametrize(
    ("data", "role", "kind", "certain"),
    [
        (INITIATION, "client", "handshake", True),
        (RESPONSE, "server", "response", True),
        (COOKIE, "", "cookie", False),
        (KEEPALIVE, "", "keepalive", False),
        (DATA, "", "data", False),
        (DATA[:1024], "", "data", False),  # as captured
    ],
)
def test_messages(data: bytes, role: str, kind: str, certain: bool) -> None:
    found = dissect(data, True)
    assert found is not None
    assert (found.protocol, found.role, found.kind, found.certain) == ("wireguard", role, kind, certain)


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    at_every_length(dissect, sample, True, "wireguard")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        INITIATION[:-1],
        INITIATION + b"x",
        RESPONSE + b"x",
        b"\1\0\0\0" + bytes(144),
        b"\1\0\0\0" + b"padding " * 18,
        b"\2\0\0\0" + bytes(88),
        b"\3\0\0\0" + bytes(60),
        b"\4\0\0\0" + bytes(28),
        KEEPALIVE + b"x" * 15,
        b"\4\0\0\0" + KEYS[0][:28],  # a counter of 2^63: no first message has it
        b"\4\0\0\1" + KEEPALIVE[4:],
        b"\5\0\0\0" + KEEPALIVE[4:],
        b"\4\0\0\0",
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, True) is None


def test_over_udp_only() -> None:
    assert dissect(INITIATION, False) is None


def test_random_keys_pass() -> None:
    random = Random(4)  # noqa: S311
    for _ in range(2000):
        assert dissect(b"\1\0\0\0" + random.randbytes(144), True) is not None


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, True), "wireguard")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, True), "wireguard")
