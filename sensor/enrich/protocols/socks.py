"""SOCKS4, 4a and 5 (RFC 1928), both sides. Passwords of RFC 1929 are stepped over.

SOCKS has no magic: a greeting is three bytes that much else may begin with. What says so little is
not certain; a request with its address is.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop

from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.result import TEXT_MAX, Found

METHODS_MAX = 10
_COMMANDS = {1: "CONNECT", 2: "BIND", 3: "ASSOCIATE"}
_IPV4, _NAME, _IPV6 = 1, 3, 4
_PASSWORD = 2
# IANA's SOCKS methods, and some of those for private use, of which no client offers many.
_METHODS = frozenset([*range(10), *range(0x80, 0x90)]) - {4}
_NAME_BYTES = frozenset(range(0x21, 0x7F))


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp or len(data) < 2:
        return None
    first = data[0]
    if first == 5:
        return _five(data)
    if first == 4:
        return _four(data) if data[1] in (1, 2) and len(data) >= 9 else None
    if first == 0 and 0x5A <= data[1] <= 0x5D and len(data) == 8:
        return Found("socks", "server", "response", "4", certain=False)
    return None


def _five(data: bytes) -> Found | None:
    if len(data) == 2:
        # A server's choice of method; or a greeting that is cut before its methods.
        if data[1] in (0, 0xFF):
            return Found("socks", "server", "response", "5", certain=False)
        return Found("socks", "", "greeting", "5", certain=False) if data[1] in (1, 2, 3) else None
    if data[2] == 5 and (data[1] in (0, _PASSWORD)) and len(data) > 3:
        reply = _server(data, 2)
        if reply is not None:
            return reply
    if data[1] == _PASSWORD and len(data) == 4 and data[2:] == b"\1\0":  # chosen, then let in
        return Found("socks", "server", "response", "5", certain=False)
    count = data[1]
    methods = data[2 : 2 + count]
    if 1 <= count <= METHODS_MAX and _METHODS.issuperset(methods) and len(set(methods)) == len(methods):
        greeting = _greeting(data, count, methods)
        if greeting is not None:
            return greeting
    return _request(data, 0, True)


def _greeting(data: bytes, count: int, methods: bytes) -> Found | None:
    """None if what follows the greeting is not of SOCKS."""
    at = 2 + count
    if len(data) <= at:
        return Found("socks", "client", "greeting", "5", certain=len(data) == at)
    if _PASSWORD in methods and data[at] == 1:
        user = data[at + 1] if len(data) > at + 1 else 0
        if not user and len(data) > at + 1:
            return None
        at += 2 + user
        at += 1 + (data[at] if len(data) > at else 0)
        if len(data) <= at:
            return Found("socks", "client", "greeting", "5", certain=False)
    return _request(data, at, False)


def _request(data: bytes, at: int, alone: bool) -> Found | None:
    """A SOCKS5 request. `alone`: without a greeting before it, so that its bytes alone must convince."""
    head = data[at : at + 4]
    if head[0] != 5 or (len(head) > 1 and head[1] not in _COMMANDS) or (len(head) > 2 and head[2]):
        return None
    if len(head) < 4:
        return Found("socks", "client", "request", "5", certain=False)
    method = _COMMANDS[head[1]]
    size = _address_size(data, at + 3)
    if size < 0:
        return None
    if len(data) < at + 3 + size:
        part = data[at + 5 :] if head[3] == _NAME else b""
        return Found("socks", "client", "request", "5", method=method, certain=False) if _named(part) else None
    target = _target(data, at + 3, size)
    if not target or (alone and len(data) > at + 3 + size):
        return None
    return Found("socks", "client", "request", "5", method=method, target=target)


def _server(data: bytes, at: int) -> Found | None:
    """The reply to a request, after the choice of a method."""
    if data[at + 1] > 8 or data[at + 2 : at + 3] not in (b"", b"\0"):
        return None
    if len(data) > at + 3 and _address_size(data, at + 3) < 0:
        return None
    return Found("socks", "server", "response", "5", certain=len(data) >= at + 10)


def _address_size(data: bytes, at: int) -> int:
    """Bytes of type, address and port; -1 if it is none."""
    kind = data[at]
    if kind == _IPV4:
        return 7
    if kind == _IPV6:
        return 19
    if kind != _NAME:
        return -1
    if len(data) == at + 1:
        return 5
    return 4 + data[at + 1] if data[at + 1] else -1


def _target(data: bytes, at: int, size: int) -> str:
    kind = data[at]
    port = int.from_bytes(data[at + size - 2 : at + size], "big")
    if kind == _IPV4:
        return f"{inet_ntop(AF_INET, data[at + 1 : at + 5])}:{port}"
    if kind == _IPV6:
        return f"[{inet_ntop(AF_INET6, data[at + 1 : at + 17])}]:{port}"
    name = data[at + 2 : at + size - 2]
    return _with_port(name, port) if _named(name) else ""


def _named(name: bytes) -> bool:
    return _NAME_BYTES.issuperset(name)


def _with_port(name: bytes, port: int) -> str:
    return f"{text(name)[: TEXT_MAX - 6]}:{port}"


def _four(data: bytes) -> Found | None:
    """`04 command port address user 00 [name 00]`; an address 0.0.0.x says that a name follows (4a)."""
    port = int.from_bytes(data[2:4], "big")
    address = data[4:8]
    end = data.find(b"\0", 8)
    user = data[8:] if end < 0 else data[8:end]
    if not port or not any(address) or not _named(user) or len(user) > TEXT_MAX:
        return None
    method = _COMMANDS[data[1]]
    if end < 0:
        return Found("socks", "client", "request", "4", method=method, certain=False)
    if any(address[:3]):
        target = f"{inet_ntop(AF_INET, address)}:{port}"
        return Found("socks", "client", "request", "4", method=method, target=target, certain=len(data) == end + 1)
    stop = data.find(b"\0", end + 1)
    name = data[end + 1 :] if stop < 0 else data[end + 1 : stop]
    if not _named(name) or (stop >= 0 and not name):
        return None
    if stop < 0:
        return Found("socks", "client", "request", "4a", method=method, certain=False)
    return Found("socks", "client", "request", "4a", method=method, target=_with_port(name, port))
