"""QUIC's first packets, with the published ones, and with some that a sandbox might make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.enrich.protocols import quic, quic_crypto
from sensor.enrich.protocols.quic_crypto import client_keys
from sensor.enrich.protocols.result import Found
from tests.fuzz import build
from tests.fuzz.checks import checked
from tests.fuzz.vectors import QUIC_CLIENT_V1, QUIC_CLIENT_V2, QUIC_SERVER_V1, QUIC_SERVER_V2

WIRE_1 = b"\0\0\0\1"
WIRE_2 = b"\x6b\x33\x43\xcf"
V1, V2 = quic._VERSIONS[WIRE_1], quic._VERSIONS[WIRE_2]
CONNECTION = bytes.fromhex("8394c8f03e515708")
HELLO = build.message(
    [
        build.server_name(b"h3.example"),
        build.alpn(b"h3"),
        build.versions(0x0304),
        build.signatures(),
        (0x39, bytes(60)),
    ],
    session=0,
)

SAMPLES = (QUIC_CLIENT_V1, QUIC_CLIENT_V2, QUIC_SERVER_V1, QUIC_SERVER_V2)


@pytest.fixture
def _no_libcrypto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(quic_crypto, "NAMES", ("libcrypto-that-is-not-there.so",))
    quic_crypto.libcrypto.cache_clear()
    yield
    quic_crypto.libcrypto.cache_clear()


def dissect(data: bytes) -> Found:
    found = quic.dissect(data, True)
    assert found is not None
    return found


def padded(frames: bytes) -> bytes:
    return frames + bytes(max(0, 1162 - len(frames)))


def test_keys_are_those_of_rfc_9001_and_9369() -> None:
    """Appendices A.1 of both."""
    keys = client_keys(V1, CONNECTION)
    assert keys.key.hex() == "1f369613dd76d5467730efcbe3b1a22d"
    assert keys.iv.hex() == "fa044b2f42a3fd3b46fb255c"
    assert keys.protection.hex() == "9f50449e04a0e810283a1e9933adedd2"
    keys = client_keys(V2, CONNECTION)
    assert keys.key.hex() == "8b1a0bc121284290a29e0971b5cd045d"
    assert keys.iv.hex() == "91f73e2351d8fa91660e909f"
    assert keys.protection.hex() == "45b95e15235d6f45a6b19cbcb0294ba9"


@pytest.mark.parametrize(("data", "version"), [(QUIC_CLIENT_V1, "1"), (QUIC_CLIENT_V2, "2")])
def test_published_client_packets(data: bytes, version: str) -> None:
    found = dissect(data)
    assert found.ja4.startswith("q13d0211an_")  # ALPN "alpn"
    assert found == Found("quic", "client", "initial", version, server_name="example.com", alpn="alpn", ja4=found.ja4)


@pytest.mark.parametrize(("data", "version"), [(QUIC_SERVER_V1, "1"), (QUIC_SERVER_V2, "2")])
def test_a_servers_answer_is_likely_and_not_certain(data: bytes, version: str) -> None:
    assert dissect(data) == Found("quic", "", "initial", version, certain=False)


def test_our_packets_are_made_as_the_published_ones() -> None:
    hello = bytes.fromhex(
        "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c00000413011302010000c000000010000e"
        "00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e00050005010000000000330026"
        "0024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003020304000d0010000e04030503"
        "06030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
        "75300901100f088394c8f03e51570806048000ffff"
    )
    frames = padded(build.crypto_frame(0, hello))
    assert build.initial(frames, V1, WIRE_1) == QUIC_CLIENT_V1
    assert build.initial(frames, V2, WIRE_2) == QUIC_CLIENT_V2


@pytest.mark.parametrize("data", [QUIC_CLIENT_V1, QUIC_SERVER_V2])
def test_every_cut_is_quic_or_nothing(data: bytes) -> None:
    for size in range(len(data)):
        found = quic.dissect(data[:size], True)
        assert (found is None) == (size < 18)  # the header's end, by which it is known what it is
        assert found is None or (found.protocol, found.server_name, found.certain) == ("quic", "", False)


def test_crypto_frames_out_of_order_and_overlapping() -> None:
    pieces = [build.crypto_frame(at, HELLO[at : at + 50]) for at in range(0, len(HELLO), 40)]
    frames = b"\0\1\0" + b"\0".join(reversed(pieces))
    found = dissect(build.initial(padded(frames), V1, WIRE_1))
    assert (found.server_name, found.alpn, found.certain) == ("h3.example", "h3", True)
    assert found.ja4.startswith("q13d0205h3_")


def test_a_hello_that_goes_on_in_the_next_datagram_has_no_fingerprint() -> None:
    hello = build.browser(b"big.example")
    found = dissect(build.initial(padded(build.crypto_frame(0, hello[:1000])), V1, WIRE_1))
    assert (found.server_name, found.ja4, found.certain) == ("big.example", "", True)
    found = dissect(build.initial(padded(build.crypto_frame(1000, hello[1000:])), V1, WIRE_1))
    assert (found.server_name, found.ja4, found.certain) == ("", "", True)


def test_coalesced_packets_are_read_together() -> None:
    first = build.initial(build.crypto_frame(100, HELLO[100:]) + bytes(30), V1, WIRE_1)
    second = build.initial(build.crypto_frame(0, HELLO[:100]) + bytes(900), V1, WIRE_1)
    assert dissect(first + second).server_name == "h3.example"
    assert dissect(first).server_name == ""
    assert dissect(second + b"\xc0\0\0\0\1noise that is no packet").server_name == "h3.example"


def test_a_token_and_a_short_connection_id() -> None:
    frames = padded(build.crypto_frame(0, HELLO))
    assert dissect(build.initial(frames, V1, WIRE_1, b"12345678901234567890", b"token" * 30)).alpn == "h3"
    assert dissect(build.initial(frames, V2, WIRE_2, b"12345678")).alpn == "h3"
    assert dissect(build.initial(frames, V1, WIRE_1, b"1234", b"token")).alpn == "h3"  # a server gave both


def test_an_id_that_no_client_begins_with_is_a_servers_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9000, 7.2: 8 bytes at least. Nothing is decrypted for it."""
    packet = build.initial(padded(build.crypto_frame(0, HELLO)), V1, WIRE_1, b"1234567")
    monkeypatch.setattr(quic, "client_keys", None)
    assert dissect(packet) == Found("quic", "", "initial", "1", certain=False)


