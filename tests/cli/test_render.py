from __future__ import annotations

import re
from typing import Any

import click
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sensor.cli.render import colours_wanted, compact
from sensor.cli.rendernet import SUBJECTS
from sensor.events.activity import DnsQuery, Flow, NetworkBehavior, NetworkFlow, NetworkListen, NetworkProtocol
from sensor.export import lines
from tests.detect.scene import make
from tests.export import samples

OUT = {"Protocol": "tcp", "Initiated": True, "DestinationIp": "203.0.113.7", "DestinationPort": 443}


def shown(line: bytes, width: int | None = None) -> str:
    return compact(orjson.loads(line), width, colours=False)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (lines.activity_line(samples.process_creation()), "exec     ssh -R 1:localhost:22 host"),
        (
            lines.activity_line(samples.process_creation(ImageMemfd=True, Killed=True)),
            "exec     [killed] [memfd] ssh -R",
        ),
        (lines.activity_line(samples.process_creation(CommandLine="")), "exec     /usr/bin/ssh"),
        (lines.activity_line(samples.network_connection()), "connect  ssh → tcp 203.0.113.7:443"),
        (
            lines.activity_line(samples.network_connection(DestinationIp="fd00::1", Verdict="refused", Count=7)),
            "connect  ssh → tcp [fd00::1]:443 refused ×7",
        ),
        (
            lines.activity_line(samples.network_connection(Protocol="unix", DestinationPath="/run/docker.sock")),
            "connect  ssh → unix /run/docker.sock",
        ),
        (lines.activity_line(samples.network_connection(Initiated=False)), "connect  ssh accepts tcp"),
        (lines.activity_line(samples.device_access()), "device   ssh opens nvidia 195:255 read,write refused ×3"),
        (lines.activity_line(samples.process_termination()), "exit     ssh signal 9"),
        (lines.detection_line(samples.detection()), "HIGH     Reverse SSH tunnel: ssh -R 1:localhost:22 host"),
        (
            lines.response_line(samples.response(outcome="done", latency_ns=1_500_000), (1, "agent-1")),
            "kill     kill: done, 2 processes, after 1.5 ms",
        ),
        (lines.sandbox_line(samples.sandbox_change()), "born     pinfold/agent-1 (default)"),
        (lines.notice_line(0, "events were lost", {"count": 3}), "notice   events were lost count=3"),
    ],
)
def test_each_kind_of_line_says_what_happened(line: bytes, expected: str) -> None:
    assert shown(line)[28:].startswith(expected)


def flow(**fields: Any) -> NetworkFlow:
    return make(NetworkFlow, **(samples.COMMON | OUT | {"Phase": "ended", "EndReason": "closed"} | fields))


def protocol(**fields: Any) -> NetworkProtocol:
    return make(NetworkProtocol, **(samples.COMMON | OUT | {"Certain": True} | fields))


def dns(**fields: Any) -> DnsQuery:
    asked = {"Protocol": "udp", "DestinationIp": "203.0.113.53", "DestinationPort": 53, "QueryType": "A"}
    return make(DnsQuery, **(samples.COMMON | OUT | asked | {"QueryName": "files.test"} | fields))


def behavior(**fields: Any) -> NetworkBehavior:
    where = {name: value for name, value in OUT.items() if name != "Initiated"}
    return make(NetworkBehavior, **(samples.COMMON | where | fields))


