"""The index must never lose a match, and no text must raise, stall or fill up."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.events.activity import SandboxChange
from sensor.rules import compile as compiler
from sensor.rules import index, runtime
from sensor.rules.engine import Engine
from sensor.rules.files import rule_files
from sensor.rules.ruleset import load
from sensor.rules.testing import activity, examples_of
from tests.rules.helpers import build, rule_text

WORDS = ["ssh", "-R", "/bin/", "stratum", "a", "é", "ΟΔΟΣ", "ς", "ß", "K", "0"]
TEXT = st.lists(st.sampled_from([*WORDS, " ", "SSH", "ab", "\n", "\0", "İ", "\N{KELVIN SIGN}", "\ufffd"]), max_size=6)
FIELDS = ["Image", "CommandLine", "ParentImage", "User"]


@st.composite
def items(draw: st.DrawFn) -> tuple[str, Any]:
    """One detection item: a field with modifiers, and its values."""
    field = draw(st.sampled_from(FIELDS))
    shape = draw(st.sampled_from(["", "|contains", "|startswith", "|endswith", "|contains|all", "|contains|cased"]))
    values = draw(st.lists(st.sampled_from([*WORDS, "/ssh", "s*h", "?", "-R*-R", "ss"]), min_size=1, max_size=3))
    special: dict[str, Any] = {
        "null": (field, None),
        "re": (f"{field}|re|i", ["s{2}h", "^(ssh|a)", "st.*tum|K-?R", "(?:ab)+c?", "stratu?m$"]),
        "number": ("ProcessId", [1, 2]),
        "less": ("ProcessId|lt", 2),
        "flag": ("ImageMemfd", draw(st.booleans())),
        "reference": ("Image|fieldref|endswith", "User"),
    }
    kind = draw(st.sampled_from(["text", "text", "text", *special]))
    return special[kind] if kind in special else (field + shape, values)


@st.composite
def rules(draw: st.DrawFn) -> str:
    names = ["sa", "sb", "f"]
    parts = {name: dict(draw(st.lists(items(), min_size=1, max_size=2))) for name in names}
    conditions = ["sa", "sa and sb", "sa or sb", "sa and not f", "1 of s*", "not sa", "not (sa or f)", "sb or not f"]
    detection = {**parts, "condition": draw(st.sampled_from([*conditions, "all of them", "(sa or sb) and not f"]))}
    return rule_text(msgspec.json.encode(detection).decode(), rule_id=str(draw(st.uuids())))


EVENTS = st.fixed_dictionaries(
    {name: TEXT.map("".join) for name in FIELDS} | {"ProcessId": st.integers(0, 3), "ImageMemfd": st.booleans()}
)


@settings(max_examples=150)
@given(texts=st.lists(rules(), min_size=1, max_size=6), events=st.lists(EVENTS, min_size=5, max_size=20))
def test_the_index_never_changes_a_result(texts: list[str], events: list[dict[str, Any]]) -> None:
    ruleset = build(*texts)
    assert all("is also that of" in line for line in ruleset.refused)
    indexed, plain = Engine(ruleset), Engine(ruleset, prefilter=False)
    for event in events:
        what = activity("process_creation", event)
        assert indexed.match(what) == plain.match(what), event
    assert indexed.hits == plain.hits
    assert not indexed.errors
    assert not indexed.index_errors


MANY = [
    rule_text("s:\n  CommandLine|contains: [stratum+tcp, xmrig]\n  Image|endswith: /miner\ncondition: s"),
    rule_text("s:\n  CommandLine|re: '(a+)+$'\nt:\n  CommandLine: 'x*y*z*w?'\ncondition: 1 of them"),
    rule_text("s:\n  ParentImage|contains: needle\ncondition: s"),
]


@settings(max_examples=60)
@given(text=st.text(max_size=300), repeat=st.integers(1, 20))
def test_no_text_raises(text: str, repeat: int) -> None:
    ruleset = build(*MANY)
    engine, plain = Engine(ruleset), Engine(ruleset, prefilter=False)
    event = activity("process_creation", dict.fromkeys(FIELDS, text * repeat))
    assert engine.match(event) == plain.match(event)
    assert not engine.errors
    assert not engine.index_errors


@pytest.mark.parametrize("text", ["a" * 4096 + "!", "x" * 2048 + "y" * 2048, "\ud800stratum+tcp", "\0" * 4096])
def test_hostile_text_gives_an_answer_and_no_error(text: str) -> None:
    engine = Engine(build(*MANY))
    event = activity("process_creation", {"CommandLine": text, "Image": "/miner", "ParentImage": text})
    assert [r.title for r in engine.match(event)] == (["a rule"] if "stratum" in text else [])
    assert not engine.errors


def test_an_index_remembers_a_bounded_amount_of_text() -> None:
    index = runtime.FieldIndex(names={"x": 1}, literals={b"needle": 2})
    for number in range(3000):
        assert index[f"/{number}{'-' * 400}"] == 0
        assert sum(map(len, index)) <= runtime.REMEMBERED_CHARACTERS
    assert index["/opt/NEEDLE/x"] == 3


def test_a_rule_that_raises_is_counted_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    ruleset = build(*[rule_text("s:\n  Image: /x\ncondition: s") for _ in range(3)])
    code = compiler.code("def rule(a):\n    raise ValueError('x')\n", "x")
    first, second, third = ruleset.compiled
    broken = msgspec.structs.replace(second, code=code)
    engine = Engine(msgspec.structs.replace(ruleset, compiled=(first, broken, third)))
    event = activity("process_creation", {"Image": "/x"})
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            assert engine.match(event) == (ruleset.rules[0], ruleset.rules[2])
    assert engine.errors == {ruleset.rules[1].id: 5}
    assert len(caplog.records) == 1
    assert engine.hits == {ruleset.rules[0].id: 5, ruleset.rules[1].id: 0, ruleset.rules[2].id: 5}


def test_an_index_that_raises_loses_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    ruleset = build(rule_text("s:\n  Image: /x\ncondition: s"))
    monkeypatch.setattr(index, "finder", lambda *_: lambda _: 1 / 0)
    engine = Engine(ruleset)
    assert engine.match(activity("process_creation", {"Image": "/x"})) == ruleset.rules
    assert engine.index_errors == 1


def test_rules_that_cannot_be_indexed_are_named_and_still_match() -> None:
    ruleset = build(
        rule_text("s:\n  ProcessId|gt: 5\ncondition: s", rule_id="00000000-0000-4000-8000-000000000001"),
        rule_text("s:\n  Image: /x\n  ProcessId|gt: 5\ncondition: s"),
    )
    assert ruleset.unindexed == ("00000000-0000-4000-8000-000000000001",)
    engine = Engine(ruleset)
    assert len(engine.match(activity("process_creation", {"ProcessId": 6}))) == 1
    assert len(engine.match(activity("process_creation", {"ProcessId": 6, "Image": "/X"}))) == 2


def test_thousands_of_literals_are_all_found() -> None:
    masks = {f"literal-{number:x}-{'x' * (number % 9)}".encode(): 1 << number for number in range(6000)}
    find = runtime.Literals(masks).find
    for literal, bits in list(masks.items())[::97]:
        assert find(f"{'y' * 500} {literal.decode().upper()} {'z' * 500}") & bits
    everything = " ".join(literal.decode() for literal in masks)
    assert find(everything) == (1 << len(masks)) - 1


FOLDERS = ["/usr/bin", "/tmp", "/dev/shm/x", "/home/u/.cache"]
CONNECTIONS: dict[str, list[Any]] = {
    "DestinationIp": ["", "127.0.0.1", "10.1.2.3", "203.0.113.9", "169.254.169.254", "fd00:ec2::254", "2001:db8::1"],
    "DestinationPort": [0, 22, 53, 80, 443, 1080, 2375, 3333, 4444, 7844, 9050, 51820],
    "DestinationHostname": ["", "pool.supportxmr.com", "www.nicehash.com", "x.ngrok-agent.com", "pypi.org"],
    "DestinationPath": ["", "/run/docker.sock", "/run/systemd/private", "/run/pinfold/api.sock", "/tmp/x.sock"],
    "DestinationIsLoopback": [True, False],
    "DestinationIsPrivate": [True, False],
    "Protocol": ["tcp", "udp", "unix", "icmp"],
    "Initiated": [True, True, False],
    "Verdict": ["allowed", "refused", "protected"],
}
ATTEMPTS: dict[str, list[Any]] = {
    "DeviceClass": ["nvidia", "amd", "drm", "kvm", "tun", "fuse", "memory", "block", "vfio", "infiniband", "other"],
    "DeviceMajor": [1, 7, 10, 195, 202, 203],
    "DeviceMinor": [0, 1, 11],
    "Access": ["read", "write", "read,write", "mknod"],
    "Granted": [True, False],
    "GpuGranted": [True, False],
    "Count": [1, 300],
}
WHERE = {name: values for name, values in CONNECTIONS.items() if name not in ("DestinationPath", "Verdict")}
FLOWS: dict[str, list[Any]] = WHERE | {
    "Protocol": ["tcp", "udp", "icmp", "ip:47"],
    "Phase": ["established", "sample", "ended"],
    "EndReason": ["", "closed", "cut"],
    "DurationMs": [0, 900_000, 7_200_000],
    "BytesOut": [100, 20_000, 2 << 20, 2 << 30],
    "BytesIn": [100, 2 << 20],
    "Inversions": [0, 50],
}
FIRST_BYTES: dict[str, list[Any]] = WHERE | {
    "ApplicationProtocol": ["ssh", "tls", "quic", "http", "socks", "stratum", "wireguard", "frp", "yamux", "shell"],
    "FromSandbox": [True, True, False],
    "ProtocolRole": ["client", "server", ""],
    "MessageKind": ["banner", "client_hello", "request", "handshake", "prompt", "keepalive"],
    "Software": ["", "OpenSSH_9.2", "paramiko_3.4.0", "PuTTY_Release_0.80", "XMRig/6.21.0"],
    "ServerName": ["", "bore.pub", "x.loca.lt", "pool.supportxmr.com", "0x0.st", "dns.google", "169.254.169.254"],
    "Alpn": ["", "h2,http/1.1", "frp"],
    "Dialect": ["", "bitcoin", "monero", "tor-like"],
    "Method": ["GET", "CONNECT", "login"],
    "Path": ["/", "/latest/meta-data/iam", "/api"],
    "Certain": [True, False],
    "Denied": [False, False, True],
}
QUESTIONS: dict[str, list[Any]] = WHERE | {
    "QueryName": [
        "pypi.org",
        "bore.pub",
        "x.nicehash.com",
        "0x0.st",
        "a.onion",
        f"{'a' * 60}.{'b' * 50}.t.org",
        "\\001\\002.org",
    ],
    "QueryType": ["A", "TXT", "NULL", "AXFR"],
    "QueryResults": ["", "169.254.169.254", "203.0.113.9"],
    "Answered": [True, False],
}
LISTENERS: dict[str, list[Any]] = {
    "Protocol": ["tcp", "udp"],
    "SourcePort": [22, 1080, 4028, 4444, 7000, 51820],
    "SourceIsLoopback": [True, False],
    "Image": ["/usr/bin/ssh", "/usr/bin/nc", "/usr/bin/node"],
}
BEHAVIORS: dict[str, list[Any]] = {name: WHERE[name] for name in WHERE if name != "Initiated"} | {
    "Behavior": [
        "relay",
        "reverse_shell",
        "beacon",
        "mining_session",
        "fan_out",
        "idle_tunnel",
        "tun_flow",
        "dns_tunnel",
    ],
    "Score": [0, 35, 45, 55, 65, 90],
    "ApplicationProtocol": ["", "ssh", "tls"],
    "Inner": ["", "socket", "pipe"],
    "InnerPort": [0, 22, 8000],
    "GpuHeld": [True, False],
}
MIGRATIONS: dict[str, list[Any]] = {
    "Direction": ["left", "entered"],
    "Way": ["moved", "cloned"],
    "MoverSandboxed": [True, False],
    "MoverImage": ["", "/usr/bin/bash"],
}
ACCESSES: dict[str, list[Any]] = {
    "Attempt": ["signal", "bpf", "perfmon", "trace"],
    "Signal": [0, 9, 19],
    "Target": ["", "core", "api"],
    "Refused": [True, False],
}
FILES: dict[str, list[Any]] = {
    "TargetFilename": ["/etc/passwd", "/root/.ssh/authorized_keys", "/etc/cron.d/x", "/tmp/a", "/usr/bin/ls"],
    "SourceFilename": ["", "/etc/shadow", "/tmp/b"],
    "Place": ["sandbox", "host"],
}
CALLS: dict[str, list[Any]] = {
    "SystemCall": ["ptrace", "mount", "unshare", "setns", "socket", "finit_module", "kill"],
    "Action": ["trace", "mount", "namespace", "module", "packet_socket", "raw_socket", "signal"],
    "Granted": [True, False],
    "HostUserNamespace": [True, False],
    "TargetInSandbox": [True, False],
    "BroughtAlong": [True, False],
    "Signal": [0, 9, 19],
}
FIELDS_OF = {
    "network_connection": CONNECTIONS,
    "device_access": ATTEMPTS,
    "network_flow": FLOWS,
    "network_protocol": FIRST_BYTES,
    "dns_query": QUESTIONS,
    "network_listen": LISTENERS,
    "network_behavior": BEHAVIORS,
    "process_migration": MIGRATIONS,
    "sensor_access": ACCESSES,
    "file_event": FILES,
    "file_access": FILES,
    "file_rename": FILES,
    "file_delete": FILES,
    "file_change": FILES,
    "system_call": CALLS,
}


def test_the_catalogue_is_matched_the_same_without_its_index() -> None:
    ruleset = load([Path(__file__).parents[2] / "rules"], None)
    indexed, plain = Engine(ruleset), Engine(ruleset, prefilter=False)
    examples: dict[str, list[Any]] = {}
    for file in rule_files([Path(__file__).parents[2] / "rules"]):
        for known in examples_of(file):
            examples.setdefault(known.category, []).append(known)
    words = sorted(set(re.findall(r"[\w./:@=+-]{1,24}", ruleset.source)))
    chosen = random.Random(7)  # noqa: S311
    for _ in range(600):
        text = chosen.choice([" ", "  ", "\t", " '"]).join(chosen.choices(words, k=chosen.randrange(1, 25)))
        event = {"CommandLine": text, "Image": f"{chosen.choice(FOLDERS)}/{chosen.choice(words)}"}
        more: dict[str, Any] = {"ImageInvoked": text[:40]}
        for category in ("process_creation", *FIELDS_OF):
            if category in FIELDS_OF:
                more = {name: chosen.choice(values) for name, values in FIELDS_OF[category].items()}
            what = activity(category, event | more)
            assert indexed.match(what) == plain.match(what), event | more
            what = chosen.choice(examples[category])
            assert indexed.match(what) == plain.match(what), what
    assert [indexed.errors, indexed.index_errors, plain.errors] == [{}, 0, {}]
    of_category = {rule.category: 0 for rule in ruleset.rules}
    for rule in ruleset.rules:
        of_category[rule.category] += indexed.hits[rule.id]
    assert min(of_category.values()) > 100


def test_what_no_category_covers_matches_nothing() -> None:
    change = SandboxChange(1, 0, 0, 0, "born", 1, "n", "c", "/p", 1, "none", 0, None)
    engine = Engine(build(*MANY))
    assert engine.match(change) == ()
    assert engine.match(activity("device_access", {"Image": "/miner"})) == ()


def test_rules_come_in_the_order_they_were_loaded() -> None:
    ruleset = build(*[rule_text(f"s:\n  Image|startswith: /{'x' * (9 - i)}\ncondition: s") for i in range(9)])
    assert Engine(ruleset).match(activity("process_creation", {"Image": "/" + "x" * 9})) == ruleset.rules
