"""Addresses in a connect record to text and kind."""

from __future__ import annotations

import ipaddress
import socket

from msgspec import Struct

CACHED = 8192

# What NetworkConnection.DestinationIsPrivate means. Not `is_private`, whose list grows with Python.
_PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
]


class Address(Struct, frozen=True, gc=False):
    text: str
    is_ipv6: bool
    is_loopback: bool
    is_private: bool


NONE = Address("", False, False, False)


class Addresses:
    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], Address] = {}

    def get(self, family: int, packed: bytes) -> Address:
        """`packed`: 16 bytes in network order, IPv4 in the first four."""
        address = self._known.get((family, packed))
        if address is None:
            if len(self._known) >= CACHED:
                self._known.clear()
            address = self._known[(family, packed)] = describe(family, packed)
        return address


def describe(family: int, packed: bytes) -> Address:
    if family == socket.AF_INET and len(packed) >= 4:
        return _describe(ipaddress.IPv4Address(packed[:4]))
    if family == socket.AF_INET6 and len(packed) == 16:
        six = ipaddress.IPv6Address(packed)
        # ::ffff:a.b.c.d on an IPv6 socket is an IPv4 connection, and rules ask for its IPv4 address.
        return _describe(six.ipv4_mapped or six)
    return NONE


def _describe(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Address:
    # Linux connects 0.0.0.0 and :: to itself (ip_route_connect, tcp_v6_connect).
    loopback = ip.is_loopback or ip.is_unspecified
    private = loopback or any(ip in network for network in _PRIVATE if network.version == ip.version)
    return Address(str(ip), ip.version == 6, loopback, private)
