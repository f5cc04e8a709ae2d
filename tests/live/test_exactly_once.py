"""kill -9 at any moment: no exec that fitted the ring is lost or told twice, and the same of detections."""

from __future__ import annotations

import json
import random
import re
import secrets
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.live.crashing import STEPS
from tests.live.running import Running, Sandbox

ROUNDS = 8


def storm(
    sandbox: Sandbox, workloads: Path, marker: str, seconds: float, interval_us: int = 300
) -> subprocess.Popen[bytes]:
    return sandbox.start(
        str(workloads / "execstorm"), "-P", "2", "-t", str(seconds), "-n", "1000000", "-i", str(interval_us),
        "-m", marker, stdout=subprocess.PIPE,
    )  # fmt: skip


def executed(process: subprocess.Popen[bytes]) -> dict[int, int]:
    """Worker to the number of its execs, as the storm itself counted them."""
    out, _ = process.communicate(timeout=120)
    told = json.loads(out)
    return {index: w["done"] + w["failed"] + w["killed"] for index, w in enumerate(told["workers"])}


def account(sensor: Running, sandbox: Sandbox, marker: str, wanted: dict[int, int]) -> None:
    """Every exec of every worker once, and every detection once."""
    expected = {f"{marker}-{worker}-{number}" for worker, count in wanted.items() for number in range(count)}
    label = re.compile(re.escape(marker) + r"-\d+-\d+")

    def seen(kind: str) -> Counter[str]:
        lines = sensor.of(sandbox, category="process_creation", kind=kind, Image="/usr/bin/true")
        return Counter(match[0] for line in lines if (match := label.search(line["CommandLine"])))

    sensor.until(lambda: len(seen("event")) >= len(expected), f"{len(expected)} execs")
    events = seen("event")
    assert set(events) == expected
    assert not [name for name, times in events.items() if times != 1], "told twice"
    ids = Counter(line["id"] for line in sensor.of(sandbox, category="process_creation"))
    assert not [name for name, times in ids.items() if times != 1], "an id twice"
    detections = Counter(line["id"] for line in sensor.lines() if line["kind"] == "detection")
    assert not [name for name, times in detections.items() if times != 1], "a detection twice"


def test_killed_at_random_moments_under_load(rule_cache: str, workloads: Path) -> None:
    with Running(cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        marker = f"random-{secrets.token_hex(4)}"
        process = storm(sandbox, workloads, marker, 14)
        for _ in range(ROUNDS):
            time.sleep(random.uniform(0.05, 0.9))  # noqa: S311 - moments, not secrets
            assert sensor.stop(signal.SIGKILL) == -signal.SIGKILL
            sensor.start()
        wanted = executed(process)
        assert sum(wanted.values()) > 500
        account(sensor, sandbox, marker, wanted)
        assert not sensor.lost()


@pytest.mark.parametrize("step", STEPS)
def test_killed_between_every_two_steps(rule_cache: str, workloads: Path, step: str) -> None:
    """A busy rule of the test's own fires all the time, so that detections are in the batch that is cut."""
    with Running("rules: {{paths: ['{home}/rules'], most_per_minute: 0}}\n") as sensor, sensor.sandbox() as sandbox:
        marker = f"step-{secrets.token_hex(4)}-7"
        process = storm(sandbox, workloads, marker, 12)  # longer than three starts take on a busy machine
        sensor.stop(signal.SIGKILL)
        for nth in (1, 5, 40):
            crashed = sensor.launch("tests.live.crashing", str(sensor.file), step, str(nth))
            assert crashed.wait(timeout=60) == -signal.SIGKILL, sensor.said()
        sensor.start()
        wanted = executed(process)
        assert sum(wanted.values()) > 100
        account(sensor, sandbox, marker, wanted)
        detected = [line for line in sensor.lines() if line["kind"] == "detection"]
        assert len(detected) == len(sensor.of(sandbox, category="process_creation", Image="/usr/bin/true"))
        assert not sensor.lost()


def test_events_wait_in_the_ring_while_nobody_runs(rule_cache: str) -> None:
    with Running(cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        assert sensor.stop() == 0
        for index in range(50):
            sandbox.run("/bin/true", f"unwatched-{index}")
        sensor.start()
        sensor.settled(sandbox)
        lines = sensor.of(sandbox, category="process_creation", Image="/usr/bin/true")
        told = [line["CommandLine"] for line in lines if "unwatched" in line["CommandLine"]]
        assert told == [f"/bin/true unwatched-{index}" for index in range(50)]
