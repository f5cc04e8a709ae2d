"""Compiled egress lists against the list itself."""

from __future__ import annotations

import ipaddress
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.bpf import state
from sensor.config import Config, SandboxClass
from sensor.confignetwork import (
    ICMP,
    ICMP6,
    MOST_RANGES,
    TCP,
    UDP,
    Egress,
    EgressEntry,
    Range,
    merged,
    packed_address,
    ranges_of,
)
from sensor.respond.egress import (
    EgressPolicy,
    NameList,
    compile_egress,
    egress_entries,
    matches,
)
from sensor.respond.policy import class_index

GRE = 47
OTHER_CLASS = 0x01020304


def entry(to: str, *ports: int | str, protocol: Any = "any") -> EgressEntry:
    return EgressEntry(to, ports, protocol)


def deny(*entries: EgressEntry, loopback: Any = "allow") -> Egress:
    return Egress("deny", entries, loopback)


def config(**classes: Egress) -> Config:
    return Config(classes={name: SandboxClass(egress=egress) for name, egress in classes.items()})


class Trie:
    """What BPF_MAP_TYPE_LPM_TRIE and the probe do: the longest entry whose first bits are the key's, compared from
    the first byte of the data on, then its ranges alone."""

    def __init__(self, entries: list[tuple[bytes, bytes]]) -> None:
        self._entries: list[tuple[int, int, state.Egress]] = []
        for key, value in entries:
            (bits,) = struct.unpack("=I", key[:4])
            assert len(key) == 24 and len(value) == 48
            self._entries.append((bits, int.from_bytes(key[4:], "big"), state.Egress.unpack(value)))

    def find(self, class_id: int, address: str) -> state.Egress | None:
        value = packed_address(address)
        assert value is not None
        key = int.from_bytes(struct.pack(">I", class_id) + value.to_bytes(16, "big"), "big")
        found = [each for each in self._entries if each[1] >> (160 - each[0]) == key >> (160 - each[0])]
        return max(found, key=lambda each: each[0])[2] if found else None

    def allows(self, class_id: int, address: str, port: int, protocol: int) -> bool:
        ports = self.find(class_id, address)
        return ports is not None and allows(ports, port, protocol)


def allows(ports: state.Egress | state.Name, port: int, protocol: int) -> bool:
    low, high = struct.unpack("<8H", ports.low), struct.unpack("<8H", ports.high)
    return any(
        ports.protocol[index] in {0, protocol} and low[index] <= port <= high[index] for index in range(ports.count)
    )


# The list, compiled.

