"""What compiled rules call, against plainer ways to the same answer."""

from __future__ import annotations

import ipaddress

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules import compile as compiler
from sensor.rules import runtime
from sensor.rules.ir import And, Cidr, Flag, Number, Or, Text
from sensor.rules.literals import FOLDED, normal
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


@pytest.mark.parametrize("text", ["", "a", "xab", "\n", "é", "\ud800", "a\0b", "b" * 5000 + "a"])
@pytest.mark.parametrize("pattern", ["a", "^a", "a$", "(x)?(a)b", "", "é|\\x00", "(?s)b.*a"])
def test_a_regex_is_searched_alike_by_either_way_into_re2(
    pattern: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime._quick(re2.compile(pattern)), "google-re2 keeps its search elsewhere now: look where"
    quick = runtime.regex(pattern)
    monkeypatch.setattr(runtime, "_quick", lambda _: None)
    assert quick(text) == runtime.regex(pattern)(text)


@given(text=st.text(max_size=80))
def test_text_is_set_off_alike_by_either_way(text: str) -> None:
    """ASCII takes a shorter way to the same bytes."""
    ascii_only = text.encode("ascii", "ignore").decode()
    assert b" %b " % ascii_only.encode().translate(FOLDED) == normal(f" {ascii_only} ")


def test_which_literals_were_found_together_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "REMEMBERED_SETS", 5)
    literals = runtime.Literals({f"w{number}.".encode(): 1 << number for number in range(40)})
    find = literals.find
    for _ in range(2):
        for number in range(40):
            assert find(f"w{number}. w{(number + 1) % 40}.") == 1 << number | 1 << (number + 1) % 40
            assert len(literals._sets) <= 5
    assert find(" ".join(f"w{number}." for number in range(40))) == (1 << 40) - 1
    assert all(len(key) <= runtime.REMEMBERED_SET for key in literals._sets)


def test_fields_that_are_looked_up_together_are_remembered_within_bounds() -> None:
    together = runtime.Together([runtime.FieldIndex(names={"x": 1}), runtime.FieldIndex(exact={"y": 2})], 4)
    for number in range(3000):
        assert together[f"/{number}{'-' * 400}", "y"] == 6
        assert sum(len(str(text)) for values in together for text in values) <= runtime.REMEMBERED_CHARACTERS
    assert together["/bin/x", "z"] == 5


def test_addresses_are_remembered_within_bounds() -> None:
    networks = Networks({"10.0.0.0/8": 1, "fd00::/8": 2})
    for number in range(3 * runtime.REMEMBERED_ADDRESSES):
        assert networks[f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"] == 1
        assert len(networks) <= runtime.REMEMBERED_ADDRESSES
    assert networks["fd00::1"] == networks["fd00::1"] == 2
    assert networks["9" * 1000] == 0
    assert "9" * 1000 not in networks
