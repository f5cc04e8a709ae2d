"""Flow records to activities: ends, maker, protocols from first bytes, names, bounds."""

from __future__ import annotations

import pytest

from sensor.config import Config, SandboxPattern
from sensor.confignetwork import Dns, Flows
from sensor.enrich.enricher import Enricher
from sensor.enrich.flows import HOLD_NS
from sensor.events.activity import DnsQuery, NetworkFlow, NetworkListen, NetworkProtocol
from sensor.events.layouts import FlowFlag, Prefix
from tests.enrich import records
from tests.enrich.dnswire import answers, asks
from tests.enrich.protocols.test_tls import openssl_hello
from tests.enrich.records import BOX, START

PEER = bytes((203, 0, 113, 7))
RESOLVER = bytes((10, 0, 0, 53))
BANNER = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"
NS = 10**9


@pytest.fixture
def box(enricher: Enricher) -> Enricher:
    enricher.apply(records.exec_(500, START, b"ssh\0-N\0", "/usr/bin/ssh"), 1, 16)
    return enricher


def take(enricher: Enricher, record: object, position: int = 80) -> list[object]:
    return list(enricher.apply_flow(record, 1, position))  # type: ignore[arg-type]


def protocols(found: list[object]) -> list[NetworkProtocol]:
    return [activity for activity in found if isinstance(activity, NetworkProtocol)]


def test_a_flow_has_both_ends_its_maker_and_its_numbers(box: Enricher) -> None:
    (begun,) = take(box, records.flow(500, PEER))
    assert isinstance(begun, NetworkFlow)
    assert (begun.Phase, begun.Initiated, begun.Protocol, begun.Count) == ("established", True, "tcp", 1)
    assert (begun.SourceIp, begun.SourcePort) == ("10.0.0.2", 40000)
    assert (begun.DestinationIp, begun.DestinationPort) == ("203.0.113.7", 443)
    assert (begun.Image, begun.CommandLine, begun.SocketInode, begun.EndReason) == ("/usr/bin/ssh", "ssh -N", 4711, "")
    numbers = {"bytes_out": 5, "bytes_in": 6, "packets_out": 2, "packets_in": 3, "inversions": 4, "end": 1}
    (ended,) = take(box, records.flow(500, PEER, phase=2, time_ns=14 * NS, **numbers))
    assert isinstance(ended, NetworkFlow)
    assert (ended.Phase, ended.EndReason, ended.DurationMs) == ("ended", "closed", 3000)
    assert (ended.BytesOut, ended.BytesIn, ended.PacketsOut, ended.PacketsIn, ended.Inversions) == (5, 6, 2, 3, 4)
    assert not box.flows.table.living
    assert not box.flows.table.by_cookie


def test_first_bytes_are_told_once_when_they_are_whole(box: Enricher) -> None:
    take(box, records.flow(500, PEER))
    assert take(box, records.payload(500, PEER, BANNER[:12])) == []
    assert box.flows.holding
    (told,) = take(box, records.payload(500, PEER, BANNER[12:], offset=12), 96)
    assert isinstance(told, NetworkProtocol)
    assert (told.ApplicationProtocol, told.FromSandbox, told.Software) == ("ssh", True, "OpenSSH_9.2p1 Debian-2")
    assert (told.generation, told.position, told.Denied) == (1, 96, False)
    assert take(box, records.payload(500, PEER, b"more", offset=len(BANNER))) == []
    (theirs,) = protocols(take(box, records.payload(500, PEER, BANNER, incoming=1)))
    assert not theirs.FromSandbox
    assert not box.flows.holding


def test_bytes_that_were_to_become_more_are_told_after_a_moment(box: Enricher) -> None:
    take(box, records.flow(500, PEER))
    take(box, records.payload(500, PEER, b"SSH-2.0-x"))
    assert list(box.flows.settle(12 * NS + HOLD_NS - 1)) == []
    (told,) = box.flows.settle(12 * NS + HOLD_NS)
    assert isinstance(told, NetworkProtocol)
    assert (told.ApplicationProtocol, told.generation) == ("ssh", 0)
    assert list(box.flows.settle(20 * NS)) == []


def test_the_end_of_a_flow_tells_what_was_held(box: Enricher) -> None:
    take(box, records.flow(500, PEER))
    take(box, records.payload(500, PEER, b"SSH-2.0-x"))
    told, ended = take(box, records.flow(500, PEER, phase=2, end=1), 160)
    assert isinstance(told, NetworkProtocol)
    assert isinstance(ended, NetworkFlow)
    assert (told.position, ended.position) == (160, 161)
    assert not box.flows.holding


def test_unknown_bytes_are_counted_and_told_by_nobody(box: Enricher) -> None:
    take(box, records.flow(500, PEER))
    assert take(box, records.payload(500, PEER, b"\x91\x02nothing anybody knows")) == []
    assert len(take(box, records.flow(500, PEER, phase=2))) == 1
    assert box.counters["protocols_unknown"] == 1


