"""What compiled rules call, against plainer ways to the same answer."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules import compile as compiler
from sensor.rules.ir import And, Cidr, Flag, Number, Or, Text
from sensor.rules.runtime import Networks, cidr

ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=4).map(lambda ip: f"::ffff:{ip}"),
    st.ip_addresses(v=6).map(lambda ip: ip.exploded.upper()),
    st.ip_addresses(v=4, network="10.0.0.0/29").map(str),
    st.ip_addresses(v=6, network="2001:db8::/125").map(str),
)


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Around the addresses that are asked for, of any length."""
    near = [st.ip_addresses(), st.ip_addresses(v=4, network="10.0.0.0/29")]
    address = draw(st.one_of(*near, st.ip_addresses(v=6, network="2001:db8::/125")))
    length = draw(st.integers(0, address.max_prefixlen))
    return str(ipaddress.ip_network((address, length), strict=False))


def holds(network: str, text: str) -> bool:
    address = ipaddress.ip_address(text)
    plain = (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address
    return plain in ipaddress.ip_network(network)


@given(chosen=st.lists(networks(), min_size=1, max_size=8, unique=True), text=ADDRESSES)
def test_networks_hold_what_ipaddress_says(chosen: list[str], text: str) -> None:
    found = Networks({network: 1 << at for at, network in enumerate(chosen)})(text)
    assert found == sum(1 << at for at, network in enumerate(chosen) if holds(network, text))
    assert bool(cidr(*chosen)(text)) == bool(found)


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4\0", "::g", "\ud800", "٣.1.1.1", ":"]
)
def test_what_is_no_address_is_in_no_network(text: str) -> None:
    assert Networks({"0.0.0.0/0": 1, "::/0": 2})(text) == 0


def test_a_scope_is_no_part_of_an_address() -> None:
    assert Networks({"fe80::/10": 1})("fe80::1%eth0") == 1


def test_flags_and_numbers_are_asked_before_any_text_is_folded() -> None:
    ports = Or((Number("DestinationPort", "eq", 22), Number("DestinationPort", "eq", 23)))
    text = Text("CommandLine", "contains", "x", cased=False)
    source = compiler.source("title", And((text, ports, Flag("DestinationIsPrivate", False))), ())
    guard, folded = source.index("return False"), source.index("casefold")
    assert source.index("DestinationIsPrivate") < guard < folded
    assert source.index("in (22, 23)") < guard


def test_networks_of_one_field_are_one_test() -> None:
    source = compiler.source("title", Or((Cidr("DestinationIp", "10.0.0.0/8"), Cidr("DestinationIp", "fd00::/8"))), ())
    assert source.count("(a.DestinationIp)") == 1
    assert "cidr('10.0.0.0/8', 'fd00::/8')" in source
