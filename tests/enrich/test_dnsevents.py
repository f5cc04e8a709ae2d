"""Messages as resolvers and clients send them: datagrams, and pieces of streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich import dnsevents
from sensor.enrich.dnsevents import DnsFlow, DnsSeen, reach
from tests.enrich.dnswire import BOX, OTHER, PUBLIC, RESOLVER, SECOND, TCP, UDP, Host, Record, answers, asks, framed


def test_a_question_and_its_answer() -> None:
    host = Host()
    asked = host.take(asks("WWW.Example.co.uk"), incoming=False)
    assert asked == [DnsSeen("www.example.co.uk", "A", False, "", "", "example.co.uk", True, 35, [])]
    chain: list[Record] = [
        ("www.example.co.uk", "CNAME", 600, "edge.cdn.net"),
        ("edge.cdn.net", "A", 90, PUBLIC),
        ("edge.cdn.net", "A", 120, OTHER),
    ]
    message = answers("www.example.co.uk", *chain)
    (seen,) = host.take(message, incoming=True)
    assert (seen.Answered, seen.QueryStatus, seen.MessageBytes, seen.Resolver) == (True, "NOERROR", len(message), True)
    assert seen.QueryResults == f"edge.cdn.net;{PUBLIC};{OTHER}"
    assert seen.granted == [
        ("www.example.co.uk", PUBLIC, host.now_ns + 90 * SECOND),
        ("www.example.co.uk", OTHER, host.now_ns + 120 * SECOND),
    ]
    assert host.shown() == host.names.trusted_name(BOX, PUBLIC, host.now_ns) == "www.example.co.uk"
    assert host.names.has_name(BOX, PUBLIC, "edge.cdn.net")


def test_the_sandbox_as_a_server_tells_nothing() -> None:
    host = Host()
    assert host.take(asks("a.com"), incoming=True) == []
    assert host.take(answers("a.com", ("a.com", "A", 60, PUBLIC)), incoming=False) == []
    assert host.shown() == ""


def test_several_messages_in_one_piece_of_a_stream() -> None:
    host = Host()
    asked = host.take(framed(asks("a.com", id_=1), asks("a.com", "AAAA", id_=2)), False, TCP)
    assert [(seen.QueryType, seen.MessageBytes) for seen in asked] == [("A", 23), ("AAAA", 23)]
    first = answers("a.com", ("a.com", "A", 60, PUBLIC), id_=1)
    second = answers("a.com", ("a.com", "AAAA", 60, "2606:4700::1"), id_=2, type_="AAAA")
    seen = host.take(framed(second, first), True, TCP)
    assert [one.granted[0][1] for one in seen] == ["2606:4700::1", PUBLIC]


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_stream_split_anywhere(cut: int) -> None:
    host = Host()
    host.take(framed(asks("a.com", id_=1), asks("b.com", id_=2)), False, TCP)
    stream = framed(*(answers(name, (name, "A", 60, PUBLIC), id_=id_) for name, id_ in (("a.com", 1), ("b.com", 2))))
    seen = host.take(stream[:cut], True, TCP)
    assert host.take(stream[: cut // 2], True, TCP) == [], "sent again"
    seen += host.take(stream[cut:], True, TCP, offset=cut)
    assert [(one.QueryName, len(one.granted)) for one in seen] == [("a.com", 1), ("b.com", 1)]


def test_behind_a_gap_in_a_stream_nothing_is_read() -> None:
    """A zone's owner may put a whole message into a TXT record: read from the middle it would pass for one."""
    host = Host()
    host.take(framed(asks("github.com")), False, TCP)
    forged = framed(answers("github.com", ("github.com", "A", 60, PUBLIC)))
    start = framed(answers("evil.com", ("evil.com", "TXT", 60, "x" * 100), type_="TXT"))[:-100]
    host.take(start, True, TCP)
    assert host.take(forged, True, TCP, offset=len(start) + 8) == []
    assert host.take(forged, True, TCP, offset=len(start) + 8 + len(forged)) == []
    late = DnsFlow("tcp", 0xC2, RESOLVER, 53, 40001)
    assert host.take(forged, True, late, offset=64) == []
    assert host.shown() == ""


