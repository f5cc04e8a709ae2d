"""What an answer gives to policy and display, and what a sandbox would forge to get it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sensor.enrich import dnsevents
from sensor.enrich.dnsevents import DnsFlow, DnsSettings, DnsTracker, host_resolvers, reach
from sensor.enrich.names import Names
from tests.enrich.dnswire import (
    BOX,
    OTHER,
    PUBLIC,
    RESOLVER,
    SECOND,
    UDP,
    Host,
    Record,
    answers,
    asks,
    framed,
    question,
    record,
)  # fmt: skip


def test_chains_in_any_order_and_none_to_elsewhere() -> None:
    host = Host()
    backwards: list[Record] = [
        ("c.net", "A", 60, PUBLIC),
        ("b.net", "CNAME", 60, "c.net"),
        ("a.com", "CNAME", 60, "b.net"),
    ]
    assert host.grants("a.com", *backwards) == [("a.com", PUBLIC)]
    assert host.names.has_name(BOX, PUBLIC, "b.net") and host.names.has_name(BOX, PUBLIC, "c.net")
    stray: list[Record] = [
        ("github.com", "A", 60, OTHER),
        ("github.com", "CNAME", 60, "a.com"),
        ("x.net", "A", 60, OTHER),
    ]
    assert host.grants("a.com", ("a.com", "CNAME", 60, "b.net"), *stray) == []
    assert host.shown(OTHER) == ""
    circle: list[Record] = [("a.com", "CNAME", 60, "b.net"), ("b.net", "CNAME", 60, "a.com"), ("b.net", "A", 60, OTHER)]
    assert host.grants("a.com", *circle) == [("a.com", OTHER)]


def test_times_are_capped_both_ways() -> None:
    host = Host()
    for ttl, lived in ((0, 30), (29, 30), (31, 31), (86400, 300), (2**31 - 1, 300)):
        ((_, _, until_ns),) = host.exchange("a.com", ("a.com", "A", ttl, PUBLIC)).granted
        assert until_ns == host.now_ns + lived * SECOND
    host = Host(ttl_cap_s=10, ttl_floor_s=5)
    ((_, _, until_ns),) = host.exchange("a.com", ("a.com", "A", 99, PUBLIC)).granted
    assert until_ns == host.now_ns + 10 * SECOND
    host.now_ns += (3600 + 86400) * SECOND
    assert host.shown() == ""


REPLIES = {
    "another id": (answers("a.com", ("a.com", "A", 60, PUBLIC), id_=78), UDP),
    "another question": (answers("b.com", ("b.com", "A", 60, PUBLIC)), UDP),
    "another type": (answers("a.com", ("a.com", "A", 60, PUBLIC), type_="TXT"), UDP),
    "another socket": (answers("a.com", ("a.com", "A", 60, PUBLIC)), DnsFlow("udp", 0xBAD, RESOLVER, 53, 40000)),
    "another peer": (answers("a.com", ("a.com", "A", 60, PUBLIC)), DnsFlow("udp", 0xC0, "192.168.0.54", 53, 40000)),
    "another port of it": (answers("a.com", ("a.com", "A", 60, PUBLIC)), DnsFlow("udp", 0xC0, RESOLVER, 5353, 40000)),
    "another local port": (answers("a.com", ("a.com", "A", 60, PUBLIC)), DnsFlow("udp", 0xC0, RESOLVER, 53, 40001)),
    "by TCP": (framed(answers("a.com", ("a.com", "A", 60, PUBLIC))), DnsFlow("tcp", 0xC0, RESOLVER, 53, 40000)),
    "two questions": (
        struct.pack("!6H", 77, 0x8180, 2, 1, 0, 0)
        + question("a.com") + question("b.com") + record("a.com", "A", 60, PUBLIC),
        UDP,
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", REPLIES)
def test_what_was_not_asked_is_told_and_believed_in_nothing(which: str) -> None:
    host = Host()
    host.take(asks("a.com"), incoming=False)
    data, flow = REPLIES[which]
    seen = host.take(data, True, flow)
    assert seen and seen[0].Answered and seen[0].granted == []
    assert host.shown() == ""
    assert host.tracker.counters["dns_answers_unasked"] + host.tracker.counters["dns_answers_to_other_questions"] == 1
    (seen_then,) = host.take(answers("a.com", ("a.com", "A", 60, OTHER)), incoming=True)
    assert [address for _, address, _ in seen_then.granted] == [OTHER], "the true answer still counts"


def test_an_answer_counts_once_and_in_time() -> None:
    host = Host()
    reply = answers("a.com", ("a.com", "A", 60, PUBLIC))
    assert host.take(reply, incoming=True)[0].granted == []
    host.take(asks("a.com"), incoming=False)
    assert len(host.take(reply, incoming=True)[0].granted) == 1
    assert host.take(reply, incoming=True)[0].granted == []
    host.take(asks("a.com"), incoming=False)
    host.now_ns += 10 * SECOND + 1
    assert host.take(reply, incoming=True)[0].granted == []
    assert host.tracker.counters["dns_answers_unasked"] == 3


@pytest.mark.parametrize(
    ("flags", "why"),
    [(0x8183, "NXDOMAIN"), (0x8182, "SERVFAIL"), (0x8380, "truncated"), (0x8980, "opcode"), (0x818C, "")],
)
def test_errors_and_truncated_answers_give_nothing(flags: int, why: str) -> None:
    host = Host()
    host.take(asks("a.com"), incoming=False)
    (seen,) = host.take(answers("a.com", ("a.com", "A", 60, PUBLIC), flags=flags), incoming=True)
    assert seen.granted == [] and host.shown() == ""
    assert seen.QueryStatus == {0x8183: why, 0x8182: why, 0x818C: "RCODE12"}.get(flags, "NOERROR")


def test_only_a_configured_resolver_grants_and_never_aside() -> None:
    host = Host()
    stranger = DnsFlow("udp", 0xC0, "192.168.0.99", 53, 40000)
    seen = host.exchange("github.com", ("github.com", "A", 60, PUBLIC), flow=stranger)
    assert (seen.Resolver, seen.granted, host.shown()) == (False, [], "github.com")
    assert host.names.trusted_name(BOX, PUBLIC, host.now_ns) == ""
    elsewhere = DnsFlow("udp", 0xC0, RESOLVER, 5300, 40000)
    assert host.exchange("github.com", ("github.com", "A", 60, PUBLIC), flow=elsewhere).granted == []
    seen = host.exchange("github.com", ("github.com", "A", 60, PUBLIC), aside=True)
    assert (seen.Resolver, seen.granted) == (False, []), "root gave lo the resolver's address"
    for question_aside, answer_aside in ((True, False), (False, True)):
        host.take(asks("github.com"), False, aside=question_aside)
        (seen,) = host.take(answers("github.com", ("github.com", "A", 60, PUBLIC)), True, aside=answer_aside)
        assert seen.granted == []
    assert host.names.trusted_name(BOX, PUBLIC, host.now_ns) == ""


def test_loopback_is_no_resolver_even_where_it_is_configured() -> None:
    host = Host(resolvers=("127.0.0.53", "::1", "127.0.0.11", "not an address", RESOLVER))
    assert host.tracker.resolvers == {RESOLVER}
    stub = DnsFlow("udp", 0xC0, "127.0.0.53", 53, 40000)
    seen = host.exchange("a.com", ("a.com", "A", 60, PUBLIC), flow=stub)
    assert (seen.Resolver, seen.granted, host.shown()) == (False, [], "a.com")


INSIDE = [
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.100.100.200", "192.0.0.8", "198.18.0.1"),
    *("fd00:ec2::254", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:c0a8:101::1", "64:ff9b:1::1"),
]
NEVER = [
    *("127.0.0.1", "127.0.0.53", "0.0.0.5", "0.1.2.3", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::", "::1"),
    *("fe80::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254"),
    *("64:ff9b::127.0.0.1", "2002:7f00:1::1", "::127.0.0.1", "4000::1"),
]


@pytest.mark.parametrize("address", [*INSIDE, *NEVER])
def test_a_name_that_leads_inside_grants_nothing(address: str) -> None:
    type_ = "AAAA" if ":" in address else "A"
    host = Host()
    assert host.grants("rebind.example.com", ("rebind.example.com", type_, 60, address)) == []
    assert host.tracker.counters["dns_grants_refused_inside"] == 1
    host = Host(private_answers=True)
    allowed = host.grants("rebind.example.com", ("rebind.example.com", type_, 60, address))
    assert len(allowed) == (address in INSIDE)


def test_where_addresses_lead() -> None:
    for address in (PUBLIC, "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "203.0.113.9", "192.167.0.1"):
        assert reach(address) == "public"
    for address in ("2606:4700::1", "64:ff9b::5db8:d822", "2002:5db8:d822::1"):
        assert reach(address) == "public"


def test_only_the_inside_of_a_mixed_answer_is_left_out() -> None:
    mixed: list[Record] = [("a.com", "A", 60, "10.0.0.1"), ("a.com", "A", 60, PUBLIC), ("a.com", "A", 60, "127.0.0.1")]
    assert Host().grants("a.com", *mixed) == [("a.com", PUBLIC)]


def test_mapped_addresses_are_granted_as_connects_show_them() -> None:
    assert Host().grants("a.com", ("a.com", "AAAA", 60, f"::ffff:{PUBLIC}")) == [("a.com", PUBLIC)]


def test_a_dot_within_a_label_looks_like_no_subdomain() -> None:
    """`x.github` is one label here: the name is below `com`, not below `github.com`."""
    host = Host()
    name = b"\x08x.github\x03com\0"
    ask = struct.pack("!6H", 77, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)
    reply = (
        struct.pack("!6H", 77, 0x8180, 1, 1, 0, 0)
        + ask[12:]
        + name
        + struct.pack("!HHIH", 1, 1, 60, 4)
        + b"\x5d\xb8\xd8\x22"
    )
    assert host.take(ask, incoming=False)[0].RegisteredDomain == r"x\.github.com"
    assert host.take(reply, incoming=True)[0].granted == []
    assert host.shown() == ""


def test_a_class_that_is_not_the_internets_gives_nothing() -> None:
    host = Host()
    chaos = question("a.com", class_=3)
    host.take(struct.pack("!6H", 77, 0x100, 1, 0, 0, 0) + chaos, incoming=False)
    reply = struct.pack("!6H", 77, 0x8180, 1, 1, 0, 0) + chaos + record("a.com", "A", 60, PUBLIC)
    assert host.take(reply, incoming=True)[0].granted == []


def test_the_hosts_resolvers_are_taken_where_none_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, real = tmp_path / "resolv.conf", tmp_path / "real.conf"
    stub.write_text("# made by hand\nnameserver 127.0.0.53\noptions edns0\n")
    real.write_text(
        "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver\nnameserver x\n"
        " search a b\nnameserver ::ffff:192.0.2.54\n"
    )
    assert host_resolvers((str(stub), str(real))) == ("192.0.2.53", "fe80::1", "192.0.2.54")
    assert host_resolvers((str(tmp_path / "none"), str(tmp_path), str(stub))) == ()
    monkeypatch.setattr(dnsevents, "host_resolvers", lambda: ("192.0.2.53",))
    assert DnsTracker(DnsSettings(), Names()).resolvers == {"192.0.2.53"}
    assert DnsTracker(DnsSettings(resolvers=(RESOLVER,)), Names()).resolvers == {RESOLVER}, "the host's are not added"
