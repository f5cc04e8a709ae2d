"""The ClientHello of TLS (RFC 8446, 4.1.2), which TCP carries in records and QUIC in CRYPTO frames."""

from __future__ import annotations

import struct

from msgspec import Struct

from sensor.enrich.protocols import ja4
from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.result import TEXT_MAX

VERSIONS = {0x0300: "ssl3", 0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}
SERVER_NAME = 0x0000
SIGNATURE_ALGORITHMS = 0x000D
ALPN = 0x0010
SUPPORTED_VERSIONS = 0x002B
READ = frozenset((SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS))  # of others only type and size
SHORTEST = 41  # version, random, no session, one cipher suite, one compression method
_two_shorts = struct.Struct(">HH").unpack_from
_short = struct.Struct(">H").unpack_from


class Hello(Struct, frozen=True, gc=False):
    """What a ClientHello says. A member whose bytes were cut off is "", never a guess."""

    server_name: str = ""
    alpn: str = ""
    version: str = ""
    ja4: str = ""


class Extensions(Struct, gc=False):
    """`kinds` and `sizes` of all in wire order; the contents of those in READ; `whole`: none is missing."""

    kinds: tuple[int, ...]
    sizes: tuple[int, ...]
    contents: dict[int, bytes]
    whole: bool


class Parsed(Struct, gc=False):
    """The hello, and what its shape was: where its cipher list starts, and its extensions."""

    hello: Hello
    ciphers_at: int = 0  # of the list's length
    extensions_at: int = 0  # of their length; 0: not reached, or there are none
    extensions: Extensions | None = None


_CUT = Parsed(Hello())
# Instead of an offset: it is not there yet, or it contradicts what is there.
NOT_YET, WRONG = 0, -1


def parse(data: bytes, at: int, end: int, transport: str) -> Parsed | None:
    """data[at:end] starts with a handshake header of type 1 and may be cut. None: this is no ClientHello."""
    stop = message_end(data, at, end, SHORTEST)
    end = min(end, stop)
    ciphers_at = _ciphers_at(data, at + 39, end, stop) if stop > 0 else stop
    extensions_at = _extensions_at(data, ciphers_at, end, stop) if ciphers_at > 0 else ciphers_at
    if extensions_at <= 0:
        return _CUT if extensions_at == NOT_YET else None
    ciphers = data[ciphers_at + 2 : ciphers_at + 2 + _short(data, ciphers_at)[0]]
    legacy = data[at + 4] << 8 | data[at + 5]
    if extensions_at == stop:  # before RFC 4366 there were none
        return Parsed(describe(legacy, ciphers, Extensions((), (), {}, True), transport))
    if extensions_at + 2 > end:
        return _CUT
    extensions = walk(data, extensions_at + 2, end)
    (announced,) = _short(data, extensions_at)
    if extensions_at + 2 + announced != stop or sum(extensions.sizes) + 4 * len(extensions.sizes) != announced:
        extensions.whole = False
    return Parsed(describe(legacy, ciphers, extensions, transport), ciphers_at, extensions_at, extensions)


def message_end(data: bytes, at: int, end: int, shortest: int) -> int:
    """Where a hello of either side ends, by its own length; NOT_YET or WRONG where that is so."""
    if at + 6 > end:
        return NOT_YET if at + 2 > end or not data[at + 1] else WRONG
    size = data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]
    return at + 4 + size if shortest <= size < 1 << 16 and data[at + 4] == 3 and data[at + 5] <= 4 else WRONG


def _ciphers_at(data: bytes, session_at: int, end: int, stop: int) -> int:
    if session_at > end:
        return NOT_YET
    session = data[session_at - 1]
    at = session_at + session
    if session > 32 or at + 4 > stop:
        return WRONG
    return at if at + 2 <= end else NOT_YET


def _extensions_at(data: bytes, ciphers_at: int, end: int, stop: int) -> int:
    (ciphers,) = _short(data, ciphers_at)
    at = ciphers_at + 2 + ciphers
    if not ciphers or ciphers & 1 or at + 2 > stop:
        return WRONG
    if at >= end:
        return NOT_YET
    after = at + 1 + data[at]
    return after if data[at] and after <= stop else WRONG


def walk(data: bytes, at: int, end: int) -> Extensions:
    """The extensions between `at` and `end`. The content of one that READ does not name may be cut."""
    kinds: list[int] = []
    sizes: list[int] = []
    contents: dict[int, bytes] = {}
    whole = True
    last = end - 4
    while at <= last:
        kind, size = _two_shorts(data, at)
        kinds.append(kind)
        sizes.append(size)
        at += 4
        if kind in READ:
            if at + size > end:
                whole = False
            elif kind not in contents:  # the second of a kind is forbidden, and read by nobody
                contents[kind] = data[at : at + size]
        at += size
    return Extensions(tuple(kinds), tuple(sizes), contents, whole)


def describe(legacy: int, ciphers: bytes, extensions: Extensions, transport: str) -> Hello:
    contents = extensions.contents
    alpn = protocol_names(contents.get(ALPN, b""))
    version = _highest(contents.get(SUPPORTED_VERSIONS, b""))
    if not version and extensions.whole:
        version = legacy
    print_ = ""
    if extensions.whole:
        signatures = contents.get(SIGNATURE_ALGORITHMS, b"")[2:]
        even = len(signatures) & ~1
        print_ = ja4.fingerprint(
            ja4.Offer(transport, version, ciphers, extensions.kinds, signatures[:even], alpn[0] if alpn else b"")
        )
    names = text(b",".join(alpn))
    return Hello(server_name(contents.get(SERVER_NAME, b"")), names, VERSIONS.get(version, ""), print_)


def server_name(content: bytes) -> str:
    """RFC 6066: a list of which only the first entry, a host name, is in use. In lower case, as DNS has it."""
    if len(content) < 5 or content[2]:
        return ""
    (size,) = _short(content, 3)
    return text(content[5 : 5 + size][:TEXT_MAX]).lower() if 5 + size <= len(content) else ""


def protocol_names(content: bytes) -> list[bytes]:
    """RFC 7301: strings of one length byte each. A list that contradicts itself ends where it does so."""
    names: list[bytes] = []
    at, end = 2, len(content)
    while at < end:
        size = content[at]
        at += 1
        if not size or at + size > end:
            break
        names.append(content[at : at + size])
        at += size
    return names


def _highest(content: bytes) -> int:
    """RFC 8446, 4.2.1: one length byte, then versions; a GREASE value looks high and means nothing."""
    pairs = zip(content[1::2], content[2::2], strict=False)
    return max((value for high, low in pairs if (value := high << 8 | low) not in ja4.GREASE), default=0)