def test_a_cut_message_tells_what_is_there() -> None:
    host = Host()
    addresses = [f"93.184.{n}.1" for n in range(60)]
    message = answers("a.com", *(("a.com", "A", 60, address) for address in addresses))
    for flow, whole in ((UDP, message), (TCP, framed(message))):
        host.take(asks("a.com") if flow is UDP else framed(asks("a.com")), False, flow)
        (seen,) = host.tracker.take(BOX, flow, whole[:1024], True, host.now_ns, False, 0, len(whole))
        assert seen.MessageBytes == len(message)
        assert 20 < len(seen.granted) < 60
        assert [address for _, address, _ in seen.granted] == addresses[: len(seen.granted)]
    assert host.tracker.take(BOX, TCP, b"\0\x20", True, host.now_ns, False, len(framed(message))) == []


def test_a_long_message_of_small_pieces_is_told_cut_and_the_next_is_found() -> None:
    host = Host()
    host.take(framed(asks("a.com", id_=1), asks("b.com", id_=2)), False, TCP)
    long = answers("a.com", *(("a.com", "TXT", 60, "y" * 200) for _ in range(30)), id_=1)
    stream = framed(long, answers("b.com", ("b.com", "A", 60, PUBLIC), id_=2))
    seen = []
    for at in range(0, len(stream), 100):
        seen += host.take(stream[at : at + 100], True, TCP, offset=at)
    assert [(one.QueryName, len(one.granted)) for one in seen] == [("a.com", 0), ("b.com", 1)]


def test_results_are_bounded() -> None:
    host = Host()
    seen = host.exchange("a.com", *(("a.com", "TXT", 60, "y" * 200) for _ in range(30)))
    assert len(seen.QueryResults) == dnsevents.RESULTS_MAX


def test_a_flood_of_questions_is_bounded_and_costs_only_its_sandbox() -> None:
    host = Host(outstanding=50, outstanding_all=200)
    tracker = host.tracker
    host.take(asks("mine.com"), incoming=False)
    for number in range(5000):
        flow = DnsFlow("udp", number, RESOLVER, 53, 40000)
        tracker.take(100 + number % 20, flow, asks("x.com", id_=number), False, host.now_ns, False)
        assert tracker._asked == sum(len(box.asked) for box in tracker._sandboxes.values()) <= 200
        assert all(len(box.asked) <= 50 for box in tracker._sandboxes.values())
    assert tracker.counters["dns_questions_dropped"] > 4000
    assert len(host.take(answers("mine.com", ("mine.com", "A", 60, PUBLIC)), True)[0].granted) == 1
    for number in range(5000):
        flow = DnsFlow("tcp", number, RESOLVER, 53, 40000)
        tracker.take(100, flow, b"\x04\0" + bytes(400), False, host.now_ns, False)
    assert tracker._streams == len(tracker._sandboxes[100].streams) == dnsevents.STREAMS_PER_SANDBOX
    for box in range(400):
        for number in range(10):
            tracker.take(box, DnsFlow("tcp", number, RESOLVER, 53, 1), b"\x04", False, host.now_ns, False)
    assert tracker._streams == sum(len(box.streams) for box in tracker._sandboxes.values()) <= dnsevents.STREAMS_MAX


def test_old_questions_and_ended_sandboxes_are_forgotten() -> None:
    host = Host()
    host.take(asks("a.com", id_=1), incoming=False)
    host.take(framed(asks("a.com", id_=9)), False, TCP)
    host.now_ns += 11 * SECOND
    host.take(asks("b.com", id_=2), incoming=False)
    assert host.tracker._asked == 1
    host.tracker.forget(BOX)
    host.tracker.forget(99)
    assert (host.tracker._asked, host.tracker._streams) == (0, 0)


MESSAGES = [asks("a.com"), answers("a.com", ("a.com", "CNAME", 60, "b.net"), ("b.net", "A", 60, PUBLIC)), b""]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(MESSAGES),
            st.binary(max_size=30),
            st.integers(0, 60),
            st.booleans(),
            st.sampled_from([UDP, TCP]),
            st.integers(0, 200),
            st.integers(0, 300),
        ),
        max_size=20,
    )
)
def test_noise_raises_nothing(pieces: list[tuple[bytes, bytes, int, bool, DnsFlow, int, int]]) -> None:
    host = Host()
    for message, noise, at, incoming, flow, offset, length in pieces:
        data = message[:at] + noise + message[at + len(noise) :]
        for seen in host.tracker.take(BOX, flow, data, incoming, host.now_ns, False, offset, length):
            assert seen.QueryName.isprintable() and len(seen.QueryResults) <= dnsevents.RESULTS_MAX
            assert all(reach(address) == "public" for _, address, _ in seen.granted)
