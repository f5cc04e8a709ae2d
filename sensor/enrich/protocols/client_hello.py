"""The ClientHello of TLS (RFC 8446, 4.1.2), which TCP carries in records and QUIC in CRYPTO frames."""

from __future__ import annotations

import struct
from array import array

from msgspec import Struct

from sensor.enrich.protocols import ja4
from sensor.enrich.protocols.memo import Memo
from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.result import TEXT_MAX

VERSIONS = {0x0300: "ssl3", 0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}
SERVER_NAME = 0x0000
SIGNATURE_ALGORITHMS = 0x000D
ALPN = 0x0010
SUPPORTED_VERSIONS = 0x002B
READ = frozenset((SERVER_NAME, SIGNATURE_ALGORITHMS, ALPN, SUPPORTED_VERSIONS))  # of others only type and size
# Few different clients live in a fleet. Longer lists than any client has are not kept.
CLIENTS = 1024
CLIENTS_BYTES = 1 << 19
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
    """`kinds` of all, whose order means nothing; the contents of those in READ; where the last ends; `whole`: none
    is missing."""

    kinds: list[int]
    contents: dict[int, bytes]
    end: int
    whole: bool


class Parsed(Struct, gc=False):
    """The hello, and where its first extension starts; 0: not reached, or there is none."""

    hello: Hello
    extensions_at: int = 0


Client = tuple[str, str, str]  # alpn, version, ja4
_Offered = tuple[str, int, bytes, bytes, bytes, bytes, bytes]
_clients: Memo[_Offered, Client] = Memo(CLIENTS, CLIENTS_BYTES)
_CUT = Parsed(Hello())
# Instead of an offset: it is not there yet, or it contradicts what is there.
NOT_YET, WRONG = 0, -1
_NOT_YET, _WRONG = (NOT_YET,) * 3, (WRONG,) * 3


def parse(data: bytes, at: int, end: int, transport: str) -> Parsed | None:
    """data[at:end] starts with a handshake header of type 1 and may be cut. None: this is no ClientHello."""
    stop = message_end(data, at, end, SHORTEST)
    end = min(end, stop)
    if stop <= 0:
        return _CUT if stop == NOT_YET else None
    ciphers_at, methods_at, extensions_at = _places(data, at + 39, end, stop)
    if ciphers_at <= 0:
        return _CUT if ciphers_at == NOT_YET else None
    ciphers = data[ciphers_at:methods_at]
    legacy = data[at + 4] << 8 | data[at + 5]
    if extensions_at - 2 == stop:  # before RFC 4366 there were none
        return Parsed(describe(legacy, ciphers, Extensions([], {}, stop, True), transport))
    if extensions_at > end:
        return _CUT
    extensions = walk(data, extensions_at, end)
    announced = extensions_at + (data[extensions_at - 2] << 8 | data[extensions_at - 1])
    if announced != stop or extensions.end != announced:
        extensions.whole = False
    return Parsed(describe(legacy, ciphers, extensions, transport), extensions_at)


def _places(data: bytes, session_at: int, end: int, stop: int) -> tuple[int, int, int]:
    """Where cipher suites, compression methods and extensions start, the first and the last behind their length;
    NOT_YET or WRONG, thrice, where that is so."""
    if session_at > end:
        return _NOT_YET
    session = data[session_at - 1]
    ciphers_at = session_at + session + 2
    if session > 32 or ciphers_at + 2 > stop:
        return _WRONG
    if ciphers_at > end:
        return _NOT_YET
    ciphers = data[ciphers_at - 2] << 8 | data[ciphers_at - 1]
    methods_at = ciphers_at + ciphers
    if not ciphers or ciphers & 1 or methods_at + 2 > stop:
        return _WRONG
    if methods_at >= end:
        return _NOT_YET
    methods = data[methods_at]
    extensions_at = methods_at + methods + 3
    return (ciphers_at, methods_at, extensions_at) if methods and extensions_at - 2 <= stop else _WRONG