@pytest.mark.parametrize(
    ("activity", "expected"),
    [
        (
            flow(BytesOut=512, BytesIn=3_400_000, DurationMs=12_300),
            "flow     ssh → tcp 203.0.113.7:443 ↑512 ↓3.4M ends 12 s",
        ),
        (
            flow(Phase="established", EndReason="", Count=64),
            "flow     ssh → tcp 203.0.113.7:443 begins ×64",
        ),
        (
            flow(Phase="sample", EndReason="", BytesOut=1, DurationMs=7_300_000),
            "flow     ssh → tcp 203.0.113.7:443 ↑1 ↓0 lives 2 h",
        ),
        (
            flow(EndReason="evicted", DurationMs=300_000),
            "flow     ssh → tcp 203.0.113.7:443 ends, evicted 5 min",
        ),
        (
            flow(Phase="sample", EndReason="cut", BytesOut=3, DurationMs=20),
            "flow     ssh → tcp 203.0.113.7:443 ↑3 ↓0 cut 0.0 s",
        ),
        (
            flow(Initiated=False, DestinationIp="fd00::1", DestinationPort=5000, BytesIn=999_500, BytesOut=99_500),
            "flow     ssh accepts tcp [fd00::1]:5000 ↑100k ↓1.0M ends",
        ),
        (flow(Initiated=False, Existing=True), "flow     ssh with tcp 203.0.113.7:443 ends"),
        (
            flow(Protocol="icmp", DestinationPort=0, BytesOut=84),
            "flow     ssh → icmp 203.0.113.7 ↑84 ↓0 ends",
        ),
        (
            flow(DestinationHostname="files.test", HostnameTrusted=True),
            "flow     ssh → tcp files.test:443 ends",
        ),
        (
            flow(DestinationHostname="claimed.test", HostnameTrusted=False),
            "flow     ssh → tcp 203.0.113.7:443 ends (claimed.test)",
        ),
        (
            protocol(ApplicationProtocol="ssh", FromSandbox=True, Software="OpenSSH_9.2p1"),
            "protocol ssh sent OpenSSH_9.2p1: ssh → 203.0.113.7:443",
        ),
        (
            protocol(ApplicationProtocol="tls", ProtocolRole="client", ServerName="x.test", ServerNameUnresolved=True,
                     Alpn="h2"),
            "protocol tls client x.test: ssh → 203.0.113.7:443 (not looked up) h2",
        ),
        (
            protocol(ApplicationProtocol="http", ProtocolRole="client", Method="GET", ServerName="x.test", Path="/a"),
            "protocol http client x.test: ssh → 203.0.113.7:443 GET /a",
        ),
        (
            protocol(ApplicationProtocol="stratum", ProtocolRole="client", Denied=True, Dialect="monero"),
            "protocol denied stratum client monero: ssh → 203.0.113.7:443",
        ),
        (
            protocol(ApplicationProtocol="tls", ProtocolRole="client", ServerName="a-name-of-some-length.files.test"),
            "protocol tls client: ssh → 203.0.113.7:443 a-name-of-some-length.files.test",
        ),
        (
            protocol(ApplicationProtocol="stratum2", Certain=False),
            "protocol stratum2? received: ssh → 203.0.113.7:443",
        ),
        (dns(), "dns      ssh asks A files.test of 203.0.113.53:53"),
        (
            dns(Answered=True, QueryStatus="NOERROR", QueryResults="203.0.113.7;203.0.113.8"),
            "dns      ssh is told A files.test = 203.0.113.7;203.0.113.8",
        ),
        (dns(Answered=True, QueryStatus="NXDOMAIN"), "dns      ssh is told A files.test = NXDOMAIN"),
        (dns(Answered=True, QueryStatus="NOERROR"), "dns      ssh is told A files.test = nothing"),
        (dns(Initiated=False), "dns      ssh is asked A files.test by 203.0.113.53:53"),
        (dns(Initiated=False, Answered=True, QueryStatus="REFUSED"), "dns      ssh tells A files.test = REFUSED"),
        (
            make(NetworkListen, **(samples.COMMON | {"Protocol": "tcp", "SourceIp": "127.0.0.1", "SourcePort": 80})),
            "listen   ssh listens on tcp 127.0.0.1:80",
        ),
        (
            make(NetworkListen, **(samples.COMMON | {"Protocol": "udp", "SourcePort": 53, "SourceIsAny": True})),
            "listen   ssh listens on udp *:53",
        ),
        (
            behavior(Behavior="relay", Score=85, Inner="127.0.0.1:22", ScoreParts="dial=15 conservation=45"),
            "behavior relay 85: ssh → 203.0.113.7:443 to 127.0.0.1:22, dial=15 conservation=45",
        ),
        (
            behavior(Behavior="reverse_shell", Score=90, Inner="pty", ScoreParts="streams=60"),
            "behavior reverse_shell 90: ssh → 203.0.113.7:443 by pty, streams=60",
        ),
        (
            behavior(Behavior="beacon", Score=60, PeriodMs=30_000),
            "behavior beacon 60: ssh → 203.0.113.7:443 each 30 s",
        ),
        (
            behavior(Behavior="fan_out", Score=75, DistinctDestinations=512, DistinctPorts=1),
            "behavior fan_out 75: ssh → 203.0.113.7:443 512 hosts",
        ),
        (
            behavior(Behavior="mining_session", Score=90, ApplicationProtocol="stratum", CpuPercent=93),
            "behavior mining_session 90: ssh → 203.0.113.7:443 in stratum CPU 93 %",
        ),
        (
            behavior(Behavior="dns_tunnel", Score=80, DestinationIp="", DestinationPort=0, Domain="t.test"),
            "behavior dns_tunnel 80: ssh → t.test",
        ),
        (
            behavior(Behavior="tun_flow", Score=60, DestinationHostname="vpn.test", ScoreParts="tun=40 same=20"),
            "behavior tun_flow 60: ssh → 203.0.113.7:443, tun=40 same=20 (vpn.test)",
        ),
    ],
)  # fmt: skip
def test_flows_names_and_behaviours_are_one_line_each(
    activity: Flow | NetworkListen | NetworkBehavior, expected: str
) -> None:
    line = lines.activity_line(activity)  # type: ignore[arg-type]
    assert shown(line)[28:] == expected
    assert cell_len(shown(line, 80)) <= 80
    assert shown(line, 80)[:70] == shown(line)[:70]  # what is cut, is cut at the end


