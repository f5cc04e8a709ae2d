from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols.openvpn import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound

SESSION, OTHER = b"\x9a\x3c\x01\xff\x72\x5b\x00\x10", b"\x11\x22\x33\x44\x55\x66\x77\x88"
REPLAY = struct.pack("!II", 1, 1_700_000_000)
CLIENT_BODY = b"\0" + bytes(4)
SERVER_BODY = b"\1" + bytes(4) + OTHER + bytes(4)
PLAIN = b"\x38" + SESSION + CLIENT_BODY
PLAIN_ANSWER = b"\x40" + SESSION + SERVER_BODY


def mac(size: int) -> bytes:
    return bytes((byte * 37 + 11) % 256 for byte in range(size))


AUTH = b"\x38" + SESSION + mac(20) + REPLAY + CLIENT_BODY
AUTH_ANSWER = b"\x40" + SESSION + mac(64) + REPLAY + SERVER_BODY
CRYPT = b"\x38" + SESSION + REPLAY + mac(32) + b"\x8a\x11\x9c\x3d\x5e"
CRYPT_V2 = b"\x50" + SESSION + struct.pack("!II", 0x0F000001, 1_700_000_000) + mac(32) + mac(5) + mac(300)
SAMPLES = (PLAIN, PLAIN_ANSWER, AUTH, AUTH_ANSWER, CRYPT, CRYPT_V2)


def over_tcp(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


@pytest.mark.parametrize(
    ("data", "role", "version", "certain"),
    [
        (PLAIN, "client", "", False),
        (PLAIN_ANSWER, "server", "", False),
        (AUTH, "client", "tls-auth", True),
        (AUTH_ANSWER, "server", "tls-auth", True),
        (CRYPT, "client", "tls-crypt", True),
        (CRYPT_V2, "client", "tls-crypt-v2", True),
    ],
)
def test_first_messages(data: bytes, role: str, version: str, certain: bool) -> None:
    found = dissect(data, True)
    assert found is not None
    assert (found.protocol, found.role, found.version, found.certain) == ("openvpn", role, version, certain)
    assert found.kind == ("handshake" if role == "client" else "response")
    assert dissect(over_tcp(data), False) == found == dissect(over_tcp(data) + b"more", False)


@pytest.mark.parametrize("size", [16, 20, 32, 64])
def test_every_mac_of_tls_auth(size: int) -> None:
    found = dissect(b"\x38" + SESSION + mac(size) + REPLAY + CLIENT_BODY, True)
    assert found is not None and found.version == "tls-auth"


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("udp", [True, False])
def test_cut_anywhere(sample: bytes, udp: bool) -> None:
    at_every_length(dissect, sample if udp else over_tcp(sample), udp, "openvpn")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\x38" + bytes(8) + CLIENT_BODY,  # no session
        PLAIN + b"x",
        b"\x38" + SESSION + b"\0\0\0\0\1",
        b"\x38" + SESSION + b"\xff\0\0\0\0",
        b"\x39" + PLAIN[1:],  # key id 1
        b"\x20" + PLAIN[1:],
        b"\x40" + SESSION + b"\0" + bytes(4),  # an answer acknowledges
        b"\x40" + SESSION + b"\xff" + bytes(60),
        b"\x38" + SESSION + mac(20) + struct.pack("!II", 2, 1_700_000_000) + CLIENT_BODY,
        b"\x38" + SESSION + mac(20) + struct.pack("!II", 1, 7) + CLIENT_BODY,
        b"\x50" + CRYPT[1:],
        b"8.8.8.8 is a resolver",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"@" + b"\0" * 30,
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, True) is None
    assert dissect(over_tcp(other), False) is None


def test_lengths_that_lie() -> None:
    assert dissect(b"\xff\xff" + PLAIN, False) is None
    assert dissect(b"\0\1" + PLAIN, False) is None


@given(ANY, st.booleans())
def test_any_bytes(data: bytes, udp: bool) -> None:
    sound(dissect(data, udp), "openvpn")


@given(mutated(SAMPLES), st.booleans())
def test_mutations(data: bytes, udp: bool) -> None:
    sound(dissect(data if udp else over_tcp(data), udp), "openvpn")
