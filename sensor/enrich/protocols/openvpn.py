"""OpenVPN's first message of each side, over UDP or over TCP with a 16-bit length before it.

opcode and key id, session id (8), then for tls-auth a MAC, a replay id and the time, then the
acknowledged ids, then the message's own id, which is zero. tls-crypt shows replay id and time before
its MAC and encrypts the rest. There is no magic: without replay id and time it stays uncertain.
"""

from __future__ import annotations

import struct

from sensor.enrich.protocols.result import Found

_CLIENT_V2, _CLIENT_V3, _SERVER_V2 = 7 << 3, 10 << 3, 8 << 3  # with key id 0
_ROLES = {
    _CLIENT_V2: ("client", "handshake"),
    _CLIENT_V3: ("client", "handshake"),
    _SERVER_V2: ("server", "response"),
}
_START = 9
_MACS = (16, 20, 32, 64)  # MD5, SHA-1 (the default), SHA-256, SHA-512
_FIRST = (1, 0x0F000001)  # the second offers early negotiation, for tls-crypt-v2
_SINCE, _UNTIL = 0x40000000, 0xF0000000  # 2004 to 2097
_REPLAY = struct.Struct("!II")
_CRYPT = 8 + 32  # replay id, time and the MAC of tls-crypt
_WRAPPED_MIN = 256  # tls-crypt-v2: the client's wrapped key follows
_ACKS_MAX = 8  # RELIABLE_ACK_SIZE


def dissect(data: bytes, udp: bool) -> Found | None:
    if not udp:
        if len(data) < 2 + _START or data[2] not in _ROLES:
            return None
        size = data[0] << 8 | data[1]
        data = data[2 : 2 + size] if len(data) >= 2 + size else b""  # cut, it shows nothing of its own
    if len(data) < _START + 5 or data[0] not in _ROLES or not any(data[1:_START]):
        return None
    role, kind = _ROLES[data[0]]
    if data[0] != _CLIENT_V3 and _body(data, _START):
        return Found("openvpn", role, kind, certain=False)
    version = _wrapped(data)
    return Found("openvpn", role, kind, version) if version else None


def _wrapped(data: bytes) -> str:
    """How the message is authenticated, by where replay id and time stand."""
    if data[0] != _CLIENT_V3:
        for mac in _MACS:
            if _replay(data, _START + mac) and _body(data, _START + mac + 8):
                return "tls-auth"
    if not _replay(data, _START):
        return ""
    rest = len(data) - _START - _CRYPT
    if data[0] == _CLIENT_V3:
        return "tls-crypt-v2" if rest > _WRAPPED_MIN else ""
    sizes = (5,) if data[0] == _CLIENT_V2 else tuple(13 + 4 * acks for acks in range(1, _ACKS_MAX + 1))
    return "tls-crypt" if rest in sizes else ""


def _replay(data: bytes, at: int) -> bool:
    if len(data) < at + 8:
        return False
    number, time = _REPLAY.unpack_from(data, at)
    return number in _FIRST and _SINCE <= time <= _UNTIL


def _body(data: bytes, at: int) -> bool:
    """Acknowledged ids, with the other's session id if there are any, and the message's id 0: to the end."""
    if len(data) < at + 5:
        return False
    acks = data[at]
    if data[0] == _SERVER_V2:
        if not 1 <= acks <= _ACKS_MAX:
            return False
        at += 4 * acks + 8
    elif acks:
        return False
    return len(data) == at + 5 and data[-4:] == bytes(4)
