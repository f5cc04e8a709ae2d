"""DNS messages on the wire, and a tracker that takes them."""

from __future__ import annotations

import socket
import struct

from sensor.enrich.dnsevents import DnsFlow, DnsSeen, DnsSettings, DnsTracker
from sensor.enrich.names import Names

SECOND = 1_000_000_000
BOX = 7
RESOLVER = "192.168.0.53"
TYPES = {"A": 1, "CNAME": 5, "TXT": 16, "AAAA": 28, "NULL": 10}
PUBLIC, OTHER = "93.184.216.34", "93.184.216.35"
Record = tuple[str, str, int, str]  # name, type, TTL, data

UDP = DnsFlow("udp", 0xC0, RESOLVER, 53, 40000)
TCP = DnsFlow("tcp", 0xC1, RESOLVER, 53, 40001)


def wire_name(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"


def question(name: str, type_: str = "A", class_: int = 1) -> bytes:
    return wire_name(name) + struct.pack("!HH", TYPES[type_], class_)


def record(name: str, type_: str, ttl: int, data: str) -> bytes:
    if type_ in {"A", "AAAA"}:
        content = socket.inet_pton(socket.AF_INET6 if ":" in data else socket.AF_INET, data)
    else:
        content = wire_name(data) if type_ == "CNAME" else bytes((len(data),)) + data.encode()
    return wire_name(name) + struct.pack("!HHIH", TYPES[type_], 1, ttl, len(content)) + content


def asks(name: str, type_: str = "A", id_: int = 77) -> bytes:
    return struct.pack("!6H", id_, 0x100, 1, 0, 0, 0) + question(name, type_)


def answers(name: str, *records: Record, id_: int = 77, flags: int = 0x8180, type_: str = "A") -> bytes:
    head = struct.pack("!6H", id_, flags, 1, len(records), 0, 0)
    return head + question(name, type_) + b"".join(record(*one) for one in records)


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


class Host:
    """A tracker with one configured resolver, and the exchange of a question and its answer."""

    def __init__(self, **settings: object) -> None:
        self.names = Names()
        self.tracker = DnsTracker(DnsSettings(**{"resolvers": (RESOLVER,), **settings}), self.names)  # type: ignore[arg-type]
        self.now_ns = 1000 * SECOND

    def take(
        self, data: bytes, incoming: bool, flow: DnsFlow = UDP, aside: bool = False, offset: int = 0
    ) -> list[DnsSeen]:
        return self.tracker.take(BOX, flow, data, incoming, self.now_ns, aside, offset)

    def exchange(self, name: str, *records: Record, flow: DnsFlow = UDP, aside: bool = False) -> DnsSeen:
        self.take(asks(name), False, flow, aside)
        return self.take(answers(name, *records), True, flow, aside)[0]

    def grants(self, name: str, *records: Record) -> list[tuple[str, str]]:
        return [(name, address) for name, address, _ in self.exchange(name, *records).granted]

    def shown(self, address: str = PUBLIC) -> str:
        return self.names.name_of(BOX, address, self.now_ns)
