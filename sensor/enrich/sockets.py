"""The TCP and UDP sockets that processes held before the sensor: /proc/PID/net joined with descriptors.

A listening port tells who called whom: an established connection on a port that the same namespace
listens on was accepted; any other was made from here.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterable

from msgspec import Struct

TABLE_MAX_BYTES = 16 * 1024 * 1024  # 100,000 sockets of a namespace
_TABLES = (("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"))
_LISTEN = "0A"  # TCP_LISTEN of include/net/tcp_states.h
_CLOSE = "07"  # TCP_CLOSE; for UDP: bound, not connected
_SOCKET = re.compile(rb"socket:\[(\d{1,20})\]")


class Endpoint(Struct, frozen=True, gc=False):
    family: int
    packed: bytes  # 16 bytes, network order; IPv4 in the first four
    port: int


class SocketEntry(Struct, frozen=True, gc=False):
    """One socket of a network namespace. `listening`: TCP that accepts, UDP bound and not connected."""

    protocol: str
    local: Endpoint
    remote: Endpoint
    listening: bool
    accepted: bool


def socket_inode(link: bytes) -> int | None:
    match = _SOCKET.fullmatch(link)
    return int(match[1]) if match else None


def namespace_sockets(tgid: int) -> dict[int, SocketEntry]:
    """By inode, every TCP and UDP socket of the network namespace that this process is in."""
    rows: list[tuple[str, list[str]]] = []
    for table, protocol in _TABLES:
        rows += [(protocol, line.split()) for line in _table(f"/proc/{tgid}/net/{table}")]
    return parse(rows)


def parse(rows: Iterable[tuple[str, list[str]]]) -> dict[int, SocketEntry]:
    """From the columns of the tables; rows that are not as expected are passed over."""
    sockets: dict[int, SocketEntry] = {}
    listened: set[tuple[str, int]] = set()
    for protocol, columns in rows:
        try:
            local, remote = _endpoint(columns[1]), _endpoint(columns[2])
            inode = int(columns[9])
        except (IndexError, ValueError, struct.error):
            continue
        listening = columns[3] == (_LISTEN if protocol == "tcp" else _CLOSE)
        if listening and protocol == "tcp":
            listened.add((protocol, local.port))
        if inode:  # 0: nobody holds it any more, such as TIME_WAIT
            sockets[inode] = SocketEntry(protocol, local, remote, listening, False)
    for inode, entry in sockets.items():
        if not entry.listening and (entry.protocol, entry.local.port) in listened:
            sockets[inode] = SocketEntry(entry.protocol, entry.local, entry.remote, False, True)
    return sockets


def _endpoint(text: str) -> Endpoint:
    """`0100007F:1F90`: the address as native 32-bit words of network-order bytes, the port as a number."""
    address, _, port = text.partition(":")
    words = bytes.fromhex(address)
    packed = b"".join(struct.pack("=I", word) for word in struct.unpack(f">{len(words) // 4}I", words))
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return Endpoint(family, packed.ljust(16, b"\0"), int(port, 16))


def _table(path: str) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    content = bytearray()
    try:
        while len(content) < TABLE_MAX_BYTES and (chunk := os.read(fd, 256 * 1024)):
            content += chunk
    except OSError:
        return []
    finally:
        os.close(fd)
    return content.decode("ascii", "replace").splitlines()[1:]