def test_a_payload_may_come_before_its_flow_and_after_its_end(box: Enricher) -> None:
    (told,) = take(box, records.payload(500, PEER, BANNER))
    assert isinstance(told, NetworkProtocol)
    assert told.DestinationIp == "203.0.113.7"


def test_what_the_kernel_cut_is_told_as_the_denied_protocol(box: Enricher) -> None:
    flags = FlowFlag.INITIATED | FlowFlag.CUT
    take(box, records.flow(500, PEER))
    flow, cut = take(box, records.flow(500, PEER, phase=1, flags=int(flags), denied=int(Prefix.SSH)))
    assert isinstance(flow, NetworkFlow)
    assert flow.EndReason == "cut"
    assert isinstance(cut, NetworkProtocol)
    assert (cut.ApplicationProtocol, cut.Denied, cut.FromSandbox) == ("ssh", True, True)


def test_a_policy_marks_what_it_denies_where_it_only_watches(box: Enricher) -> None:
    box.flows.policy.denied = lambda class_, protocol: (class_, protocol) == ("default", "http-connect")
    take(box, records.flow(500, PEER))
    (told,) = take(box, records.payload(500, PEER, b"CONNECT x:22 HTTP/1.1\r\nHost: x:22\r\n\r\n"))
    assert isinstance(told, NetworkProtocol)
    assert (told.Denied, told.ProtocolTarget) == (True, "x:22")


def ask(enricher: Enricher, name: str, address: str, *, device: int = 0) -> list[object]:
    """A question and its answer over UDP; the activities of both."""
    more = {"port": 53, "protocol": 17, "device": device, "cookie": 53}
    asked = take(enricher, records.payload(500, RESOLVER, asks(name), **more))
    data = answers(name, (name, "A", 60, address))
    return asked + take(enricher, records.payload(500, RESOLVER, data, incoming=1, **more))


def test_names_come_with_answers_and_stay_with_flows(box: Enricher) -> None:
    asked, answered = ask(box, "pool.test", "203.0.113.7")
    assert isinstance(asked, DnsQuery)
    assert isinstance(answered, DnsQuery)
    assert (asked.QueryName, asked.Answered, asked.QueryStatus) == ("pool.test", False, "")
    assert (answered.QueryName, answered.QueryResults, answered.QueryStatus) == ("pool.test", "203.0.113.7", "NOERROR")
    (flow,) = take(box, records.flow(500, PEER))
    assert isinstance(flow, NetworkFlow)
    assert (flow.DestinationHostname, flow.HostnameTrusted) == ("pool.test", False)
    connection = box.apply(records.connect(500, PEER), 1, 90)
    assert connection.DestinationHostname == "pool.test"  # type: ignore[union-attr]


def test_only_a_configured_resolvers_names_are_trusted_and_granted(tmp_path: object) -> None:
    config = Config(sandboxes=(SandboxPattern("boxes/*"),), dns=Dns(resolvers=("10.0.0.53",)))
    enricher = Enricher(config, str(tmp_path))
    enricher.apply(records.birth(BOX, b"/boxes/a\0"), 1, 0)
    granted: list[tuple[str, int, str, str]] = []
    enricher.flows.policy.granted = lambda class_, box, name, address, _until: granted.append(
        (class_, box, name, address)
    )
    ask(enricher, "by-loopback.test", "203.0.113.8", device=1)
    assert granted == []
    ask(enricher, "good.test", "203.0.113.7")
    assert granted == [("default", BOX, "good.test", "203.0.113.7")]
    (flow,) = take(enricher, records.flow(500, PEER))
    assert isinstance(flow, NetworkFlow)
    assert (flow.DestinationHostname, flow.HostnameTrusted) == ("good.test", True)


def test_a_server_name_that_was_never_looked_up_is_marked(box: Enricher) -> None:
    for name, address, unresolved in (
        ("front.test", "203.0.113.7", True),
        ("hidden.test", "203.0.113.9", False),
    ):
        ask(box, name, address)
        remote = bytes(int(part) for part in address.split("."))
        cookie = int(address.rpartition(".")[2])
        take(box, records.flow(500, remote, cookie=cookie))
        hello = records.payload(500, remote, openssl_hello("hidden.test", ()), cookie=cookie)
        (told,) = take(box, hello)
        assert isinstance(told, NetworkProtocol)
        assert (told.ServerName, told.ServerNameUnresolved) == ("hidden.test", unresolved)


def test_listeners(box: Enricher) -> None:
    (any_,) = take(box, records.listen(500, bytes(4), 8080))
    assert isinstance(any_, NetworkListen)
    assert (any_.SourceIp, any_.SourcePort, any_.SourceIsAny, any_.SourceIsLoopback) == ("0.0.0.0", 8080, True, False)  # noqa: S104
    (own,) = take(box, records.listen(500, bytes((127, 0, 0, 1)), 53, protocol=17))
    assert isinstance(own, NetworkListen)
    assert (own.Protocol, own.SourceIsAny, own.SourceIsLoopback) == ("udp", False, True)


