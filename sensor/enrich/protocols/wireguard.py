"""WireGuard's four messages: a type, three zero bytes, and lengths that never vary."""

from __future__ import annotations

from sensor.enrich.protocols.result import Found

_DATA = b"\4\0\0\0"
_KEEPALIVE = 32
# Distinct bytes of a random key or tag: of 32 fewer than 22 are distinct once in 14 million times, of 16
# fewer than 11 once in 1.7 million. Padding, most text and counters stay below.
_KEY_DISTINCT = 22
_TAG_DISTINCT = 11
_FIXED = {
    (1, 148): ("client", "handshake", True),
    (2, 92): ("server", "response", True),
    (3, 64): ("", "cookie", False),  # length and type alone
}


def dissect(data: bytes, udp: bool) -> Found | None:
    size = len(data)
    if not udp or size < _KEEPALIVE or data[1:4] != b"\0\0\0":
        return None
    fixed = _FIXED.get((data[0], size))
    if fixed is not None:
        # The ephemeral key, or the cookie's nonce, which begins at the same place after one index.
        start = 12 if data[0] == 2 else 8
        if not _random(data[start : start + 32], _KEY_DISTINCT):
            return None
        role, kind, certain = fixed
        return Found("wireguard", role, kind, certain=certain)
    # The counter of a first message is small: its upper half is zero for 2^32 messages.
    if not data.startswith(_DATA) or size % 16 or data[12:16] != bytes(4) or not _random(data[-16:], _TAG_DISTINCT):
        return None
    return Found("wireguard", "", "keepalive" if size == _KEEPALIVE else "data", certain=False)


def _random(raw: bytes, distinct: int) -> bool:
    return len(set(raw)) >= distinct
