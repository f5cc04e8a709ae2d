"""Hellos without what never repeats: random bytes, session and key shares.

A program's hellos to one name are equal in all the rest, and a server's answers to them too, so that equal rests mean
an equal result. The rest is found by looking for the key shares, not by walking over the extensions, which would cost
several times as much. The bytes `00 33` may stand elsewhere, where a sandbox likes: a rest is kept only if a walk found
that an extension starts there, and then equal bytes before it have it start there again.
"""

from __future__ import annotations

from sensor.enrich.protocols.memo import Memo, Seen
from sensor.enrich.protocols.result import Found

ENTRIES = 2048
BYTES = 1 << 20
_KEY_SHARE = b"\0\x33"
_SESSION = 43  # offset of the session's length: record 5, handshake 4, version 2, random 32
_START = 11  # bytes before the random ones: both lengths and the version are there

# Its start, its session's length, the rest up to the key shares, and after them, and whether all of the hello is there.
Rest = tuple[bytes, int, bytes, bytes | None, bool]


def rest_of(data: bytes, listed: bool) -> Rest | None:
    """Of a record that starts with a hello; None where too little is there. `listed`: it has a list of cipher suites,
    as a client's; a server's has one suite."""
    size = len(data)
    if size <= _SESSION + 34:
        return None
    session = data[_SESSION]
    start = at = _SESSION + 1 + session
    if listed:
        if start + 1 >= size:
            return None
        at += data[start] << 8 | data[start + 1]
    end = 9 + (data[6] << 16 | data[7] << 8 | data[8])
    share = data.find(_KEY_SHARE, at, end) + 4
    if share < 4:
        return data[:_START], session, data[start:end], None, end <= size
    if share > size:
        return None
    after = share + (data[share - 2] << 8 | data[share - 1])
    return data[:_START], session, data[start:share], data[after:end], end <= size


class Repeats:
    """Results by the rest. A program that shuffles its extensions, or names that never come again, would fill it: it
    keeps what comes twice."""

    def __init__(self) -> None:
        self.known: Memo[Rest | None, Found] = Memo(ENTRIES, BYTES)
        self._seen = Seen()

    def learn(self, data: bytes, rest: Rest, extensions_at: int, found: Found) -> None:
        """`data`: the first record, perhaps cut. `extensions_at`: where the first one starts."""
        _, session, head, tail, _ = rest
        within = 4 + (data[6] << 16 | data[7] << 8 | data[8]) <= data[3] << 8 | data[4]  # else it goes on in another
        if within and self._seen.again(rest):
            share = _SESSION + 1 + session + len(head) - 4
            if tail is None or _starts(data, extensions_at, share):
                self.known.keep(rest, found, len(head) + len(tail or b""))


def _starts(data: bytes, at: int, wanted: int) -> bool:
    """Whether the extension at `wanted` is one of those that start at `at` and follow each other."""
    while at < wanted:
        at += 4 + (data[at + 2] << 8 | data[at + 3])
    return at == wanted
