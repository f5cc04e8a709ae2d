"""TLS over TCP (RFC 8446, RFC 5246): hellos, and other records where a flow was joined late.

frp's byte 0x17 before a ClientHello is not this module's: the record type would be application data, but
the next byte, 0x16, is no version.
"""

from __future__ import annotations

import struct

from sensor.enrich.protocols import client_hello, tor
from sensor.enrich.protocols.client_hello import VERSIONS, protocol_names
from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.repeats import Repeats, Rest, rest_of
from sensor.enrich.protocols.result import Found

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 0x14, 0x15, 0x16, 0x17
RECORD_MAX = (1 << 14) + 2048  # RFC 5246, 6.2.3; TLS 1.3 allows 256 above 2^14
CLIENT_HELLO, SERVER_HELLO = 1, 2
SHORTEST_SERVER = 38  # version, random, no session, cipher suite, compression method
# HelloRequest, NewSessionTicket, EncryptedExtensions, Certificate…Finished, CertificateStatus, KeyUpdate.
_OTHER_MESSAGES = frozenset((0, 4, 5, 8, 11, 12, 13, 14, 15, 16, 20, 22, 24))
_RECORD = Found("tls", "", "record")
_ALERT = Found("tls", "", "alert")
_SERVER_CUT = Found("tls", "server", "server_hello")
_header = struct.Struct(">BBBH").unpack_from
_short = struct.Struct(">H").unpack_from
_clients = Repeats()
_servers = Repeats()


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp or len(data) < 5 or data[1] != 3:
        return None
    if data[0] != HANDSHAKE or len(data) == 5:
        return _other(data)
    listed = data[5] == CLIENT_HELLO
    rest = rest_of(data, listed)
    return (_clients if listed else _servers).known.get(rest) or _handshake(data, rest)


def _other(data: bytes) -> Found | None:
    kind, _, minor, size = _header(data)
    if not CHANGE_CIPHER_SPEC <= kind <= APPLICATION_DATA or minor > 4 or not 0 < size <= RECORD_MAX:
        return None
    if kind == ALERT:
        # In the clear two bytes, of which the first is 1 or 2; encrypted at least a MAC or a tag longer.
        clear = size == 2 and (len(data) < 6 or data[5] in (1, 2))
        return _ALERT if clear or size >= 16 else None
    if kind == CHANGE_CIPHER_SPEC and (size != 1 or data[5:6] not in (b"", b"\1")):
        return None
    return _RECORD


def _handshake(data: bytes, rest: Rest | None) -> Found | None:
    _, _, minor, size = _header(data)
    if minor > 4 or not 0 < size <= RECORD_MAX:
        return None
    if data[5] == CLIENT_HELLO:
        return _client(data, size, rest)
    if data[5] == SERVER_HELLO:
        return _server(data, size, rest)
    return _RECORD if data[5] in _OTHER_MESSAGES and not any(data[6:7]) else None


def _client(data: bytes, size: int, rest: Rest | None) -> Found | None:
    joined, at, end = _join(data, size)
    parsed = client_hello.parse(joined, at, end, "t")
    if parsed is None:
        return None
    hello = parsed.hello
    found = Found("tls", "client", "client_hello", hello.version, "", hello.server_name, hello.alpn, hello.ja4)
    if not hello.alpn:
        found = tor.refine(found)
    if hello.ja4 and joined is data and rest is not None and parsed.extensions_at:
        _clients.learn(data, rest, parsed.extensions_at, found)
    return found


def _join(data: bytes, size: int) -> tuple[bytes, int, int]:
    """(bytes, start, end) of the first handshake message, put together when several records share it."""
    there = len(data)
    end = 5 + size
    if end >= there:
        return data, 5, there
    if size >= 4 and 4 + (data[6] << 16 | data[7] << 8 | data[8]) <= size:
        return data, 5, end
    parts = [data[5:end]]
    at = end
    while at + 5 <= there:
        kind, major, _, size = _header(data, at)
        if kind != HANDSHAKE or major != 3 or not 0 < size <= RECORD_MAX:
            break
        parts.append(data[at + 5 : at + 5 + size])
        at += 5 + size
    whole = b"".join(parts)
    return whole, 0, len(whole)


def _server(data: bytes, size: int, rest: Rest | None) -> Found | None:
    """A ServerHello, perhaps cut. It names the version in an extension since 1.3."""
    joined, at, end = _join(data, size)
    stop = client_hello.message_end(joined, at, end, SHORTEST_SERVER)
    if stop <= 0 or at + 39 > end:
        return None if stop == client_hello.WRONG else _SERVER_CUT
    session = joined[at + 38]
    extensions_at = at + 42 + session  # a cipher suite and a compression method stand between
    if session > 32 or extensions_at > stop:
        return None
    legacy = joined[at + 4] << 8 | joined[at + 5]
    if extensions_at == stop:
        return Found("tls", "server", "server_hello", VERSIONS.get(legacy, ""))
    extensions = client_hello.walk(joined, extensions_at + 2, min(end, stop))
    extensions.whole = extensions.whole and stop <= end
    found = _with_extensions(legacy, extensions)
    if joined is data and rest is not None:
        _servers.learn(data, rest, extensions_at + 2, found)
    return found


def _with_extensions(legacy: int, extensions: client_hello.Extensions) -> Found:
    contents = extensions.contents
    chosen = contents.get(client_hello.SUPPORTED_VERSIONS)
    if chosen is not None and len(chosen) == 2:
        (version,) = _short(chosen)
    else:
        version = legacy if extensions.whole else 0
    alpn = contents.get(client_hello.ALPN)
    names = text(b",".join(protocol_names(alpn))) if alpn else ""
    return Found("tls", "server", "server_hello", VERSIONS.get(version, ""), alpn=names)
