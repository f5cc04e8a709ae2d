"""A policy out of what was seen: it loads, its examples pass, it allows what was seen, and nothing of a sandbox's own
words becomes a setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensor.config import Config, load
from sensor.confignetwork import EgressEntry
from sensor.errors import UsageError
from sensor.respond import policytest, questions
from sensor.respond.explain import explain
from sensor.respond.suggest import MOST_ENTRIES, suggest


def line(kind: str = "event", **fields: Any) -> bytes:
    return json.dumps({"v": 1, "kind": kind, "SandboxName": "box", "SandboxId": 7} | fields).encode()


def connect(to: str, port: int, protocol: str = "tcp", **fields: Any) -> bytes:
    given: dict[str, Any] = {
        "Protocol": protocol,
        "DestinationIp": to,
        "DestinationPort": port,
        "Initiated": True,
        "Verdict": "allowed",
    }
    return line(category="network_connection", **(given | fields))


def flow(to: str, name: str, *, trusted: bool = True, port: int = 443) -> bytes:
    return line(
        category="network_flow", Phase="established", Initiated=True, Protocol="tcp", DestinationIp=to,
        DestinationPort=port, DestinationHostname=name, HostnameTrusted=trusted,
    )  # fmt: skip


def device(name: str, major: int, minor: int, kind: str = "char", **fields: Any) -> bytes:
    given: dict[str, Any] = {
        "DeviceClass": name,
        "DeviceType": kind,
        "DeviceMajor": major,
        "DeviceMinor": minor,
        "Verdict": "allowed",
    }
    return line(category="device_access", **(given | fields))


RESOLVER = line(category="dns_query", Resolver=True, DestinationIp="10.0.0.53", QueryName="a.org")


class Suggested:
    def __init__(self, folder: Path, *lines: bytes) -> None:
        self.text = suggest(lines, "box", "seen")
        self.file = folder / "suggested.yaml"
        self.file.write_text(self.text)
        self.config: Config = load(str(self.file))
        self.class_ = self.config.classes["seen"]
        outcomes = policytest.run(self.config, str(self.file))
        assert [each for each in outcomes if not each.passed] == []
        self.examples = len(outcomes)

    def allows(self, to: str, port: int, protocol: str = "tcp") -> bool:
        host = f"[{to}]" if ":" in to else to
        question = questions.connect(f"{host}/icmp" if protocol == "icmp" else f"{host}:{port}/{protocol}")
        return explain(self.config, "seen", question).verdict == "allowed"

    @property
    def listed(self) -> tuple[EgressEntry, ...]:
        return self.class_.egress.allow


def test_destinations_with_their_ports(tmp_path: Path) -> None:
    made = Suggested(
        tmp_path, connect("192.0.2.1", 443, Count=5), connect("192.0.2.1", 8080), connect("192.0.2.1", 53, "udp"),
        connect("2001:db8::1", 22), connect("192.0.2.2", 0, "icmp"),
        connect("127.0.0.1", 80, DestinationIsLoopback=True),
    )  # fmt: skip
    assert made.listed == (
        EgressEntry("192.0.2.1", (443, 8080), "tcp"),
        EgressEntry("192.0.2.1", (53,), "udp"),
        EgressEntry("2001:db8::1", (22,), "tcp"),
        EgressEntry("192.0.2.2", (), "icmp"),
    )
    assert made.class_.mode == "monitor"
    assert "# 6 times" in made.text
    assert made.examples == 4
    assert not made.allows("192.0.2.1", 81) and not made.allows("192.0.2.3", 443)


def test_names_are_those_of_configured_resolvers(tmp_path: Path) -> None:
    lines = [
        connect("203.0.113.5", 443), flow("203.0.113.5", "a.example.org"),
        connect("203.0.113.6", 443), flow("203.0.113.6", "a.example.org"),
        connect("203.0.113.7", 443), flow("203.0.113.7", "github.com", trusted=False),
    ]  # fmt: skip
    made = Suggested(tmp_path, RESOLVER, *lines)
    assert made.config.dns.resolvers == ("10.0.0.53",)
    assert {entry.to for entry in made.listed} == {"a.example.org", "203.0.113.7"}
    without = Suggested(tmp_path, *lines)
    assert {entry.to for entry in without.listed} == {"203.0.113.5", "203.0.113.6", "203.0.113.7"}


def test_neighbours_become_their_network_only_where_there_are_many(tmp_path: Path) -> None:
    many = [connect(f"10.1.2.{number}", 443) for number in range(1, 10)]
    few = [connect(f"10.1.3.{number}", 443) for number in range(1, 8)]
    other = [connect(f"10.1.2.{number}", 22) for number in range(20, 23)]
    six = [connect(f"2001:db8::{number:x}", 443) for number in range(1, 9)]
    made = Suggested(tmp_path, *many, *few, *other, *six)
    networks = [entry.to for entry in made.listed if "/" in entry.to]
    assert networks == ["10.1.2.0/24", "2001:db8:0:0:0:0:0:0/64"]
    assert "9 addresses" in made.text
    assert made.allows("10.1.2.200", 443) and not made.allows("10.1.2.200", 22) and not made.allows("10.1.3.200", 443)


def test_many_ports_become_ranges_or_all(tmp_path: Path) -> None:
    row = Suggested(tmp_path, *(connect("192.0.2.1", port) for port in range(8000, 8050)))
    assert row.listed == (EgressEntry("192.0.2.1", ("8000-8049",), "tcp"),)
    scattered = Suggested(tmp_path, *(connect("192.0.2.1", port) for port in range(8000, 8100, 10)))
    assert scattered.listed == (EgressEntry("192.0.2.1", (), "tcp"),)


def test_devices_single_gpus_first(tmp_path: Path) -> None:
    made = Suggested(
        tmp_path, device("nvidia", 195, 3, Count=7), device("nvidia", 195, 255), device("nvidia", 511, 0),
        device("drm", 226, 128), device("kvm", 10, 232), device("ordinary", 1, 3), device("block", 8, 0, "block"),
    )  # fmt: skip
    assert made.class_.granted_devices == ("block", "kvm", "drm:128", "nvidia:3")
    assert '"char 195:3 of class nvidia": 7' in made.text
    whole = Suggested(tmp_path, *(device("nvidia", 195, minor) for minor in range(9)))
    assert whole.class_.granted_devices == ("nvidia",)
    control = Suggested(tmp_path, device("nvidia", 195, 255))
    assert control.class_.granted_devices == () and "of which none was opened" in control.text


def test_what_was_refused_is_told_and_not_allowed(tmp_path: Path) -> None:
    made = Suggested(
        tmp_path, connect("192.0.2.1", 443, Verdict="egress", Count=3),
        connect("192.0.2.2", 443, Verdict="would_egress"),
        device("nvidia", 195, 0, Verdict="refused"), device("kvm", 10, 232, Verdict="would_refuse"),
    )  # fmt: skip
    assert [entry.to for entry in made.listed] == ["192.0.2.2"]
    assert made.class_.granted_devices == ("kvm",)
    assert '"tcp to 192.0.2.1 port 443": 3' in made.text


def test_protocols_programs_and_detections(tmp_path: Path) -> None:
    quiet = Suggested(tmp_path, connect("192.0.2.1", 443)).class_
    assert quiet.denied_protocols == ("ssh", "stratum", "socks", "wireguard", "bore", "http-connect")
    assert (quiet.denied_executables.memfd, quiet.denied_executables.deleted, quiet.shells_on_sockets) == (
        True,
        True,
        "deny",
    )
    made = Suggested(
        tmp_path,
        line(category="network_protocol", ApplicationProtocol="ssh"),
        line(category="network_protocol", ApplicationProtocol="http", Method="CONNECT"),
        line(category="process_creation", Image="/bin/bash", StandardInput="socket", ImageMemfd=True),
        line("detection", rule={"title": "Reverse\x1b[2J\nshell", "level": "critical"}),
    )  # fmt: skip
    assert made.class_.denied_protocols == ("stratum", "socks", "wireguard", "bore")
    assert (made.class_.denied_executables.memfd, made.class_.shells_on_sockets) == (False, "allow")
    assert '"critical: Reverse\\u001b[2J\\nshell": 1' in made.text


def test_others_lines_and_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    made = Suggested(
        tmp_path, connect("192.0.2.1", 443), connect("192.0.2.9", 443, SandboxName="other", SandboxId=8),
        b"{", b"[]", b"1", b"\xff", b"[" * 10000, line(category="network_connection"), line(category=7), line("7"),
        connect("x", -1), line(category="__init__"), line("__init__"), line(category="network_flow", Initiated=1),
    )  # fmt: skip
    assert [entry.to for entry in made.listed] == ["192.0.2.1"]
    assert "# 3 lines could not be read" in made.text
    assert suggest([connect("192.0.2.1", 443)], "7", "seen"), "by its id"


def test_nothing_seen_and_no_class_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing of a sandbox 'x"):
        suggest([connect("192.0.2.1", 443)], "x\n", "seen")
    with pytest.raises(UsageError, match="class: expected"):
        suggest([connect("192.0.2.1", 443)], "box", "a: b")


def test_more_than_fits_is_left_out_and_said(tmp_path: Path) -> None:
    lines = [
        connect(f"10.{number // 256}.{number % 256}.1", 443, Count=number) for number in range(1, MOST_ENTRIES + 51)
    ]
    made = Suggested(tmp_path, *lines)
    assert len(made.listed) == MOST_ENTRIES
    assert "# 50 further destinations are left out" in made.text
    assert not made.allows("10.0.1.1", 443) and made.allows("10.1.50.1", 443)


_addresses = st.sampled_from([*(f"10.1.2.{number}" for number in range(12)), "192.0.2.1", "203.0.113.1", "2001:db8::1",
                              "::ffff:10.9.9.9", "10.1.0.0"])  # fmt: skip
_connects = st.builds(
    connect, _addresses, st.integers(1, 65535) | st.sampled_from([22, 443]), st.sampled_from(["tcp", "udp"])
)
_flows = st.builds(
    flow, _addresses, st.sampled_from([f"n{number}.example.org" for number in range(12)]), trusted=st.booleans(),
    port=st.integers(1, 65535),
)  # fmt: skip


@given(st.lists(_connects | _flows | st.just(RESOLVER), min_size=1, max_size=60))
def test_all_that_was_seen_is_allowed_and_its_own_examples_pass(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    made = Suggested(tmp_path_factory.getbasetemp(), *lines)
    seen = list(map(json.loads, lines))
    names = {
        one["DestinationIp"]: one["DestinationHostname"]
        for one in seen
        if one["category"] == "network_flow" and one["HostnameTrusted"] and RESOLVER in lines
    }
    for each in seen:
        if each["category"] != "dns_query":
            protocol, port = each["Protocol"], each["DestinationPort"]
            assert made.allows(names.get(each["DestinationIp"], each["DestinationIp"]), port, protocol), made.text


_hostile = st.text(max_size=40) | st.integers() | st.none() | st.lists(st.integers(), max_size=2) | st.booleans()
_keys = st.sampled_from(
    ["category", "DestinationIp", "DestinationPort", "DestinationHostname", "Protocol", "Verdict", "DeviceClass",
     "Count", "DeviceMajor", "DeviceMinor", "ApplicationProtocol", "Method", "rule", "Image", "StandardInput",
     "Resolver", "Phase", "HostnameTrusted", "Initiated"]
)  # fmt: skip
_categories = st.sampled_from(
    ["network_connection", "network_flow", "device_access", "network_protocol", "dns_query", "process_creation"]
)


@given(st.lists(st.tuples(_categories, st.dictionaries(_keys, _hostile)), min_size=1, max_size=8), st.text(max_size=20))
def test_whatever_a_sandbox_writes_it_sets_nothing(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, dict[str, Any]]], title: str
) -> None:
    lines = [line(**({"category": category} | fields)) for category, fields in records]
    text = suggest([*lines, line("detection", rule={"title": title, "level": title})], "box", "seen")
    assert text.isascii() and all(one.isprintable() for one in text.split("\n"))
    file = tmp_path_factory.getbasetemp() / "hostile.yaml"
    file.write_text(text)
    settings = load(str(file))
    assert set(yaml.safe_load(text)) <= {"dns", "classes", "examples"}
    assert set(settings.classes) == {"default", "seen"}
    assert all(each.passed for each in policytest.run(settings, str(file)))