FEW = (0, 1, 22, 443, 444, 8000, 8005, 65535)
few_ports = st.sampled_from(FEW)
port_values = few_ports | few_ports.map(str) | st.tuples(few_ports, few_ports).map(lambda p: f"{min(p)}-{max(p)}")
# Few and close to each other, so that they cover and touch one another.
addresses = st.sampled_from(
    [
        "10.0.0.1", "10.0.128.7", "10.1.2.3", "11.0.0.0", "127.0.0.1", "127.255.1.2", "255.255.255.255",
        "0.0.0.0",  # noqa: S104
        "::", "::1", "::2", "::ffff:10.0.0.1", "::ffff:0.0.0.0", "::fffe:10.0.0.1", "2001:db8::1", "2001:db8:8000::1",
        "2001:db9::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ]
)  # fmt: skip


@st.composite
def networks(draw: Any) -> str:
    address = ipaddress.ip_address(draw(addresses))
    length = draw(st.integers(0, address.max_prefixlen) | st.just(address.max_prefixlen))
    return str(ipaddress.ip_network((int(address), length) if address.version == 6 else f"{address}/{length}", False))


@st.composite
def entries(draw: Any) -> EgressEntry:
    protocol = draw(st.sampled_from(["any", "tcp", "udp", "icmp"]))
    ports = () if protocol == "icmp" else tuple(draw(st.lists(port_values, max_size=2)))
    return EgressEntry(draw(networks()), ports, protocol)


def plainly(entry: EgressEntry, address: str, port: int, protocol: int) -> bool:
    """By the standard library, and the words of the example's comments alone."""
    at, network = ipaddress.ip_address(address), ipaddress.ip_network(entry.to)
    if isinstance(at, ipaddress.IPv6Address):
        at = at.ipv4_mapped or at
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96 and network[0].ipv4_mapped:
        network = ipaddress.ip_network((int(network[0].ipv4_mapped), network.prefixlen - 96))
    if at not in network:
        return False
    icmp = ICMP if network.version == 4 else ICMP6
    numbers = {"tcp": {TCP}, "udp": {UDP}, "icmp": {icmp}, "any": {TCP, UDP} if entry.ports else {protocol}}
    pairs = [[int(number) for number in str(each).split("-")] for each in entry.ports] or [[0, 65535]]
    return protocol in numbers[entry.protocol] and any(pair[0] <= port <= pair[-1] for pair in pairs)


@given(
    st.lists(entries(), max_size=3),
    st.sampled_from(["allow", "deny"]),
    addresses,
    st.sampled_from([TCP, UDP, ICMP, ICMP6, GRE]),
    st.sampled_from(FEW) | st.integers(0, 65535),
)
def test_the_trie_the_reference_and_plain_words_agree(
    listed: list[EgressEntry], loopback: Any, address: str, protocol: int, port: int
) -> None:
    port = port if protocol in {TCP, UDP} else 0
    egress = deny(*listed, loopback=loopback)
    at = ipaddress.ip_address(address)
    at = getattr(at, "ipv4_mapped", None) or at
    own = loopback == "allow" and (at.is_loopback or at.is_unspecified)
    expected = own or any(plainly(each, address, port, protocol) for each in listed)
    assert matches(egress, address, port, protocol) is expected
    trie = Trie([*compile_egress(OTHER_CLASS, deny(entry("::/0"), entry("0.0.0.0/0"))), *compile_egress(3, egress)])
    assert trie.allows(3, address, port, protocol) is expected
    if protocol in {TCP, UDP}:
        policy = EgressPolicy(config(strict=egress))
        either = any(plainly(each, address, port, number) for each in listed for number in (TCP, UDP))
        assert policy.explicitly_allowed("strict", address, port) is either


def test_a_longer_prefix_has_the_ports_of_those_around_it() -> None:
    egress = deny(
        entry("10.0.0.0/8", 443, protocol="tcp"), entry("10.1.0.0/16", 22), entry("10.1.2.3"), loopback="deny"
    )
    trie = Trie(compile_egress(0, egress))
    assert trie.allows(0, "10.1.0.9", 443, TCP) and trie.allows(0, "10.1.0.9", 22, TCP)
    assert not trie.allows(0, "10.1.0.9", 443, UDP)
    assert not trie.allows(0, "10.2.0.9", 22, TCP)
    inner = trie.find(0, "10.1.2.3")
    assert inner is not None and inner.count == 1, "all ports: the others are within them"


def test_the_key_s_bytes() -> None:
    [(key, value)] = compile_egress(0x0102, deny(entry("10.0.0.0/8", "80-90", protocol="udp"), loopback="deny"))
    assert key == struct.pack("=I", 32 + 96 + 8) + b"\0\0\1\2" + bytes(10) + b"\xff\xff\x0a\0\0\0"
    assert value == struct.pack("<H14xH14xB7xI4x", 80, 90, UDP, 1)


def test_all_of_ipv6_is_not_ipv4() -> None:
    six = Trie(compile_egress(0, deny(entry("::/0"), loopback="deny")))
    assert six.allows(0, "2001:db8::1", 1, TCP)
    assert not six.allows(0, "10.0.0.1", 1, TCP)
    both = Trie(compile_egress(0, deny(entry("::/0"), entry("0.0.0.0/0", 53), loopback="deny")))
    assert both.allows(0, "10.0.0.1", 53, UDP) and not both.allows(0, "10.0.0.1", 1, TCP)


def test_ports_do_not_mean_what_has_none() -> None:
    egress = deny(entry("10.0.0.0/8", "0-65535"))
    trie = Trie(compile_egress(0, egress))
    assert trie.allows(0, "10.0.0.1", 0, TCP) and trie.allows(0, "10.0.0.1", 65535, UDP)
    assert not trie.allows(0, "10.0.0.1", 0, ICMP)
    assert not trie.allows(0, "10.0.0.1", 0, GRE)


def test_a_class_sees_only_its_own_list() -> None:
    settings = config(default=deny(loopback="deny"), a=deny(entry("10.0.0.0/8")), b=Egress())
    trie = Trie(list(egress_entries(settings, class_index(settings, {})).items()))
    assert trie.find(0, "10.0.0.1") is None
    assert trie.allows(1, "10.0.0.1", 1, TCP)
    assert trie.find(2, "127.0.0.1") is None
    assert egress_entries(Config(), {"default": 0}) == {}


def test_the_reference_allows_all_without_a_list_and_nothing_that_is_no_address() -> None:
    assert matches(Egress(), "10.0.0.1", 1, TCP)
    assert not matches(deny(entry("0.0.0.0/0")), "10.0.0", 1, TCP)
    assert not matches(deny(entry("github.com")), "10.0.0.1", 1, TCP)


some_ranges = st.builds(
    lambda protocol, a, b: Range(protocol, max(min(a, b), protocol == 0), max(a, b, 1)),
    st.sampled_from([0, TCP, UDP]),
    st.integers(0, 30),
    st.integers(0, 30),
)


@given(st.lists(some_ranges, max_size=8))
def test_merged_ranges_are_the_same_ports_in_no_more_ranges(ranges: list[Range]) -> None:
    def members(of: Any) -> set[tuple[int, int]]:
        numbers = {0: (TCP, UDP, GRE), TCP: (TCP,), UDP: (UDP,)}
        return {(n, port) for each in of for n in numbers[each.protocol] for port in range(each.low, each.high + 1)}

    result = merged(ranges)
    assert members(result) == members(ranges)
    assert len(result) <= len(set(ranges))
    assert merged(result) == result
    for protocol in (0, TCP, UDP):
        own = [each for each in result if each.protocol == protocol]
        assert all(a.high + 1 < b.low for a, b in pairwise(own))


def test_more_ranges_than_fit_are_not_allowed() -> None:
    """Configurations with such are refused; here the rest is left out, and nothing else comes of it."""
    ports = tuple(range(1, 40, 2))
    found = Trie(compile_egress(0, deny(entry("10.0.0.0/8", *ports)))).find(0, "10.0.0.1")
    assert found is not None and found.count == MOST_RANGES
    assert allows(found, 1, TCP) and not allows(found, 39, TCP) and not allows(found, 2, TCP)


# Questions.


def test_explicitly_allowed_is_what_an_entry_names() -> None:
    policy = EgressPolicy(
        config(strict=deny(entry("10.0.0.0/8", 443), entry("GitHub.com", 22, protocol="tcp"), entry("*.x.org", 53)))
    )
    assert policy.explicitly_allowed("strict", "10.9.9.9", 443)
    assert not policy.explicitly_allowed("strict", "10.9.9.9", 22)
    assert policy.explicitly_allowed("strict", "140.82.121.4", 22, "github.com")
    assert policy.explicitly_allowed("strict", "140.82.121.4", 22, "GITHUB.com.")
    assert not policy.explicitly_allowed("strict", "140.82.121.4", 443, "github.com")
    assert not policy.explicitly_allowed("strict", "140.82.121.4", 22)
    assert policy.explicitly_allowed("strict", "2001:db8::1", 53, "a.b.x.org")
    assert not policy.explicitly_allowed("strict", "2001:db8::1", 53, "x.org")
    assert not policy.explicitly_allowed("strict", "127.0.0.1", 443), "allowed, and named by no entry"
    assert not policy.explicitly_allowed("strict", "nonsense", 443, "nonsense")
    assert not policy.explicitly_allowed("default", "10.9.9.9", 443), "without a list nothing is named"
    assert not policy.explicitly_allowed("gone", "10.9.9.9", 443)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x.org", ["x.org"]),
        ("a.x.org", ["*.x.org"]),
        ("a.b.x.org", ["*.b.x.org", "*.x.org"]),
        ("ax.org", []),
        ("x.org.evil", []),
        (".x.org", []),
        ("*.x.org", []),
        ("", []),
        (".", []),
        ("a." * 200 + "x.org", []),
        ("\udc80.x.org", ["*.x.org"]),
    ],
)
def test_which_entries_a_name_matches(name: str, found: list[str]) -> None:
    names = NameList(deny(entry("x.org"), entry("*.x.org"), entry("*.B.x.org"), entry("10.0.0.1"), entry("::/0")))
    assert sorted(names.find(name)) == sorted(found)
    assert set(names.ranges) == {"x.org", "*.x.org", "*.b.x.org"}


def test_ranges_of_a_name_are_those_of_its_entries_together() -> None:
    names = NameList(deny(entry("x.org", 22), entry("X.org", "23-24", protocol="any")))
    assert names.ranges == {"x.org": (Range(0, 22, 24),)}
    assert ranges_of(entry("x.org", 0)) == (Range(TCP, 0, 0), Range(UDP, 0, 0))
