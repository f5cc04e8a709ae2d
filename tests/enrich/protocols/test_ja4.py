"""JA4 with the examples of its specification (FoxIO, technical_details/JA4.md)."""

from __future__ import annotations

import struct

import pytest
from msgspec.structs import replace

from sensor.enrich.protocols.ja4 import Offer, fingerprint


def shorts(text: str) -> tuple[int, ...]:
    return tuple(int(value, 16) for value in text.split(","))


def wire(text: str) -> bytes:
    values = shorts(text)
    return struct.pack(f">{len(values)}H", *values)


# In the order of the wire, as JA4_ro shows them.
CHROME = Offer(
    "t",
    0x0304,
    wire("1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"),
    shorts("001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015"),
    wire("0403,0804,0401,0503,0805,0501,0806,0601"),
    b"h2",
)


def test_the_example() -> None:
    assert fingerprint(CHROME) == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_without_signature_algorithms_there_is_no_underscore() -> None:
    assert fingerprint(replace(CHROME, signatures=b"")) == "t13d1516h2_8daaf6152771_6d807ffa2a79"


def test_order_and_grease_do_not_matter() -> None:
    other = replace(
        CHROME,
        ciphers=b"\x0a\x0a" + CHROME.ciphers[16:] + CHROME.ciphers[:16] + b"\xfa\xfa",
        extensions=(0xDADA, *reversed(CHROME.extensions), 0x1A1A),
        signatures=b"\x2a\x2a" + CHROME.signatures,
    )
    assert fingerprint(other) == fingerprint(CHROME)


def test_the_order_of_signature_algorithms_does() -> None:
    assert fingerprint(replace(CHROME, signatures=CHROME.signatures[::-1])) != fingerprint(CHROME)


def test_a_name_and_alpn_change_the_first_part_only() -> None:
    bare = tuple(kind for kind in CHROME.extensions if kind not in (0, 0x10))
    assert fingerprint(replace(CHROME, extensions=bare, alpn=b"")) == "t13i151400_8daaf6152771_e5627efa2ab1"


def test_of_nothing_the_hashes_are_zeros() -> None:
    assert fingerprint(Offer("t", 0x0303, b"", (), b"", b"")) == "t12i000000_000000000000_000000000000"
    assert fingerprint(Offer("t", 0x0303, b"", (0, 0x10), b"\x04\x03", b"")).endswith("_000000000000_000000000000")


@pytest.mark.parametrize(
    ("alpn", "ends"),
    [
        (b"", "00"),
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"\x30\xab", "3b"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
    ],
)
def test_ends_of_the_first_alpn(alpn: bytes, ends: str) -> None:
    assert fingerprint(replace(CHROME, alpn=alpn))[8:10] == ends


@pytest.mark.parametrize(
    ("version", "said"),
    [
        *[(0x0304, "13"), (0x0303, "12"), (0x0302, "11"), (0x0301, "10"), (0x0300, "s3"), (0x0002, "s2")],
        *[(0xFEFF, "d1"), (0xFEFD, "d2"), (0xFEFC, "d3"), (0x7F1C, "00"), (0, "00")],
    ],
)
def test_versions(version: int, said: str) -> None:
    assert fingerprint(replace(CHROME, version=version))[1:3] == said
    assert fingerprint(replace(CHROME, transport="q", version=version))[:3] == "q" + said


def test_counts_end_at_99() -> None:
    many = replace(CHROME, ciphers=wire("1301") * 150, extensions=tuple(range(0x5000, 0x5000 + 150)))
    assert fingerprint(many).startswith("t13i9999h2_")
