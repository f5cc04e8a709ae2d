"""A draft of every category holds its own examples, whatever the event says; and names what comes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import RuleError
from sensor.rules import fields
from sensor.rules.scaffold import draft, known_tags, write
from sensor.rules.stable import TAGS, choose
from sensor.rules.testing import activity, run_examples

SEEN: dict[str, dict[str, Any]] = {
    "process_creation": {"Image": "/opt/x/edge", "CommandLine": "edge tunnel --url http://127.0.0.1:9 --tries=3"},
    "network_connection": {"Image": "/opt/x/edge", "Protocol": "tcp", "DestinationPort": 7844, "Initiated": True,
                           "DestinationIp": "203.0.113.9"},
    "device_access": {"DeviceClass": "nvidia", "DeviceType": "char", "Access": "read,write"},
    "process_termination": {"Image": "/opt/x/edge", "ExitSignal": 9},
    "network_flow": {"Image": "/opt/x/edge", "Protocol": "tcp", "DestinationPort": 7844, "Phase": "ended"},
    "network_protocol": {"ApplicationProtocol": "ssh", "MessageKind": "banner", "FromSandbox": True},
    "dns_query": {"QueryName": "a.tunnel.example", "RegisteredDomain": "tunnel.example", "QueryType": "TXT"},
    "network_listen": {"Image": "/opt/x/edge", "Protocol": "tcp", "SourcePort": 1080},
    "network_behavior": {"Behavior": "beacon", "Score": 65},
    "process_migration": {"Direction": "left", "Way": "cloned"},
    "sensor_access": {"Attempt": "trace", "Target": "core"},
    "file_event": {"Action": "written", "TargetFilename": "/home/dev/.ssh/authorized_keys", "Place": "sandbox"},
    "file_access": {"Action": "read", "TargetFilename": "/home/dev/.aws/credentials"},
    "file_rename": {"Action": "renamed", "TargetFilename": "/etc/cron.d/x"},
    "file_delete": {"Action": "deleted", "TargetFilename": "/var/log/wtmp"},
    "file_change": {"Action": "attributes", "TargetFilename": "/usr/bin/su"},
    "system_call": {"SystemCall": "ptrace", "Action": "trace"},
}  # fmt: skip


def test_every_category_is_there() -> None:
    assert set(SEEN) == set(TAGS) == set(fields.CATEGORIES)


@pytest.mark.parametrize("category", SEEN)
def test_a_draft_holds_its_own_examples(category: str, tmp_path: Path) -> None:
    made = draft(activity(category, SEEN[category]), "", ())
    rule = tmp_path / "new.yml"
    write(made, rule)
    results = run_examples([rule])
    assert all(result.ok for result in results)
    assert sum(result.expected for result in results) >= 2
    assert any(not result.expected for result in results)
    document = yaml.safe_load(made.rule)
    assert document["tags"] == list(TAGS[category])
    assert document["level"] == "medium"
    assert "TODO" not in made.rule + made.examples


def detection(category: str, **seen: Any) -> dict[str, Any]:
    return choose(activity(category, seen)).detection


@pytest.mark.parametrize(
    ("image", "invoked", "line", "wanted"),
    [
        (
            "/opt/x/edge", "/usr/bin/edge", "edge tunnel --url=http://10.0.0.1:9 -p 443 /tmp/ab12",
            {"named": {"Image|endswith": "/edge"}, "words": {"CommandLine|contains|all": [" tunnel", " --url", " -p"]}},
        ),
        (
            "/usr/bin/python3.11", "/usr/bin/python3", "python3 -u /home/a/steal.py --to 203.0.113.9",
            {"named": [{"Image|endswith": "/python3.11"}, {"ImageInvoked|endswith": "/python3"}],
             "words": {"CommandLine|contains|all": ["steal.py", " --to"]}},
        ),
        (
            "/usr/bin/nc.traditional", "/usr/bin/nc", "nc 203.0.113.9 22",
            {"named": [{"Image|endswith": "/nc.traditional"}, {"ImageInvoked|endswith": "/nc"}]},
        ),
        ("/opt/a*b?", "", "a*b?", {"named": {"Image|endswith": "/a\\*b\\?"}}),
    ],
)  # fmt: skip
def test_names_and_options_are_kept_and_values_are_not(
    image: str, invoked: str, line: str, wanted: dict[str, Any]
) -> None:
    assert detection("process_creation", Image=image, ImageInvoked=invoked, CommandLine=line) == wanted


def test_ports_that_the_kernel_picks_are_not_kept() -> None:
    assert "SourcePort" not in str(detection("network_listen", Protocol="udp", SourcePort=41_000))


def test_a_detection_lends_its_tags() -> None:
    record = {"rule": {"tags": ["attack.t1572", "evil\nlevel: low", 7, "cve.1"]}}
    assert known_tags(record) == ("attack.t1572",)
    assert known_tags({"rule": "x"}) == ()


def test_an_event_that_says_nothing_makes_no_rule() -> None:
    with pytest.raises(RuleError, match="no field"):
        draft(activity("process_creation", {}), "", ())


@settings(max_examples=12)
@given(st.text(min_size=1, max_size=40), st.text(max_size=60), st.text(max_size=20))
def test_whatever_a_sandbox_wrote_stays_text(image: str, line: str, title: str) -> None:
    event = activity("process_creation", {"Image": f"/x/{image}", "CommandLine": line})
    try:
        made = draft(event, title, ())
    except RuleError as why:
        assert str(why)  # noqa: PT017 - refused is right too, and nothing else may be raised
        return
    document = yaml.safe_load(made.rule)
    assert set(document["detection"]) <= {"named", "words", "condition"}
    assert document["level"] == "medium"
    assert document["title"].isprintable()
