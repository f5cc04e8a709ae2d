from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.events.activity import Activity, AnyActivity, SandboxChange
from sensor.events.detection import Correlated
from sensor.export import lines, schema
from tests.export import samples

VALIDATOR = jsonschema.Draft202012Validator(schema())


def valid(line: bytes) -> dict[str, Any]:
    """The line's record, after the schema has had its say."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    record: dict[str, Any] = orjson.loads(line)
    kind = record["category"] if record["kind"] == "event" else record["kind"]
    VALIDATOR.evolve(schema=VALIDATOR.schema | {"oneOf": [{"$ref": f"#/$defs/{kind}"}]}).validate(record)
    return record


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("make", samples.EVERY_ACTIVITY)
def test_an_event_line_is_flat_and_has_every_field(make: Any) -> None:
    activity: AnyActivity = make()
    record = valid(lines.activity_line(activity))
    assert list(record)[:6] == ["v", "kind", "category", "id", "time", "monotonic_ns"]
    assert record["id"] == "1f-abc0"
    assert record["time"] == "2023-11-14T22:13:20.000000042Z"
    named = set(activity.__struct_fields__) - {"generation", "position", "time_ns", "raw", "argv"}
    assert {name: record[name] for name in named} == {name: getattr(activity, name) for name in named}
    assert set(record) - named - {"v", "kind", "category", "id", "time"} <= {"Argv"}


def test_the_schema_types_every_field_and_no_other() -> None:
    for make in samples.EVERY_ACTIVITY:
        properties = schema()["$defs"][make().category]["properties"]
        assert set(properties) == set(orjson.loads(lines.activity_line(make())))
        assert all(set(kind) & {"type", "$ref", "enum", "const"} for kind in properties.values())
    for record in ({**orjson.loads(lines.activity_line(make())), "Extra": 1} for make in samples.EVERY_ACTIVITY):
        assert not VALIDATOR.is_valid(record)


@pytest.mark.parametrize(
    ("argv", "shown", "kept"),
    [
        (b"", [], False),
        (b"\0", [""], False),
        (b"a\0\0b\0", ["a", "", "b"], False),
        (b"a\0cut", ["a", "cut"], False),
        (b"a\n\x1b[2J\0\xe2\x80\xae\0", ["a\n\x1b[2J", "\u202e"], False),
        (b"\xff\0x\0", ["\ufffd", "x"], True),
        ("é".encode()[:1], ["\ufffd"], True),
    ],
)
def test_arguments_come_as_a_list_and_lose_nothing(argv: bytes, shown: list[str], kept: bool) -> None:
    record = valid(lines.activity_line(samples.process_creation(argv=argv)))
    assert record["Argv"] == shown
    assert ("Argv_b64" in record) is kept
    if kept:
        assert b64decode(record["Argv_b64"]) == argv


@given(st.binary(max_size=300))
def test_hostile_arguments_can_be_had_back(argv: bytes) -> None:
    record = valid(lines.activity_line(samples.process_creation(argv=argv)))
    if "Argv_b64" in record:
        assert b64decode(record["Argv_b64"]) == argv
    else:
        assert "\0".join(record["Argv"]).encode() == argv.removesuffix(b"\0")


@given(
    st.sampled_from(samples.EVERY_ACTIVITY),
    st.dictionaries(st.sampled_from(["Image", "CommandLine", "User"]), st.binary()),
)
def test_bytes_that_are_not_text_stand_beside_the_field(make: Any, raw: dict[str, bytes]) -> None:
    shown = {name: value.decode("utf-8", "replace") for name, value in raw.items()}
    record = valid(lines.activity_line(make(raw=raw or None, **shown)))
    for name, value in raw.items():
        assert record[name] == shown[name]
        assert b64decode(record[f"{name}_b64"]) == value
    found = valid(lines.detection_line(samples.detection(make(raw=raw or None, **shown))))
    assert {name: b64decode(found[f"{name}_b64"]) for name in raw} == raw


any_text = st.text(st.characters(), max_size=40)  # lone surrogates too: no decoder of ours makes them
wide = st.integers(min_value=0, max_value=1 << 70)


@given(st.sampled_from(samples.EVERY_ACTIVITY), any_text, wide)
def test_no_text_and_no_number_stops_a_line(make: Any, text: str, number: int) -> None:
    text_fields = dict.fromkeys(("Image", "CommandLine", "CurrentDirectory", "ParentCommandLine", "SandboxName"), text)
    activity = make(**text_fields, SandboxId=number, monotonic_ns=number, time_ns=number, position=number)
    valid(lines.activity_line(activity))
    valid(lines.detection_line(samples.detection(activity, rule_title=text, id=text)))
    valid(lines.response_line(samples.response(reason=text, time_ns=number), (number, text)))
    valid(lines.sandbox_line(samples.sandbox_change(SandboxName=text, CgroupPath=text)))
    valid(lines.notice_line(number, text, {text: text, "n": number, "list": [text], "object": object()}))


@pytest.mark.parametrize("make", samples.EVERY_ACTIVITY)
def test_a_detection_line_tells_rule_event_and_lineage(make: Any) -> None:
    record = valid(lines.detection_line(samples.detection(make())))
    assert record["event"] == "1f-abc0"
    assert record["category"] == make().category
    assert record["rule"] == {
        "id": "9ee2d1a6-0000-4000-8000-000000000001",
        "title": "Reverse SSH tunnel",
        "level": "high",
        "tags": ["attack.command-and-control", "attack.t1572"],
    }
    for name in ("SandboxName", "ProcessId", "Image", "CommandLine", "ParentImage", "EntryCommandLine"):
        assert record[name] == getattr(make(), name)


def test_a_correlation_tells_what_it_saw() -> None:
    plain = orjson.loads(lines.detection_line(samples.detection(samples.process_creation())))
    assert "Correlation" not in plain
    seen = Correlated("value_sum", (("User", "x"), ("Uid", 3)), 2.5, 1, 2, (("1f-abc0", "r"),), partial=True)
    record = valid(lines.detection_line(samples.detection(samples.process_creation(), correlation=seen)))
    assert record["Correlation"] == {
        "type": "value_sum",
        "group": {"User": "x", "Uid": 3},
        "count": 2.5,
        "first": "1970-01-01T00:00:00.000000001Z",
        "last": "1970-01-01T00:00:00.000000002Z",
        "events": [{"event": "1f-abc0", "rule": "r"}],
        "partial": True,
    }


def test_responses_sandboxes_and_notices() -> None:
    record = valid(lines.response_line(samples.response(outcome="done", latency_ns=5), None))
    assert (record["outcome"], record["targets"], record["latency_ns"]) == ("done", [999, 1000], 5)
    record = valid(lines.sandbox_line(samples.sandbox_change(raw={"SandboxName": b"\xff"})))
    assert (record["id"], record["change"], record["SandboxName_b64"]) == ("1f-ab00", "born", "/w==")
    assert set(SandboxChange.__struct_fields__) - {"generation", "position", "time_ns", "raw"} <= set(record)
    record = valid(lines.notice_line(0, "events were lost", {"count": 3, "reason": "budget"}))
    assert (record["time"], record["fields"]) == ("1970-01-01T00:00:00.000000000Z", {"count": 3, "reason": "budget"})


@given(st.lists(st.integers(min_value=0, max_value=4_000_000_000_000_000_000), min_size=1, max_size=5))
def test_time_is_rfc_3339_whatever_came_before(times: list[int]) -> None:
    stamp = lines.Timestamps()
    for time_ns in times:
        moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
        assert stamp(time_ns) == f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 1_000_000_000:09d}Z"


def test_the_common_fields_are_those_of_the_contract() -> None:
    assert set(samples.COMMON) == set(Activity.__struct_fields__)
