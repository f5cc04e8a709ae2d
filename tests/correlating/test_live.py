"""Correlations in the pipeline: what is told, of whom, and what is answered."""

from __future__ import annotations

from pathlib import Path

from sensor.rules.engine import Engine
from tests.enrich import records
from tests.enrich.records import START
from tests.rules.correlation.stream import correlation
from tests.rules.helpers import build, rule_text
from tests.test_pipeline import BORN, GENERATION, Run

CONNECT = "11111111-2222-3333-4444-666666666666"
RULE = "name: connect\n" + rule_text("sel:\n  DestinationPort: 3333\ncondition: sel", "network_connection", CONNECT)
MANY = correlation(
    "type: event_count\nrules: connect\ngroup-by: Image\ntimespan: 60s\ncondition: {gte: 3}", title="many"
)


def engine(*texts: str) -> Engine:
    ruleset = build(*texts)
    assert ruleset.refused == ()
    return Engine(ruleset)


def begin(folder: Path, *texts: str) -> Run:
    run = Run(folder, engine(*texts))
    run.take(0, BORN)
    run.take(8, records.exec_(500, START, b"tool\0", "/tmp/tool"))
    return run


def connect(run: Run, position: int) -> None:
    run.take(position, records.connect(500, bytes((203, 0, 113, 7)), port=3333))


def test_the_event_that_completes_it_is_detected_and_answered(tmp_path: Path) -> None:
    run = begin(tmp_path, RULE, MANY)
    for position in (16, 24, 32, 40):
        connect(run, position)
    (told,) = [line for line in run.lines() if line["kind"] == "detection"]
    identity = told["rule"]["id"]
    assert told["id"] == f"{GENERATION:x}-20/{identity}"
    assert told["rule"]["title"] == "many"
    assert (told["Image"], told["DestinationPort"], told["event"]) == ("/tmp/tool", 3333, f"{GENERATION:x}-20")
    seen = told["Correlation"]
    assert (seen["type"], seen["count"], seen["group"]) == ("event_count", 3, {"Image": "/tmp/tool"})
    assert [each["event"] for each in seen["events"]] == [f"{GENERATION:x}-{position:x}" for position in (16, 24, 32)]
    assert {each["rule"] for each in seen["events"]} == {CONNECT}
    assert run.acting.asked == [told["id"]]
    assert run.counted("pinfold_detections_total", identity, "high") == 1
    assert run.counted("pinfold_detections_total", CONNECT, "high") == 0


def test_with_generate_both_are_told(tmp_path: Path) -> None:
    run = begin(tmp_path, RULE, MANY + "  generate: true\n")
    for position in (16, 24, 32):
        connect(run, position)
    assert [line["rule"]["title"] for line in run.lines() if line["kind"] == "detection"] == ["a rule"] * 3 + ["many"]


def test_a_reload_keeps_what_did_not_change(tmp_path: Path) -> None:
    run = begin(tmp_path, RULE, MANY)
    connect(run, 16)
    connect(run, 24)
    run.pipeline.use(engine(RULE, MANY.replace("title: many", "title: renamed")))
    connect(run, 32)
    (told,) = [line for line in run.lines() if line["kind"] == "detection"]
    assert told["rule"]["title"] == "renamed"
    run.pipeline.use(engine(RULE, MANY.replace("gte: 3", "gte: 2")))
    connect(run, 40)
    assert len([line for line in run.lines() if line["kind"] == "detection"]) == 1
    connect(run, 48)
    assert len([line for line in run.lines() if line["kind"] == "detection"]) == 2
