"""Addresses said without `ipaddress` are those that it says."""

from __future__ import annotations

import ipaddress
import socket

from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.addresses import CACHED, NONE, Address, Addresses, describe

PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
]

# Zeros and the borders of the private networks: random addresses would hardly ever meet them.
BYTES = st.sampled_from([0, 1, 9, 10, 11, 15, 16, 31, 32, 127, 128, 168, 169, 172, 192, 0xFB, 0xFC, 0xFD, 254, 255])
SIXTEEN = st.lists(BYTES, min_size=16, max_size=16).map(bytes)
FEW = st.builds(lambda zeros, end: bytes(zeros) + end[zeros:], st.integers(0, 16), SIXTEEN)
MAPPED = SIXTEEN.map(lambda end: bytes(10) + b"\xff\xff" + end[12:])


def plainly(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Address:
    loopback = ip.is_loopback or ip.is_unspecified
    return Address(str(ip), ip.version == 6, loopback, loopback or any(ip in network for network in PRIVATE))


@given(SIXTEEN)
def test_ipv4_is_as_ipaddress_has_it(packed: bytes) -> None:
    assert describe(socket.AF_INET, packed) == plainly(ipaddress.IPv4Address(packed[:4]))


@given(st.one_of(SIXTEEN, FEW, MAPPED, st.binary(min_size=16, max_size=16)))
def test_ipv6_is_as_ipaddress_has_it(packed: bytes) -> None:
    ip = ipaddress.IPv6Address(packed)
    assert describe(socket.AF_INET6, packed) == plainly(ip.ipv4_mapped or ip)


def test_what_is_too_short_or_of_another_family_is_no_address() -> None:
    assert describe(socket.AF_INET, b"\x7f\0\0") == describe(socket.AF_INET6, bytes(15)) == NONE
    assert describe(socket.AF_UNIX, bytes(16)) == NONE


def test_a_scan_fills_no_memory() -> None:
    addresses = Addresses()
    for number in range(CACHED + 10):
        addresses.get(socket.AF_INET, number.to_bytes(4) + bytes(12))
    assert len(addresses.known) <= CACHED
