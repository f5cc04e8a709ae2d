"""Egress lists, denied protocols, resolvers and flows in the configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from sensor.config import load
from sensor.confignetwork import MOST_ENTRIES, MOST_RANGES, MOST_RESOLVERS, Dns, Egress, EgressEntry, Flows
from tests.test_config import EXAMPLE, refusal


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: str) -> str:
        path = tmp_path / "pinfold.yaml"
        path.write_text(content)
        return str(path)

    return write


def test_the_example_s_egress_entries_are_entries_and_show_every_key(written: Any) -> None:
    entries = re.findall(r"^ +# +- (\{to: .*\})$", EXAMPLE.read_text(), flags=re.MULTILINE)
    shown = {key for entry in entries for key in yaml.safe_load(entry)}
    assert shown == {field.encode_name for field in msgspec.structs.fields(EgressEntry)}
    text = f"classes: {{a: {{egress: {{default: deny, allow: [{', '.join(entries)}]}}}}}}"
    listed = load(written(text)).classes["a"].egress.allow
    assert listed[0] == EgressEntry("10.0.0.0/8", (443, "8000-8010"), "tcp")
    assert len(listed) == len(entries) == 4


def listing(*entries: dict[str, Any], **fields: Any) -> str:
    return yaml.safe_dump({"classes": {"a": {"egress": {"default": "deny", "allow": list(entries)} | fields}}})


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("classes: {a: {denied_protocols: [ssh, telnet]}}", "classes.a.denied_protocols[1]", "one of ssh, stratum,"),
        ("classes: {a: {egress: {default: drop}}}", "classes.a.egress.default", "one of allow, deny"),
        ("classes: {a: {egress: {allow: [{to: x.org}]}}}", "classes.a.egress.allow", "no list unless `default: deny`"),
        ("classes: {a: {egress: {loopback: deny}}}", "classes.a.egress.loopback", "allow unless `default: deny`"),
        ("dns: {resolvers: [10.0.0]}", "dns.resolvers[0]", "an address"),
        ("dns: {resolvers: [10.0.0.53, 127.0.0.53]}", "dns.resolvers[1]", "an address that is not loopback"),
        ("dns: {resolvers: ['::1']}", "dns.resolvers[0]", "an address that is not loopback"),
        ("dns: {resolvers: ['::ffff:127.0.0.1']}", "dns.resolvers[0]", "an address that is not loopback"),
        ("dns: {resolvers: [0.0.0.0]}", "dns.resolvers[0]", "an address that is not loopback"),
        (f"dns: {{resolvers: [{', '.join(['10.0.0.1'] * (MOST_RESOLVERS + 1))}]}}", "dns.resolvers", "at most 16"),
        ("dns: {ttl_cap_seconds: 29}", "dns.ttl_cap_seconds", "30 to 86400"),
        ("dns: {ttl_cap_seconds: 86401}", "dns.ttl_cap_seconds", "30 to 86400"),
        ("dns: {private_answers: maybe}", "dns.private_answers", "one of deny, allow"),
        ("flows: {full_per_peer: 0}", "flows.full_per_peer", "1 to 65536"),
        ("flows: {window_seconds: 0}", "flows.window_seconds", "1 to 3600"),
        ("flows: {sample_one_in: 0}", "flows.sample_one_in", "1 to 65536"),
        ("flows: {late_seconds: 0}", "flows.late_seconds", "1 to 3600"),
        ("flows: {sample_seconds: 3601}", "flows.sample_seconds", "1 to 3600"),
        ("flows: {idle_seconds: -1}", "flows.idle_seconds", "1 to 3600"),
        ("flows: {pause_ms: 9}", "flows.pause_ms", "10 to 3600000"),
        ("flows: {after_inversion_ms: 60001}", "flows.after_inversion_ms", "0 to 60000"),
        ("flows: {table: 65535}", "flows.table", "a power of two from 1024 to 4194304"),
        ("flows: {table: 512}", "flows.table", "a power of two from 1024 to 4194304"),
        ("flows: {table: 8388608}", "flows.table", "a power of two from 1024 to 4194304"),
    ],
)
def test_network_settings_out_of_range_are_refused(written: Any, text: str, key: str, expected: str) -> None:
    lines = refusal(written(text + "\n"))
    assert len(lines) == 1
    assert lines[0].startswith(f"1: {key}: expected {expected}")


NETWORK = "a network without bits beyond its length"
ADDRESS = "an address, a network such as 10.0.0.0/8, a name, or *.suffix"
NAME = "a name of letters, digits, - and ."
PORT = "a port from 0 to 65535, or a range"
NO_PORTS: list[object] = [
    65536, -1, True, None, 1.5, [1], {}, "", "a", "1-", "-1", "1-2-3", "65536", "1-65536", "1 - 2", "٣", "22:23"
]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "key", "expected"),
    [
        ({"to": "10.0.0.1/8"}, "to", NETWORK),
        ({"to": "2001:db8::1/32"}, "to", NETWORK),
        ({"to": "::ffff:10.0.0.1/104"}, "to", NETWORK),
        *(
            ({"to": to}, "to", ADDRESS)
            for to in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "10.0.0",
                       "10.0.0.256", "::/129", "::1::", "fe80::1%lo", "x.org/24", "x.org:443", "http://x.org", "/8",
                       "010.0.0.1", "10.0.0.1\n/", "10.0.0.0/٨"]
        ),
        *(
            ({"to": to}, "to", NAME)
            for to in ["*", "*.", "*.*.org", "a.*.org", "*x.org", "x..org", ".x.org", "x.org.", "-x.org", "x-.org",
                       "x_y.org", "x.1", "é.org", "x y", "x\n", "a" * 64, ".".join(["a" * 60] * 5), "localhost\0"]
        ),
        ({"to": "x.org", "protocol": "icmp"}, "protocol", "any, tcp or udp for a name"),
        ({"to": "10.0.0.1", "protocol": "sctp"}, "protocol", "one of any, tcp, udp, icmp"),
        ({"to": "10.0.0.1", "protocol": "icmp", "ports": [1]}, "ports", "no ports with `protocol: icmp`"),
        *(
            ({"to": "10.0.0.1", "ports": [22, value]}, "ports[1]", PORT)
            for value in NO_PORTS
        ),
        ({"to": "10.0.0.1", "ports": ["2-1"]}, "ports[0]", "the lower port first"),
        ({"to": "x.org", "ports": 22}, "ports", "a list"),
        ({"to": 10}, "to", "text"),
    ],
)  # fmt: skip
def test_egress_entries_that_could_not_work_are_refused(
    written: Any, entry: dict[str, Any], key: str, expected: str
) -> None:
    [line] = refusal(written(listing({"to": "10.9.9.9"}, entry)))
    assert f" classes.a.egress.allow[1].{key}: expected {expected}" in line
    assert line.isprintable()


def ports(*values: object) -> tuple[object, ...]:
    return values


@pytest.mark.parametrize(
    "entry",
    [
        EgressEntry("10.0.0.0/8"),
        EgressEntry("0.0.0.0/0", ports(0, 65535)),
        EgressEntry("10.1.2.3/32", protocol="icmp"),
        EgressEntry("::/0", ports("0-65535"), "udp"),
        EgressEntry("2001:db8::1", ports("443", "1-1"), "tcp"),
        EgressEntry("::ffff:10.0.0.0/104"),
        EgressEntry("registry"),
        EgressEntry("*.org"),
        EgressEntry("GitHub.com", ports(22), "tcp"),
        EgressEntry("xn--bcher-kva.example"),
        EgressEntry("1.x2"),
        EgressEntry("*." + ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_egress_entries_that_work_are_taken(written: Any, entry: EgressEntry) -> None:
    [taken] = load(written(listing(msgspec.to_builtins(entry)))).classes["a"].egress.allow
    assert taken == entry


def test_an_egress_list_that_does_not_fit_the_kernel_s_is_refused(written: Any) -> None:
    wide = {"to": "10.0.0.0/8", "ports": list(range(1, 2 * MOST_RANGES, 2))}
    assert load(written(listing(wide))).classes["a"].egress.default == "deny"
    inner = {"to": "10.1.0.0/16", "ports": [100]}
    [line] = refusal(written(listing(wide, inner)))
    assert "classes.a.egress.allow[1].ports: expected at most 8 ranges, merged and with those" in line
    assert line.endswith("found 9")
    assert load(written(listing(wide, {"to": "10.1.0.0/16", "ports": [2]}))), "1 to 3 are one range"
    assert load(written(listing(wide, {"to": "11.0.0.0/8", "ports": [100]}))), "elsewhere"
    [line] = refusal(written(listing({"to": "x.org", "ports": list(range(1, 20, 2))})))
    assert "classes.a.egress.allow[0].ports: expected at most 8 ranges" in line


def test_names_must_fit_together_since_one_address_may_serve_them_all(written: Any) -> None:
    names = [{"to": f"n{port}.org", "ports": [port]} for port in range(MOST_RANGES)]
    assert load(written(listing(*names[1:], {"to": "*.x.org", "ports": [1, "2"]})))
    [line] = refusal(written(listing(*names)))
    assert "classes.a.egress.allow: expected at most 8 different port ranges in all its names, found 9" in line


def test_an_egress_list_is_bounded(written: Any) -> None:
    entries = [{"to": f"10.{number >> 8}.{number & 255}.0/24"} for number in range(MOST_ENTRIES + 1)]
    assert len(load(written(listing(*entries[1:]))).classes["a"].egress.allow) == MOST_ENTRIES
    [line] = refusal(written(listing(*entries)))
    assert "classes.a.egress.allow: expected at most 1024 entries, found 1025" in line


def test_network_settings_load(written: Any) -> None:
    settings = load(
        written(
            "classes: {a: {egress: {default: deny, loopback: deny}, denied_protocols: [ssh, http-connect]}}\n"
            "dns: {resolvers: [10.0.0.53, '2001:db8::53'], ttl_cap_seconds: 30, private_answers: allow}\n"
            "flows: {table: 1024, pause_ms: 10, after_inversion_ms: 0}\n"
        )
    )
    assert settings.classes["a"].egress == Egress("deny", (), "deny")
    assert settings.classes["a"].denied_protocols == ("ssh", "http-connect")
    assert settings.dns == Dns(("10.0.0.53", "2001:db8::53"), 30, "allow")
    assert settings.flows == Flows(table=1024, pause_ms=10, after_inversion_ms=0)