def test_the_table_is_bounded_and_the_oldest_go(tmp_path: object) -> None:
    enricher = Enricher(Config(sandboxes=(SandboxPattern("boxes/*"),), flows=Flows(table=1024)), str(tmp_path))
    for cookie in range(1, 1101):
        take(enricher, records.flow(500, PEER, cookie=cookie))
    assert len(enricher.flows.table.living) == len(enricher.flows.table.by_cookie) == 1024
    assert min(enricher.flows.table.by_cookie) == 77
    assert enricher.counters["flows_forgotten"] == 76


def test_living_flows_are_looked_at_in_turn(box: Enricher) -> None:
    for cookie in range(1, 6):
        take(box, records.flow(500, PEER, cookie=cookie))
    take(box, records.flow(500, PEER, cookie=9, protocol=17))
    assert box.flows.table.due(13 * NS, 60 * NS, 30 * NS, 100) == []
    idle = box.flows.table.due(43 * NS, 60 * NS, 30 * NS, 100)
    assert [flow.cookie for flow in idle] == [9]
    found = [flow.cookie for _ in range(3) for flow in box.flows.table.due(73 * NS, 60 * NS, 30 * NS, 2)]
    assert sorted(found) == [1, 2, 3, 4, 5, 9]


def test_a_sandbox_that_is_over_takes_its_flows_along(box: Enricher) -> None:
    take(box, records.flow(500, PEER))
    take(box, records.payload(500, PEER, b"SSH-2.0-x"))
    box.flows.forget(BOX)
    assert not box.flows.table.living
    assert not box.flows.holding


def test_flows_that_were_only_counted_are_told_without_a_cookie(box: Enricher) -> None:
    (told,) = take(box, records.flow(500, PEER, cookie=0, count=41))
    assert isinstance(told, NetworkFlow)
    assert told.Count == 41
    assert not box.flows.table.living


def test_what_was_told_of_half_a_hello_is_told_again_when_the_rest_comes(box: Enricher) -> None:
    """A pause longer than bytes are held must not hide the name."""
    hello = openssl_hello("late.test", ("h2",))
    take(box, records.flow(500, PEER))
    assert take(box, records.payload(500, PEER, hello[:5])) == [], "a record's head does not say what is in it"
    take(box, records.payload(500, PEER, hello[5:60], offset=5))
    (half,) = box.flows.settle(13 * NS)
    assert isinstance(half, NetworkProtocol)
    assert (half.ApplicationProtocol, half.MessageKind, half.ServerName) == ("tls", "client_hello", "")
    (whole,) = take(box, records.payload(500, PEER, hello[60:], offset=60))
    assert isinstance(whole, NetworkProtocol)
    assert (whole.ServerName, bool(whole.Ja4)) == ("late.test", True)
    assert protocols(take(box, records.flow(500, PEER, phase=2, end=1))) == []


def test_what_was_told_and_got_no_more_is_told_once(box: Enricher) -> None:
    take(box, records.flow(500, PEER))
    take(box, records.payload(500, PEER, b"SSH-2.0-x"))
    assert len(list(box.flows.settle(13 * NS))) == 1
    assert protocols(take(box, records.flow(500, PEER, phase=2, end=1))) == []


def test_bytes_that_nobody_knows_are_given_up_when_no_more_come(box: Enricher) -> None:
    take(box, records.flow(500, PEER))
    take(box, records.payload(500, PEER, bytes((0x91,)) * 1024))
    assert box.counters["protocols_unknown"] == 1
    (flow,) = box.flows.table.living.values()
    assert flow.out is not None and not flow.out.data


def test_flows_that_were_there_before_are_marked(box: Enricher) -> None:
    (told,) = take(box, records.flow(500, PEER, flags=int(FlowFlag.ADOPTED)))
    assert isinstance(told, NetworkFlow)
    assert (told.Existing, told.Initiated) == (True, False)


def test_what_the_kernel_says_nothing_of_any_more_is_let_go(box: Enricher) -> None:
    """A look-up among many is known by its payload alone; the record of an end may be lost."""
    take(box, records.payload(500, RESOLVER, asks("a.test"), port=53, protocol=17, cookie=8))
    take(box, records.flow(500, PEER, cookie=9))
    due = box.flows.table.due
    assert [flow.cookie for flow in due(43 * NS, 60 * NS, 30 * NS, 100)] == [8]
    assert list(box.flows.table.by_cookie) == [9]
    for minute in (1, 2, 3):
        assert [flow.cookie for flow in due((14 + 60 * minute) * NS, 60 * NS, 30 * NS, 100)] == [9]
        assert list(box.flows.table.by_cookie) == [9]
    assert [flow.cookie for flow in due((14 + 60 * 5) * NS, 60 * NS, 30 * NS, 100)] == [9]
    assert not box.flows.table.living
