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
from sensor.export import lines
from tests.export import samples


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
        "Count", "Verdict", "Protocol", "DestinationIp", "ExitSignal", "change", "action",
    ]
)  # fmt: skip
known = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["event", "detection", "response", "sandbox", "notice"]) | json_values,
        "category": st.sampled_from(["process_creation", "network_connection", "device_access"]) | json_values,
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
