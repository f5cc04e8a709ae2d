"""The SSH identification string (RFC 4253, 4.2), which both sides send first, on any port.

It does not say who is client: the same software may be either, so the caller tells by who connected.
"""

from __future__ import annotations

from sensor.enrich.protocols.memo import Memo
from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.result import Found

LINE_MAX = 255  # CR and LF included
BEFORE_MAX = 1024  # of lines that a server may send first; OpenSSH reads as many lines, we as many bytes
CACHED = 1024
_START = b"SSH-"
_LATER = b"\nSSH-"
_PROTOCOL_MAX = 8  # "2.0", "1.99", "1.5"
_BARE = Found("ssh", "", "banner")
_known: Memo[bytes, Found | None] = Memo(CACHED, CACHED * LINE_MAX)


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp:
        return None
    if data.startswith(_START):
        line = data[: data.find(b"\n", 0, LINE_MAX) + 1]  # "" while it is not whole
        return _known[line] if line in _known else _whole(data, line)
    at = data.find(_LATER, 0, BEFORE_MAX)
    return _after_lines(data, at) if at >= 0 else None


def _whole(data: bytes, line: bytes) -> Found | None:
    if not line:
        return _banner(data[:LINE_MAX].removesuffix(b"\r"), "", True)
    found = _banner(line[:-1].removesuffix(b"\r"), "", True)
    _known.keep(line, found, len(line))
    return found


def _banner(line: bytes, role: str, certain: bool) -> Found | None:
    """`line`: from "SSH-" on, without its end, perhaps cut."""
    version, dash, software = line[4:].partition(b"-")
    if not dash:
        # Cut within the version, or a text such as "SSH-2.0 is old".
        return _BARE if len(version) <= _PROTOCOL_MAX and _digits(version) and certain else None
    if not version or len(version) > _PROTOCOL_MAX or not _digits(version):
        return None
    return Found("ssh", role, "banner", version.decode(), text(software), certain=certain)


def _digits(version: bytes) -> bool:
    """ "2.0", or its beginning: a digit first, then digits and points."""
    return not version or (version[:1].isdigit() and version.replace(b".", b"").isdigit())


def _after_lines(data: bytes, at: int) -> Found | None:
    """A server's banner after other lines. Any text may quote a banner so: not certain.

    The version must be there whole: in a text about SSH "SSH-" alone starts many a line.
    """
    if not data[: at + 1].isascii() or b"\0" in data[:at]:
        return None
    line, newline, _ = data[at + 1 : at + 1 + LINE_MAX].partition(b"\n")
    return _banner(line[:-1] if newline and line[-1:] == b"\r" else line, "server", False)
