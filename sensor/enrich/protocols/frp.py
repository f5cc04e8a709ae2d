"""frp: a TLS hello behind the byte 0x17, or messages of a type byte, an int64 length and JSON.

With `tcp_mux`, frpc's default, yamux comes first, and with TLS, its default since 0.50, plain TLS.
"""

from __future__ import annotations

from sensor.enrich.protocols.jsonscan import said, scan
from sensor.enrich.protocols.result import Found

LENGTH_MAX = 10240  # of golib's control messages
_HEAD = 9
_TLS = b"\x17\x16\x03"  # FRPTLSHeadByte, then a handshake record
# Type byte: role, kind, method, and members of which one is in every such message.
_MESSAGES: dict[int, tuple[str, str, str, tuple[bytes, ...]]] = {
    ord("o"): ("client", "login", "login", (b'"version"', b'"run_id"', b'"privilege_key"')),
    ord("w"): ("client", "request", "work_conn", (b'"run_id"', b'"privilege_key"')),
    ord("v"): ("client", "request", "visitor_conn", (b'"proxy_name"', b'"sign_key"')),
    ord("1"): ("server", "response", "login", (b'"version"', b'"run_id"', b'"error"')),
    ord("s"): ("server", "request", "start_work_conn", (b'"proxy_name"', b'"src_addr"', b'"dst_addr"')),
    ord("3"): ("server", "response", "visitor_conn", (b'"proxy_name"', b'"error"')),
}


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp or len(data) < 5:
        return None
    if data[0] == 0x17:
        return _hello(data)
    message = _MESSAGES.get(data[0])
    if message is None or len(data) <= _HEAD or data[1:7] != bytes(6) or data[_HEAD] != ord("{"):
        return None
    length = data[7] << 8 | data[8]
    body = data[_HEAD : _HEAD + length]
    if not 2 < length <= LENGTH_MAX or not any(member in body for member in message[3]):
        return None
    role, kind, method, _ = message
    members, _ = scan(body, 0)
    return Found("frp", role, kind, said(members.get("version")), method=method, user=said(members.get("user"), 128))


def _hello(data: bytes) -> Found | None:
    """0x17 is also TLS application data, whose version follows at once: 17 03 03."""
    if not data.startswith(_TLS) or data[3] > 4 or data[6:7] not in (b"", b"\1"):
        return None
    return Found("frp", "client", "handshake", certain=len(data) > 6)
