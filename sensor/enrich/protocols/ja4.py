"""JA4, the TLS client fingerprint, as FoxIO's technical_details/JA4.md defines it.

Of the JA4+ family this one alone: it is BSD-licensed, the others (JA4S, JA4H, …) are not.
"""

from __future__ import annotations

import hashlib

from msgspec import Struct

NONE = "0" * 12
SERVER_NAME = 0x0000
ALPN = 0x0010
GREASE = frozenset(high << 12 | 0x0A00 | high << 4 | 0x0A for high in range(16))  # RFC 8701
_GREASE_HEX = frozenset(f"{value:04x}" for value in GREASE)
_VERSIONS = {
    0x0304: "13",
    0x0303: "12",
    0x0302: "11",
    0x0301: "10",
    0x0300: "s3",
    0x0002: "s2",
    0xFEFF: "d1",
    0xFEFD: "d2",
    0xFEFC: "d3",
}


class Offer(Struct, frozen=True, gc=False):
    """What a fingerprint is made of.

    transport: t TCP, q QUIC. version: the highest offered. ciphers, signatures: lists of two-byte values as
    on the wire, of even length. extensions: types in any order. alpn: the first value, b"" for none.
    """

    transport: str
    version: int
    ciphers: bytes
    extensions: tuple[int, ...]
    signatures: bytes
    alpn: bytes


def fingerprint(offer: Offer) -> str:
    """`t13d1516h2_8daaf6152771_e5627efa2ab1`."""
    suites = _sorted_hex(offer.ciphers)
    kinds = [kind for kind in offer.extensions if kind not in GREASE]
    hashed = ",".join(sorted(f"{kind:04x}" for kind in kinds if kind not in (SERVER_NAME, ALPN)))
    algorithms = ",".join(value for value in _hex(offer.signatures) if value not in _GREASE_HEX)
    if hashed and algorithms:
        hashed += "_" + algorithms
    head = (
        f"{offer.transport}{_VERSIONS.get(offer.version, '00')}{'d' if SERVER_NAME in kinds else 'i'}"
        f"{min(len(suites), 99):02d}{min(len(kinds), 99):02d}{_ends(offer.alpn)}"
    )
    return f"{head}_{_short_hash(','.join(suites))}_{_short_hash(hashed)}"


def _hex(values: bytes) -> list[str]:
    return values.hex(",", 2).split(",") if values else []


def _sorted_hex(values: bytes) -> list[str]:
    return sorted(value for value in _hex(values) if value not in _GREASE_HEX)


def _short_hash(joined: str) -> str:
    """Of nothing it is zeros, not the hash of nothing: the specification wants to show that it is nothing."""
    return hashlib.sha256(joined.encode()).hexdigest()[:12] if joined else NONE


def _ends(alpn: bytes) -> str:
    """First and last character; of the hexadecimal form when either is not an ASCII letter or digit."""
    if not alpn:
        return "00"
    first, last = alpn[:1], alpn[-1:]
    if first.isalnum() and last.isalnum():  # of bytes: ASCII only
        return (first + last).decode()
    return first.hex()[0] + last.hex()[1]
