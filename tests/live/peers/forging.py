"""Answers to DNS questions that a test makes up: by another server, and by a tun device inside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from threading import Event, Thread

from tests.live.names import unique
from tests.live.peers.network import RESOLVER, SANDBOX, Network
from tests.live.peers.scripts.dns_server import answer

RESOLVER6 = "2001:db8::53"
Forge = Callable[[bytes], list[bytes]]


@contextlib.contextmanager
def forging(network: Network, forge: Forge, address: str = RESOLVER6, port: int = 53) -> Iterator[None]:
    """The other configured resolver, or whoever is there: what it answers with is the test's to say."""
    stop = Event()

    def serve(server: socket.socket) -> None:
        while not stop.is_set():
            if select.select([server], [], [], 0.02)[0]:
                query, client = server.recvfrom(2048)
                for datagram in forge(query):
                    server.sendto(datagram, client)

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        return made

    with network.outside.call(bound) as server:
        thread = Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def question_of(query: bytes, name: str) -> bytes:
    """The same query for that name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return query[:12] + labels + b"\0" + query[-4:]


TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


@contextlib.contextmanager
def answered_by_tun(network: Network, names: dict[str, list[str]]) -> Iterator[None]:
    """A tun device that the resolver's address is routed to, and someone who answers for it."""
    name, stop = f"tun{unique()[-6:]}", Event()

    def opened() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
        return fd

    def serve() -> None:
        while not stop.is_set():
            if select.select([fd], [], [], 0.02)[0]:
                packet = os.read(fd, 2048)
                if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_UDP:
                    os.write(fd, answered(packet, names))

    fd = network.inside.call(opened)
    thread = Thread(target=serve)
    try:
        network.inside.ip(f"link set {name} up\nroute add {RESOLVER}/32 dev {name} src {SANDBOX}")
        thread.start()
        yield
        stop.set()
        thread.join()
    finally:
        stop.set()
        os.close(fd)


def answered(packet: bytes, names: dict[str, list[str]]) -> bytes:
    """An IPv4 packet with an answer to the query in this one. UDP needs no checksum."""
    said = answer(packet[28:], names)
    udp = packet[22:24] + packet[20:22] + struct.pack("!HH", 8 + len(said), 0) + said
    head = (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
        + packet[16:20]
        + packet[12:16]
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:] + udp
