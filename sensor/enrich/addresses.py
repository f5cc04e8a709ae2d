"""Addresses in a connect record to text and kind.

Without `ipaddress` but for rare ones: a sandbox that scans has a new address in every record, and an
object for each would cost more than all else that is done with the record.
"""

from __future__ import annotations

import ipaddress
from socket import AF_INET, AF_INET6, inet_ntop

from msgspec import Struct

CACHED = 8192
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}  # IPPROTO_*

# The first two bytes of what NetworkConnection.DestinationIsPrivate means, besides loopback: RFC 1918
# and link local. Not `ipaddress.is_private`, whose list grows with Python.
_PRIVATE = frozenset(
    [
        *(bytes((10, second)) for second in range(256)),
        *(bytes((172, second)) for second in range(16, 32)),
        bytes((192, 168)),
        bytes((169, 254)),
    ]
)
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96
_ZEROS = bytes(10)
_UNSPECIFIED = bytes(4)


class Address(Struct, frozen=True, gc=False):
    text: str
    is_ipv6: bool
    is_loopback: bool
    is_private: bool


NONE = Address("", False, False, False)


class Addresses:
    def __init__(self) -> None:
        self.known: dict[tuple[int, bytes], Address] = {}

    def get(self, family: int, packed: bytes) -> Address:
        """`packed`: 16 bytes in network order, IPv4 in the first four."""
        address = self.known.get((family, packed))
        if address is None:
            if len(self.known) >= CACHED:
                self.known.clear()
            address = self.known[(family, packed)] = describe(family, packed)
        return address


def describe(family: int, packed: bytes) -> Address:
    if family == AF_INET and len(packed) >= 4:
        return _four(packed[:4])
    if family == AF_INET6 and len(packed) == 16:
        # ::ffff:a.b.c.d on an IPv6 socket is an IPv4 connection, and rules ask for its IPv4 address.
        return _four(packed[12:]) if packed[:12] == _MAPPED else _six(packed)
    return NONE


def _four(packed: bytes) -> Address:
    # Linux connects 0.0.0.0 and :: to itself (ip_route_connect, tcp_v6_connect).
    loopback = packed[0] == 127 or packed == _UNSPECIFIED
    return Address(inet_ntop(AF_INET, packed), False, loopback, loopback or packed[:2] in _PRIVATE)


def _six(packed: bytes) -> Address:
    unique_local = packed[0] & 0xFE == 0xFC
    link_local = packed[0] == 0xFE and packed[1] & 0xC0 == 0x80
    if packed[:10] == _ZEROS:  # inet_ntop writes those of ::/96 with dots, RFC 5952 and `ipaddress` do not
        address = ipaddress.IPv6Address(packed)
        loopback = address.is_loopback or address.is_unspecified
        return Address(str(address), True, loopback, loopback)
    return Address(inet_ntop(AF_INET6, packed), True, False, unique_local or link_local)
