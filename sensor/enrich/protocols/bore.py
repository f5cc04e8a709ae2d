"""bore: serde's enum variants as JSON, each ended by NUL, at most 256 bytes (src/shared.rs)."""

from __future__ import annotations

from sensor.enrich.protocols.result import Found

FRAME_MAX = 256
_HEX = frozenset(b"0123456789abcdef-")
_HELLO = b'{"Hello":'
_UUID = 36
# Hello is said by both sides, with the port asked for or given.
_WITH_UUID = ((b'{"Challenge":"', "server"), (b'{"Connection":"', "server"), (b'{"Accept":"', "client"))
_AUTHENTICATE = b'{"Authenticate":"'


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp or data[:2] != b'{"':
        return None
    nul = data.find(b"\0", 0, FRAME_MAX + 1)
    frame = data[:FRAME_MAX] if nul < 0 else data[:nul]
    if frame.startswith(_HELLO):
        return _said("", "Hello", _port(frame[len(_HELLO) :]), nul)
    if frame.startswith(_AUTHENTICATE):
        secret = frame[len(_AUTHENTICATE) :]
        return _said("client", "Authenticate", _closed(secret.rstrip(b'"}'), secret, b'"}'), nul)
    for start, role in _WITH_UUID:
        if frame.startswith(start):
            rest = frame[len(start) :]
            if len(rest) > _UUID + 2:
                return None
            return _said(role, start[2:-3].decode(), _closed(rest[:_UUID], rest, b'"}'), nul)
    return None


def _said(role: str, method: str, form: bool | None, nul: int) -> Found | None:
    """`form`: whole, cut (None) or not bore's (False)."""
    if form is False or (form is None and nul >= 0):
        return None
    return Found("bore", role, "greeting", method=method, certain=form is True and nul >= 0)


def _port(rest: bytes) -> bool | None:
    digits = rest.removesuffix(b"}")
    if not digits:
        return None if not rest else False
    if not digits.isdigit() or len(digits) > 5:
        return False
    return True if rest.endswith(b"}") else None


def _closed(content: bytes, rest: bytes, end: bytes) -> bool | None:
    """Hexadecimal digits, perhaps with hyphens, then `end`."""
    if not _HEX.issuperset(content):
        return False
    after = rest[len(content) :]
    if after == end:
        return bool(content)
    return None if end.startswith(after) else False
