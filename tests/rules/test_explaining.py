"""An explanation is what the engine decides, part by part; and lines of the log are activities again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import RuleError
from sensor.events.activity import NetworkConnection, ProcessCreation
from sensor.export.lines import activity_line
from sensor.rules.engine import Engine
from sensor.rules.explaining import Node, document_of, explain
from sensor.rules.recorded import recorded
from sensor.rules.ruleset import load
from sensor.rules.testing import activity, examples_file

RULES = Path(__file__).resolve().parents[2] / "rules"
SAMPLE = sorted(RULES.rglob("*.yml"))[::19]


@pytest.mark.parametrize("path", SAMPLE, ids=lambda path: path.stem)
def test_it_decides_as_the_engine_does(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    engine = Engine(load([path], None))
    for kind in ("match", "no_match"):
        example = yaml.safe_load(examples_file(path).read_text())[kind][-1]
        event = activity(example.get("category") or document["logsource"]["category"], example["event"])
        found = explain(document_of(str(path), document["id"]), event)
        assert found.matched is bool(engine.match(event)) is (kind == "match")


def event(**fields: Any) -> ProcessCreation:
    made = activity("process_creation", fields)
    assert isinstance(made, ProcessCreation)
    return made


def tree(detection: dict[str, Any], of: ProcessCreation) -> Node:
    frame = {"title": "t", "level": "low", "id": "5a1cbe10-1111-4111-8111-000000000001"}
    return explain({**frame, "logsource": {"category": "process_creation"}, "detection": detection}, of).tree


def test_parts_of_every_kind() -> None:
    detection = {
        "a": [{"Image": "/x"}, {"Image|endswith": "/y", "User": "root"}],
        "b": ["needle", "pin"],
        "c": {"Uid|lt": 5, "CurrentDirectory": None},
        "condition": ["a and b", "all of c"],
    }
    found = tree(detection, event(Image="/bin/y", User="root", CommandLine="a needle", Uid=3))
    assert (found.text, found.matched) == ("or", True)
    both, every = found.parts
    assert [part.matched for part in both.parts[0].parts] == [False, True]
    assert both.parts[1].text == "b" and both.parts[1].matched
    assert (every.text, every.matched) == ("all of c", True)
    assert [part.text for part in every.parts[0].parts] == ["Uid|lt: 5", "CurrentDirectory: None"]


def test_what_cannot_be_explained_says_so() -> None:
    with pytest.raises(RuleError, match="a correlation"):
        explain({"title": "t", "correlation": {"type": "event_count"}}, event())
    many = {f"s{number}": {"CommandLine": [str(n) for n in range(99)]} for number in range(30)}
    with pytest.raises(RuleError, match="more than 2000 parts"):
        tree({**many, "condition": "1 of s*"}, event())
    with pytest.raises(RuleError, match="holds no rule"):
        document_of(str(SAMPLE[0]), "5a1cbe10-1111-4111-8111-000000000009")


@given(st.dictionaries(st.sampled_from(["category", "Image", "Uid", "time", "Argv", "Killed", "x"]), st.one_of(
    st.text(max_size=9), st.integers(), st.booleans(), st.none(), st.lists(st.text(max_size=3), max_size=3),
    st.just("process_creation"), st.just("2026-11-30T06:00:00.5Z"),
)))  # fmt: skip
def test_any_line_is_an_activity_or_refused(record: dict[str, Any]) -> None:
    if record.get("category") == "process_creation":
        assert recorded(record).category == "process_creation"
    else:
        with pytest.raises(ValueError, match="not an event"):
            recorded(record)


def test_a_line_of_the_log_is_its_activity_again() -> None:
    made = event(Image="/opt/x", CommandLine="x -p 4", Uid=7, Killed=True, time_ns=1_764_400_000_000_000_001)
    again = recorded(orjson.loads(activity_line(made)))
    assert isinstance(again, ProcessCreation)
    assert (again.Image, again.CommandLine, again.Uid, again.Killed) == ("/opt/x", "x -p 4", 7, True)
    assert again.time_ns == made.time_ns
    other = activity("network_connection", {"DestinationPort": 443, "Initiated": True, "DestinationIp": "203.0.113.9"})
    back = recorded(orjson.loads(activity_line(other)))  # type: ignore[arg-type]
    assert isinstance(back, NetworkConnection)
    assert (back.DestinationPort, back.Initiated, back.DestinationIp) == (443, True, "203.0.113.9")