def message_end(data: bytes, at: int, end: int, shortest: int) -> int:
    """Where a hello of either side ends, by its own length; NOT_YET or WRONG where that is so."""
    if at + 6 > end:
        return NOT_YET if at + 2 > end or not data[at + 1] else WRONG
    size = data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]
    return at + 4 + size if shortest <= size < 1 << 16 and data[at + 4] == 3 and data[at + 5] <= 4 else WRONG


def walk(data: bytes, at: int, end: int) -> Extensions:
    """The extensions between `at` and `end`. The content of one that READ does not name may be cut."""
    kinds: list[int] = []
    contents: dict[int, bytes] = {}
    whole = True
    last = end - 4
    while at <= last:
        kind, size = _two_shorts(data, at)
        kinds.append(kind)
        at += 4
        if kind in READ:
            if at + size > end:
                whole = False
            elif kind not in contents:  # the second of a kind is forbidden, and read by nobody
                contents[kind] = data[at : at + size]
        at += size
    return Extensions(kinds, contents, at, whole)


def describe(legacy: int, ciphers: bytes, extensions: Extensions, transport: str) -> Hello:
    contents = extensions.contents
    name = contents.get(SERVER_NAME)
    host = server_name(name) if name is not None else ""
    alpn, versions = contents.get(ALPN, b""), contents.get(SUPPORTED_VERSIONS, b"")[1:]
    if not extensions.whole:
        version = VERSIONS.get(_highest(versions), "")
        return Hello(host, text(b",".join(protocol_names(alpn))), version, "")
    # Browsers put a value of RFC 8701 in front, another one each time, and shuffle their extensions.
    if ciphers[0] & 15 == 10 and ciphers[0] == ciphers[1]:
        ciphers = ciphers[2:]
    if versions and versions[0] & 15 == 10:
        versions = versions[2:] if versions[:1] == versions[1:2] else versions
    kinds = extensions.kinds
    if kinds and kinds[0] in ja4.GREASE:
        kinds = [kind for kind in kinds if kind not in ja4.GREASE]
    kinds.sort()
    # Not a tuple of numbers: its hash has no secret, so that whoever likes makes many alike.
    packed = array("H", kinds).tobytes()
    offer = (transport, legacy, ciphers, packed, contents.get(SIGNATURE_ALGORITHMS, b""), alpn, versions)
    client = _clients.get(offer)
    if client is None:
        client = _client(*offer)
        _clients.keep(offer, client, sum(map(len, offer[2:])))
    return Hello(host, *client)


def _client(  # noqa: PLR0917 - all that a program's hellos have in common
    transport: str,
    legacy: int,
    ciphers: bytes,
    packed: bytes,
    signatures: bytes,
    protocols: bytes,
    versions: bytes,
) -> Client:
    alpn = protocol_names(protocols)
    version = _highest(versions) or legacy
    signatures = signatures[2 : len(signatures) & ~1]
    offer = ja4.Offer(transport, version, ciphers, tuple(array("H", packed)), signatures, alpn[0] if alpn else b"")
    return text(b",".join(alpn)), VERSIONS.get(version, ""), ja4.fingerprint(offer)


def server_name(content: bytes) -> str:
    """RFC 6066: a list of which only the first entry, a host name, is in use. In lower case, as DNS has it."""
    if len(content) < 5 or content[2]:
        return ""
    end = 5 + (content[3] << 8 | content[4])
    return text(content[5 : min(end, 5 + TEXT_MAX)]).lower() if end <= len(content) else ""


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


def _highest(versions: bytes) -> int:
    """Of a list without its length (RFC 8446, 4.2.1); 0 if it is empty. A GREASE value looks high and means nothing."""
    pairs = zip(versions[::2], versions[1::2], strict=False)
    return max((value for high, low in pairs if (value := high << 8 | low) not in ja4.GREASE), default=0)
