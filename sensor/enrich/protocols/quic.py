"""QUIC Initial packets, versions 1 (RFC 9000) and 2 (RFC 9369): who is called, as the ClientHello inside says.

Their keys come from the connection id in the clear (RFC 9001, 5.2), so that anyone may read them. What a
client sends first is verified by its tag. A server's answer is protected with keys from the id that the
client chose, which is not in it: by its header alone it is QUIC, and not for certain.
"""

from __future__ import annotations

import re

from msgspec import Struct

from sensor.enrich.protocols import client_hello
from sensor.enrich.protocols.quic_crypto import Version, client_keys, libcrypto, open_packet
from sensor.enrich.protocols.result import Found

PACKETS_MAX = 16  # coalesced in one datagram; real ones hold two or three
_ID_MAX = 20
_CLIENTS_ID_MIN = 8  # of the server's, as the client makes it up for its first packet (RFC 9000, 7.2)
_LENGTH_MIN = 20  # a packet number and what the sample needs
_LENGTH_MAX = 65527  # of a datagram
_VERSIONS = {
    b"\x00\x00\x00\x01": Version("1", bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), "quic", 0),
    b"\x6b\x33\x43\xcf": Version("2", bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), "quicv2", 1),
}
_UNVERIFIED = {name: Found("quic", "", "initial", name, certain=False) for name in ("1", "2")}
_PADDING = re.compile(rb"[\x00\x01]*")  # and PING: frames of one byte, thousands of them
_ZEROS = bytes(1500)  # what follows the last frame, mostly
_CRYPTO = 6


class Header(Struct, gc=False):
    """Of an Initial packet. Offsets are from the datagram's start; `end` may be beyond it."""

    version: Version
    connection: bytes
    token: int
    number_at: int
    end: int


def dissect(data: bytes, udp: bool) -> Found | None:
    if not udp or len(data) < 7 or data[0] < 0xC0:
        return None
    version = _VERSIONS.get(data[1:5])
    if version is None:
        return None
    header = _header(data, 0, version)
    if header is None:
        return None
    # To a shorter id only a server sends without a token: that is the id which its client chose for itself.
    clients = header.token or len(header.connection) >= _CLIENTS_ID_MIN
    library = libcrypto() if clients and header.end <= len(data) else None
    if library is None:
        return _UNVERIFIED[version.name]
    keys = client_keys(version, header.connection)
    frames = open_packet(library, keys, data[: header.end], header.number_at)
    if frames is None:
        # A server never sends a token (RFC 9000, 17.2.2), so this is nobody's first packet.
        return None if header.token else _UNVERIFIED[version.name]
    pieces: list[tuple[int, bytes]] = []
    _collect(frames, pieces)
    at = header.end
    for _ in range(PACKETS_MAX - 1):
        following = _header(data, at, version)
        if following is None or following.connection != header.connection or following.end > len(data):
            break
        more = open_packet(library, keys, data[at : following.end], following.number_at - at)
        if more is None:
            break
        _collect(more, pieces)
        at = following.end
    return _found(version, _contiguous(pieces))


def _header(data: bytes, at: int, version: Version) -> Header | None:
    """RFC 9000, 17.2.2. None: not an Initial packet of this version, or its header is not all there."""
    there = len(data)
    if at + 7 > there or data[at] >> 4 != 0xC | version.initial or _VERSIONS.get(data[at + 1 : at + 5]) is not version:
        return None
    size = data[at + 5]
    source_at = at + 6 + size
    if size > _ID_MAX or source_at >= there or data[source_at] > _ID_MAX:
        return None
    token, token_at = _integer(data, source_at + 1 + data[source_at], there)
    length, number_at = _integer(data, token_at + token, there) if token >= 0 else (-1, there)
    if not _LENGTH_MIN <= length <= _LENGTH_MAX:
        return None
    return Header(version, data[at + 6 : source_at], token, number_at, number_at + length)


def _integer(data: bytes, at: int, end: int) -> tuple[int, int]:
    """(value, where it ends) of a variable-length integer (RFC 9000, 16); (-1, end) if it is not all there."""
    if at >= end:
        return -1, end
    size = 1 << (data[at] >> 6)
    if at + size > end:
        return -1, end
    return int.from_bytes(data[at : at + size]) & (1 << (8 * size - 2)) - 1, at + size


def _collect(frames: bytes, pieces: list[tuple[int, bytes]]) -> None:
    """The CRYPTO frames of a packet. Padding may stand between, other frames a client's first flight has not."""
    at, end = 0, len(frames)
    while not _ZEROS.startswith(frames[at:]):
        padding = _PADDING.match(frames, at)
        at = padding.end() if padding is not None else end
        if at >= end or frames[at] != _CRYPTO:
            return
        offset, at = _integer(frames, at + 1, end)
        size, at = _integer(frames, at, end)
        if offset < 0 or size < 0 or at + size > end:
            return
        pieces.append((offset, frames[at : at + size]))
        at += size


def _contiguous(pieces: list[tuple[int, bytes]]) -> bytes:
    """What is known from offset 0 on: browsers shuffle the pieces, and large hellos go on in a second datagram."""
    message = bytearray()
    for offset, piece in sorted(pieces):
        if offset > len(message):
            break
        message += piece[len(message) - offset :]
    return bytes(message)


def _found(version: Version, message: bytes) -> Found:
    hello = client_hello.Hello()
    if message[:1] == b"\x01":
        parsed = client_hello.parse(message, 0, len(message), "q")
        hello = hello if parsed is None else parsed.hello
    return Found(
        "quic",
        "client",
        "initial",
        version.name,
        server_name=hello.server_name,
        alpn=hello.alpn,
        ja4=hello.ja4,
    )
