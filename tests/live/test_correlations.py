"""Correlations of what processes really do: counted, in order, answered, and over a crash of the sensor."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import pytest

from tests.live.running import CONFIG, Line, Running, Sandbox

RULE = """
title: {title}
name: {title}
id: 00000000-0000-4000-8000-00000000000{number}
level: low
status: test
logsource: {{category: process_creation, product: linux}}
detection:
  sel: {{CommandLine|contains: '{title}-'}}
  condition: sel
"""
CORRELATION = """
title: {title}
id: 00000000-0000-4000-8000-0000000000{number}
level: high
status: test
correlation:
  type: {type}
  rules: [{rules}]
  group-by: [ParentProcessId]
  timespan: {timespan}
  {condition}
"""
OPTIONS = "rules: {{paths: ['{home}/mine']}}\n"
# One process does it all, so that they have one parent.
STEPS = "import subprocess, sys, time\nfor step in sys.argv[1:]: subprocess.run(['/bin/true', step], check=True)\n"


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, title in enumerate(("pfa", "pfb"), 1):
        (folder / f"{title}.yml").write_text(RULE.format(title=title, number=number))
    told = (
        ("three", "event_count", "pfa", "10m", "condition: {gte: 3}"),
        ("sequence", "temporal_ordered", "pfb, pfa", "10m", "generate: false"),
        ("alone", "temporal", "pfa, pfb", "3s", "condition: pfb and not pfa"),
    )
    for number, (title, kind, rules, timespan, condition) in enumerate(told, 10):
        text = CORRELATION.format(
            title=title, number=number, type=kind, rules=rules, timespan=timespan, condition=condition
        )
        (folder / f"{title}.yml").write_text(text.replace("  rules: [pfa, pfb]\n", "") if "not" in condition else text)


@pytest.fixture
def sensor() -> Running:
    made = Running(OPTIONS, config=CONFIG)
    write(made.home / "mine")
    return made


def detections(sensor: Running, box: Sandbox) -> list[Line]:
    return sensor.of(box, kind="detection")


def did(box: Sandbox, *steps: str) -> None:
    assert box.python(STEPS, *(f"{step}-{secrets.token_hex(3)}" for step in steps)).returncode == 0


def test_counts_and_sequences_of_one_parent(sensor: Running) -> None:
    with sensor, sensor.sandbox() as box, sensor.sandbox() as other:
        did(other, "pfa", "pfa")
        did(box, "pfa", "pfa")
        did(box, "pfa", "pfb")
        sensor.settled(box)
        assert detections(sensor, box) == detections(sensor, other) == []
        did(box, "pfb", "pfa", "pfa", "pfa")
        sensor.wait(box, kind="detection", rule=lambda rule: rule["title"] == "three")
        found = {line["rule"]["title"]: line for line in detections(sensor, box)}
        assert set(found) == {"three", "sequence"}
        seen = found["three"]["Correlation"]
        assert (seen["type"], seen["count"], len(seen["events"])) == ("event_count", 3, 3)
        assert seen["group"] == {"ParentProcessId": found["three"]["ParentProcessId"]}
        events = {line["id"]: line for line in sensor.of(box, category="process_creation")}
        assert all(events[each["event"]]["CommandLine"].startswith("/bin/true pfa-") for each in seen["events"])
        order = [events[each["event"]]["CommandLine"][10:13] for each in found["sequence"]["Correlation"]["events"]]
        assert order == ["pfb", "pfa"]
        assert detections(sensor, other) == []


def test_what_did_not_follow_is_told_when_its_time_is_over(sensor: Running) -> None:
    with sensor, sensor.sandbox() as box:
        did(box, "pfb", "pfa")
        did(box, "pfb")
        (line,) = sensor.wait(box, kind="detection", rule=lambda rule: rule["title"] == "alone")
        assert line["CommandLine"].startswith("/bin/true pfb-")
        (event,) = [each for each in sensor.of(box, category="process_creation") if each["id"] == line["event"]]
        assert event["ProcessGuid"] == line["ProcessGuid"]


def test_the_count_goes_on_after_a_crash_and_after_an_orderly_end(sensor: Running) -> None:
    steps = "import subprocess, sys\nfor step in sys.stdin: subprocess.run(['/bin/true', step.strip()], check=True)\n"
    with sensor, sensor.sandbox() as box:
        process = box.start("/usr/bin/python3", "-I", "-S", "-c", steps, stdin=-1)
        assert process.stdin is not None
        for number, ending in enumerate((signal.SIGKILL, signal.SIGTERM)):
            process.stdin.write(b"pfa-%d\n" % number)
            process.stdin.flush()
            sensor.wait(box, category="process_creation", CommandLine=f"/bin/true pfa-{number}")
            sensor.stop(ending)
            sensor.start()
        assert detections(sensor, box) == []
        process.stdin.write(b"pfa-2\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        (line,) = sensor.wait(box, kind="detection", rule=lambda rule: rule["title"] == "three")
        assert [each["event"] for each in line["Correlation"]["events"]] == [
            each["id"]
            for each in sensor.of(box, category="process_creation", CommandLine=lambda text: "pfa-" in text)
            if each["Image"].endswith("/true")
        ]
        assert not sensor.lost()


def test_who_completes_it_is_answered_as_for_a_rule(sensor: Running) -> None:
    with sensor, sensor.sandbox(f"kill-{secrets.token_hex(4)}") as box:
        did(box, "pfa", "pfa")
        steps = (
            "import subprocess, sys\nfor n in range(3): subprocess.run(['/bin/true', f'pfa-{n}'])\nsys.stdin.read()\n"
        )
        process = box.start("/usr/bin/python3", "-I", "-S", "-c", steps, stdin=-1)
        (line,) = sensor.wait(box, kind="detection")
        (intent, *_) = sensor.wait(box, kind="response", detection=line["id"])
        assert (intent["action"], intent["mode"]) == ("kill", "enforce")
        process.kill()
        process.wait()
