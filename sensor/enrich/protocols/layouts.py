"""Where things are in the hellos of programs seen before.

A program's hellos to one name differ in random bytes, session and keys only. So the shape of one, written
as a `struct` format that skips those, takes all that the result depends on in one call; equal values
(every type and length is among them) mean an equal result. A walk over the extensions costs six times that.
"""

from __future__ import annotations

import struct

from msgspec import Struct

from sensor.enrich.protocols.client_hello import READ, Extensions
from sensor.enrich.protocols.ja4 import KEPT_BYTES, KEPT_EXTENSIONS
from sensor.enrich.protocols.result import Found

SHAPES = 512
RESULTS = 1024  # the key of one is up to some 2 KiB
# With padding to 512 bytes (RFC 7685) hellos of one length and one name may still have different lists of ALPN.
SAME_KEY = 4
_SESSION = 43  # offset of the session's length: record 5, handshake 4, version 2, random 32
_HINT = 12

Key = tuple[int, bytes]
Values = tuple[bytes | int, ...]
Outline = tuple[int, int, tuple[int, ...], tuple[int, ...]]  # sizes of session and ciphers, extensions' types and sizes


class Shape(Struct):
    """Results belong to their shape: read with another's, a hello could be made to look like a different one."""

    outline: Outline
    format: struct.Struct | None
    results: dict[Values, Found]


class Layouts:
    """`listed`: the hellos have a list of cipher suites, as a client's; a server's have one suite."""

    def __init__(self, listed: bool) -> None:
        self._listed = listed
        self._shapes: dict[Key, list[Shape]] = {}
        self._count = 0
        self._held = 0

    def find(self, data: bytes) -> Found | None:
        """None: not seen before."""
        for shape in self._shapes.get(self._key(data), ()):
            if shape.format is not None:
                found = shape.results.get(shape.format.unpack_from(data))
                if found is not None:
                    return found
        return None

    def learn(self, data: bytes, ciphers: int, extensions: Extensions, found: Found) -> None:
        """`data`: one record that holds all extensions. `ciphers`: bytes between session and extensions' length.

        A shape is kept from its second hello on: a program that shuffles its extensions would cost one each.
        """
        if len(extensions.kinds) > KEPT_EXTENSIONS or ciphers > KEPT_BYTES:
            return
        if self._held >= RESULTS or self._count >= SHAPES:
            self._shapes.clear()
            self._count = self._held = 0
        outline = data[_SESSION], ciphers, extensions.kinds, extensions.sizes
        shapes = self._shapes.setdefault(self._key(data), [])
        shape = next((known for known in shapes if known.outline == outline), None)
        if shape is None:
            if len(shapes) == SAME_KEY:
                del shapes[0]
            else:
                self._count += 1
            shapes.append(Shape(outline, None, {}))
            return
        if shape.format is None:
            shape.format = _format(outline)
        if shape.format.size <= len(data):
            shape.results[shape.format.unpack_from(data)] = found
            self._held += 1
        else:  # the last extension is cut: a prefix says little, and unpacking it would raise
            shape.format = None

    def _key(self, data: bytes) -> Key:
        """Its length, and what stands before the extensions, with the first: mostly the server name."""
        size = len(data)
        if size <= _SESSION:
            return 0, b""
        at = _SESSION + 1 + data[_SESSION]
        if self._listed and at + 1 < size:
            at += (data[at] << 8 | data[at + 1]) + 2
        return size, data[at : at + _HINT]


def _format(outline: Outline) -> struct.Struct:
    session, ciphers, kinds, sizes = outline
    parts = [f">11s32xB{session}x{ciphers}sH"]
    parts += [f"HH{size}{'s' if kind in READ else 'x'}" for kind, size in zip(kinds, sizes, strict=True)]
    return struct.Struct("".join(parts))