def test_a_detection_of_a_behaviour_shows_its_score() -> None:
    relay = behavior(Behavior="relay", Score=85, Inner="127.0.0.1:22")
    line = lines.detection_line(samples.detection(relay, rule_title="Relay", level="high"))
    assert shown(line)[28:] == "HIGH     Relay: relay 85: ssh → 203.0.113.7:443 to 127.0.0.1:22"


@pytest.mark.parametrize("category", SUBJECTS)
def test_what_a_sandbox_wrote_into_any_field_is_escaped(category: str) -> None:
    """Server names, paths, users, names asked for: all come from its packets."""
    kinds = {kind.category: kind for kind in (NetworkFlow, NetworkProtocol, DnsQuery, NetworkListen, NetworkBehavior)}
    texts = {name: "\x1b[2J\n\u202e" for name in kinds[category].__struct_fields__ if name not in samples.COMMON}
    record = {"kind": "event", "category": category, "time": "2026-01-01T00:00:00Z", **texts, "Image": "/x/\x1bsh"}
    line = compact(record, None, colours=False)
    assert line.isprintable()
    assert "\\x1bsh" in line
    assert "\\x1b[2J" in line


def test_a_line_begins_with_its_time_and_sandbox() -> None:
    assert shown(lines.activity_line(samples.process_creation())).startswith("22:13:20.000 agent-1        exec ")


def test_hostile_text_stays_in_its_line() -> None:
    hostile = samples.process_creation(
        CommandLine="\x1b[2Ka\n12:00 fake\u202e", SandboxName="\x1b]0;x\x07漢漢漢漢漢漢漢"
    )
    line = shown(lines.activity_line(hostile), 80)
    assert line.isprintable()
    assert cell_len(line) <= 80
    assert "exec     \\x1b[2Ka\\x0a12:00 fake" in line


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    [
        "time", "kind", "category", "rule", "SandboxName", "CommandLine", "Image", "targets", "latency_ns", "fields",
        "Count", "Verdict", "Protocol", "DestinationIp", "ExitSignal", "change", "action", "Phase", "EndReason",
        "BytesOut", "BytesIn", "DurationMs", "Behavior", "Score", "PeriodMs", "ScoreParts", "QueryName", "ServerName",
    ]
)  # fmt: skip
known = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["event", "detection", "response", "sandbox", "notice"]) | json_values,
        "category": st.sampled_from(["process_creation", "network_connection", "device_access", *SUBJECTS])
        | json_values,
    }
)


@given(known, st.dictionaries(names, json_values), st.booleans())
def test_no_record_however_damaged_breaks_the_view(base: dict[str, Any], more: dict[str, Any], colours: bool) -> None:
    line = compact(base | more, 80, colours)
    plain = click.unstyle(line)
    assert plain.isprintable()
    assert cell_len(plain) <= 80
    assert re.sub(r"\x1b\[[0-9;]*m", "", line) == plain


@pytest.mark.parametrize(
    ("terminal", "environment", "wanted"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environment: dict[str, str], wanted: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colours_wanted(terminal) is wanted
