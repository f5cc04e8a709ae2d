from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.cli.choose import Filter, parsed
from sensor.export import lines
from tests.export import samples

EXEC = lines.activity_line(samples.process_creation())
CONNECT = lines.activity_line(samples.network_connection(SandboxName="agent-2"))
HIGH = lines.detection_line(samples.detection())
LOW = lines.detection_line(samples.detection(level="low", rule_id="other", rule_title="Other"))
RESPONSE = lines.response_line(samples.response(), (4242, "agent-1"))
NOTICE = lines.notice_line(0, "hello", {})
ALL = (EXEC, CONNECT, HIGH, LOW, RESPONSE, NOTICE)


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [
        ({}, ALL),
        ({"sandbox": "agent-1"}, (EXEC, HIGH, LOW, RESPONSE)),
        ({"sandbox": "agent"}, ()),
        ({"category": "process_creation"}, (EXEC, HIGH, LOW)),
        ({"category": "process_creation", "kind": "event"}, (EXEC,)),
        ({"kind": "notice"}, (NOTICE,)),
        ({"level": "low"}, (HIGH, LOW)),
        ({"level": "medium"}, (HIGH,)),
        ({"level": "critical"}, ()),
        ({"rule": "reverse ssh TUNNEL"}, (HIGH,)),
        ({"rule": "9EE2d1a6-0000-4000-8000-000000000001"}, (HIGH,)),
        ({"where": (("DestinationPort", "443"),)}, (CONNECT,)),
        ({"where": (("Image", "*/SSH"),)}, (EXEC, CONNECT, HIGH, LOW)),
        ({"where": (("Argv", "*-r 1:*"), ("Uid", "0"))}, (EXEC,)),
        ({"where": (("Initiated", "true"),)}, (CONNECT,)),
        ({"where": (("Nothing", "*"),)}, ()),
    ],
)
def test_all_that_was_asked_must_hold(chosen: dict[str, Any], taken: tuple[bytes, ...]) -> None:
    wanted = Filter(**chosen)
    assert tuple(line for line in ALL if wanted.takes(line)) == taken


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a*b", "ab", True),
        ("a*b", "a", False),
        ("ab*ba", "aba", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("a*bc*c", "abc", False),
        ("*", "", True),
        ("**", "x", True),
        ("", "", True),
        ("a.c", "abc", False),
    ],
)
def test_a_star_is_any_text_and_the_rest_is_itself(pattern: str, text: str, matches: bool) -> None:
    line = lines.activity_line(samples.process_creation(User=text))
    assert Filter(where=(("User", pattern),)).takes(line) is matches


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b"\xff", b'{"rule": 5, "kind": "detection"}'])
def test_damaged_lines_are_never_taken_for_a_detection(line: bytes) -> None:
    assert not Filter(level="informational").takes(line)


@given(st.binary(max_size=40))
def test_whatever_stands_there_is_a_record(line: bytes) -> None:
    assert isinstance(parsed(line), dict)
