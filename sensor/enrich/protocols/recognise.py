"""Which protocol the first bytes of a flow are: the dissectors that may be it by the first two bytes, in order.

Where two may be it, the one that asks more of the bytes comes first, and what is built on HTTP is asked
about when HTTP is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from string import ascii_lowercase, ascii_uppercase

from sensor.enrich.protocols import (
    bore,
    chisel,
    dns,
    frp,
    getblocktemplate,
    http,
    openvpn,
    quic,
    shell,
    socks,
    ssh,
    stratum,
    stratum2,
    tls,
    wireguard,
    yamux,
)
from sensor.enrich.protocols.result import Found

Dissect = Callable[[bytes, bool], Found | None]
# Four bytes, or all where there are less; terminal sequences begin with ESC.
_TEXT = re.compile(rb"[\x1b-~\t\r\n]{4}|[\x1b-~\t\r\n]{1,3}\Z")
_UPPER = ascii_uppercase.encode()
_LENGTH_MIN = 12  # a DNS header


def recognise(data: bytes, udp: bool) -> Found | None:
    """`data`: the first contiguous bytes of one side, or one datagram. None: nothing known."""
    if len(data) < 2:
        return None
    for dissect in _DATAGRAMS[data[0]] if udp else _STREAMS[data[0] << 8 | data[1]]:
        found = dissect(data, udp)
        if found is not None:
            return found
    return None


def recognise_pair(client: bytes, server: bytes) -> Found | None:
    """What only the first messages of both sides of a stream show; for flows that `recognise` does not know."""
    return stratum2.dissect_pair(client, server)


def _http(data: bytes, udp: bool) -> Found | None:
    """HTTP, or what it carries: a tunnel that its upgrade names, a call for work in its body."""
    found, body = http.read(data)
    if found is None:
        return None
    if found.subprotocol:
        return chisel.named(found) or found
    if body >= 0 and (found.method == "POST" or not found.method):  # a response
        return getblocktemplate.carried(found, data, body) or found
    return found


def _shell(data: bytes, udp: bool) -> Found | None:
    """Prompts, complaints and commands are text from the start, which binary protocols are not for long."""
    return shell.dissect(data, udp) if _TEXT.match(data) else None


def _streams() -> tuple[tuple[Dissect, ...], ...]:
    """By the first byte and the second: most of what is no protocol of ours ends here."""
    same: dict[tuple[Dissect, ...], tuple[Dissect, ...]] = {}
    order: list[tuple[Dissect, ...]] = []
    for first, dissectors in enumerate(_by_first_byte()):
        rows: list[tuple[Dissect, ...]] = [()] * 256
        for dissect in dissectors:
            for second in _seconds(dissect, first):
                row = (*rows[second], dissect)
                rows[second] = same.setdefault(row, row)
        order += rows
    return tuple(order)


def _seconds(dissect: Dissect, first: int) -> Iterable[int]:
    """The second bytes with which a dissector may find what it looks for."""
    if dissect in (dns.dissect, openvpn.dissect):
        return range(0 if first else _LENGTH_MIN, 256)  # over TCP both start with a length of two bytes
    if dissect is _http and first in _UPPER:
        return (*_UPPER, ord("-"))
    if dissect is frp.dissect:
        return (0x16,) if first == 0x17 else (0,)
    if dissect is socks.dissect:
        return _SOCKS[first]
    return _SECONDS.get(dissect, range(256))


def _by_first_byte() -> list[tuple[Dissect, ...]]:
    order: list[tuple[Dissect, ...]] = [() for _ in range(256)]
    # DNS over TCP starts with its length, of which 5 KB is a large one. It checks a dozen fields that depend on
    # each other, SOCKS two or three, OpenVPN lengths and a time: a DNS message may pass for one of theirs, and
    # hardly the reverse.
    for first in range(0x14):
        order[first] = (dns.dissect, openvpn.dissect)
    order[0x00] = (yamux.dissect, dns.dissect, socks.dissect, openvpn.dissect)
    order[0x04] = order[0x05] = (dns.dissect, socks.dissect, openvpn.dissect)
    order[0x14] = order[0x15] = order[0x16] = (tls.dissect,)
    order[0x17] = (frp.dissect, tls.dissect)  # frp's byte before a ClientHello is also TLS application data
    # In text a shell's prompt or complaint is at the start, and certain as a rule; an SSH banner after other
    # lines may be quoted by anything, also by what is typed into a shell. No shell's text starts with a digit or
    # with other signs than these.
    for first in range(0x20, 0x7F):
        order[first] = (ssh.dissect,)
    for first in b"$#%>/~_.-" + ascii_lowercase.encode():
        order[first] = (_shell, ssh.dissect)
    order[0x1B] = order[0xE2] = (shell.dissect,)  # ESC, and UTF-8's first byte of the frame of Kali's prompt
    for first in _UPPER:
        order[first] = (_http, _shell, ssh.dissect)
    order[ord("S")] = (ssh.dissect, _http, _shell)
    for first in b"ovws":
        order[first] = (frp.dissect, _shell, ssh.dissect)
    order[ord("1")] = order[ord("3")] = (frp.dissect, ssh.dissect)
    order[ord("{")] = (bore.dissect, stratum.dissect)
    order[ord("[")] = order[ord(" ")] = (stratum.dissect, _shell, ssh.dissect)
    for first in b"\t\r\n":
        order[first] = (stratum.dissect, _http, _shell, ssh.dissect, dns.dissect)
    return order


def _datagrams() -> tuple[tuple[Dissect, ...], ...]:
    # DNS starts with an id, so that any byte may be its first. WireGuard wants three zeros and one length, QUIC
    # a version where DNS would have 256 questions or more; OpenVPN asks for less than DNS does.
    order: list[tuple[Dissect, ...]] = [(dns.dissect,) for _ in range(256)]
    for first in (1, 2, 3, 4):
        order[first] = (wireguard.dissect, dns.dissect)
    for first in (0x38, 0x40, 0x50):
        order[first] = (dns.dissect, openvpn.dissect)
    for first in range(0xC0, 0x100):
        order[first] = (quic.dissect, dns.dissect)
    for letter in b"MNH":  # SSDP: M-SEARCH, NOTIFY, HTTP/1.1 200
        order[letter] = (http.dissect, dns.dissect)
    for first in b"{[ \t\r\n":
        order[first] = (stratum.dissect, dns.dissect)
    return tuple(order)


_SOCKS: dict[int, Iterable[int]] = {0: range(0x5A, 0x5E), 4: (1, 2), 5: (*range(11), 0xFF)}
_SECONDS: dict[Dissect, Iterable[int]] = {
    yamux.dissect: range(4),
    tls.dissect: (3,),
    ssh.dissect: range(1, 0x80),
    _shell: (*b"\t\r\n", *range(0x1B, 0x7F)),
}
_STREAMS = _streams()
_DATAGRAMS = _datagrams()
