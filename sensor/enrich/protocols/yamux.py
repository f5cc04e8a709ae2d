"""yamux, the multiplexer below ligolo-ng, frp (tcp_mux) and much of HashiCorp's: 12-byte frame headers.

version (0), type, flags (16), stream (32), length (32). The header is mostly zeros, so one frame alone
convinces only when it opens the first stream, or pings.
"""

from __future__ import annotations

import struct

from sensor.enrich.protocols.result import Found

LENGTH_MAX = 16 * 1024 * 1024  # a window is 256 KiB unless configured
FRAMES_MAX = 8
_HEADER = struct.Struct("!BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = 0, 1, 2, 3
_SYN, _ACK, _FLAGS = 1, 2, 0xF
_STREAM_MAX = 1 << 16  # of a first frame: streams are numbered from 1 or 2 on


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp or len(data) < _HEADER.size or data[0] or data[1] > _GO_AWAY:
        return None
    _, kind, flags, stream, length = _HEADER.unpack_from(data)
    if not _sound(kind, flags, stream, length) or (kind in (_DATA, _WINDOW) and not _opens(flags, stream)):
        return None
    specific = kind == _PING or (kind == _WINDOW and flags == _SYN and stream in (1, 2))
    return Found(
        "yamux",
        _role(kind, flags, stream),
        ("data", "window", "ping", "go_away")[kind],
        certain=specific or _followed(data, kind, length),
    )


def _sound(kind: int, flags: int, stream: int, length: int) -> bool:
    if flags & ~_FLAGS:
        return False
    if kind == _PING:
        return flags in (_SYN, _ACK) and not stream  # length: any number, which the answer repeats
    if kind == _GO_AWAY:
        return not flags and not stream and length <= 2
    return stream > 0 and length <= LENGTH_MAX and not (kind == _DATA and not length and not flags)


def _opens(flags: int, stream: int) -> bool:
    return flags & (_SYN | _ACK) != 0 and stream <= _STREAM_MAX


def _role(kind: int, flags: int, stream: int) -> str:
    """Clients open odd streams. Either side pings or goes away."""
    if kind in (_PING, _GO_AWAY):
        return ""
    return "client" if (stream % 2 == 1) == bool(flags & _SYN) else "server"


def _followed(data: bytes, kind: int, length: int) -> bool:
    """Whether a second sound header stands where the first frame ends, and so on."""
    at = _HEADER.size + (length if kind == _DATA else 0)
    frames = 1
    while frames < FRAMES_MAX and at + _HEADER.size <= len(data):
        version, kind, flags, stream, length = _HEADER.unpack_from(data, at)
        if version or kind > _GO_AWAY or not _sound(kind, flags, stream, length):
            return False
        frames += 1
        at += _HEADER.size + (length if kind == _DATA else 0)
    return frames > 1
