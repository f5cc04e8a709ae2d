"""Stratum V2 (Noise_NX_Secp256k1+EllSwift): what its handshake lets one see, its lengths.

The miner sends an ElligatorSwift key, 64 bytes that are made to look random; the pool answers with 170:
its own key (64), an encrypted static key (64 + 16) and an encrypted certificate.
"""

from __future__ import annotations

from sensor.enrich.protocols.result import Found

CLIENT, SERVER = 64, 170
# Of 64 random bytes 56.7 are distinct on average, and fewer than 48 once in 9,000 times; of 170, 124.4,
# and fewer than 107 once in 45,000 times.
CLIENT_DISTINCT, SERVER_DISTINCT = 48, 107
# Half of random bytes have the high bit (four sigmas); text, and formats with many small numbers, few.
CLIENT_HIGH, SERVER_HIGH = (16, 48), (57, 113)
_TLS = (b"\x16\x03", b"\x17\x03")  # a record whose content is random


def dissect_pair(client: bytes, server: bytes) -> Found | None:
    """From the first message of each side. Any protocol without plain bytes may have these lengths."""
    if len(client) != CLIENT or len(server) != SERVER:
        return None
    if client.startswith(_TLS) or server.startswith(_TLS):
        return None
    if not _random(client, CLIENT_DISTINCT, CLIENT_HIGH) or not _random(server, SERVER_DISTINCT, SERVER_HIGH):
        return None
    return Found("stratum2", "client", "handshake", certain=False)


def _random(raw: bytes, distinct: int, high: tuple[int, int]) -> bool:
    return len(set(raw)) >= distinct and high[0] <= sum(byte >> 7 for byte in raw) <= high[1]