@pytest.mark.parametrize("at", [0, 6, 18, 30, 600, 1199])
def test_a_wrong_tag_is_not_certain(at: int) -> None:
    """One bit: then anything may have made it, a server or noise."""
    data = bytearray(QUIC_CLIENT_V1)
    data[at] ^= 1
    assert dissect(bytes(data)) == Found("quic", "", "initial", "1", certain=False)


def test_noise_with_a_token_is_nobodys() -> None:
    data = bytearray(build.initial(padded(b""), V1, WIRE_1, token=b"abc"))
    assert dissect(bytes(data)).certain
    data[-1] ^= 1
    assert quic.dissect(bytes(data), True) is None


@pytest.mark.parametrize(
    "frames", [b"", b"\x02\0\0\0\0", b"\x06", b"\x06\xff", b"\x06\0\x7f\xff" + bytes(20), b"\x1c\0"]
)
def test_a_packet_without_a_hello_is_quic_all_the_same(frames: bytes) -> None:
    assert dissect(build.initial(padded(frames), V1, WIRE_1)) == Found("quic", "client", "initial", "1")


@pytest.mark.usefixtures("_no_libcrypto")
def test_without_libcrypto_it_is_quic_without_a_name() -> None:
    assert dissect(QUIC_CLIENT_V1) == Found("quic", "", "initial", "1", certain=False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0\0\0\0\1",
        b"\x40" + QUIC_CLIENT_V1[1:],  # a short header
        b"\xe0" + QUIC_CLIENT_V1[1:],  # Handshake of version 1
        b"\xc7" + QUIC_CLIENT_V2[1:],  # Retry of version 2
        b"\xc0\0\0\0\0" + QUIC_CLIENT_V1[5:],  # version negotiation
        b"\xc0\xff\0\0\x1d" + QUIC_CLIENT_V1[5:],  # a draft, whose keys are other ones
        b"\xc0\0\0\0\1\x15" + bytes(1300),  # ids longer than 20
        b"\xc0\0\0\0\1\0\x15" + bytes(1300),
        b"\xc0\0\0\0\1\0\0\0\x13" + bytes(1300),  # shorter than what protects it
        b"\xc0\0\0\0\1\0\0\0\xbf\xff\xff\xff" + bytes(1300),
        b"\xc0\0\0\0\1\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x44\x9e" + bytes(1300),  # a token of 2^62 bytes
    ],
)
def test_what_only_looks_like_it(data: bytes) -> None:
    assert quic.dissect(data, True) is None


def test_not_over_tcp() -> None:
    assert quic.dissect(QUIC_CLIENT_V1, False) is None


def test_a_thousand_tiny_frames() -> None:
    pieces = b"".join(build.crypto_frame(at, HELLO[at : at + 1]) for at in range(len(HELLO)))
    assert dissect(build.initial(padded(pieces), V1, WIRE_1)).alpn == "h3"
    pings = b"\1\0" * 1800 + build.crypto_frame(0, HELLO)
    assert dissect(build.initial(pings, V1, WIRE_1)).alpn == "h3"


@given(st.binary(max_size=4200), st.sampled_from([b"", b"\xc0\0\0\0\1", b"\xd0\x6b\x33\x43\xcf\x08"]))
def test_noise(noise: bytes, start: bytes) -> None:
    found = checked(quic.dissect(start + noise, True))
    assert found is None or not found.certain


@settings(max_examples=30)
@given(st.binary(max_size=300))
def test_noise_behind_the_protection(frames: bytes) -> None:
    """A sandbox can encrypt what it likes; a hello that is none says nothing."""
    checked(quic.dissect(build.initial(frames + bytes(20), V1, WIRE_1), True))
    hello = build.crypto_frame(0, b"\x01\0" + frames)
    checked(quic.dissect(build.initial(hello + bytes(20), V2, WIRE_2), True))
