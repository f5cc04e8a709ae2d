"""From a detection to a sandbox that is cut off and frozen: again and again, in a new sandbox each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from sensor.bpf.denials import Denials, Deny
from sensor.control.client import Client
from tests.live.names import unique
from tests.live.running import Line, Running, Sandbox

PROCESSES = 50
CONFIG = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: [RULES]}}
sandboxes:
  - {{path: "{instance}/cut-*", class: cut}}
classes:
  cut:
    mode: enforce
    responses: {{high: quarantine, budget: {{quarantines_per_minute: 1000}}}}
"""
FILL = "i=1; while [ $i -lt $0 ]; do sleep 3600 & i=$((i + 1)); done; wait"
ALL = Deny.NETWORK | Deny.LOOPBACK | Deny.DEVICES | Deny.EXEC


class Round(Struct, frozen=True):
    """Milliseconds, from when the rule matched and from the event in the kernel."""

    cut: float
    frozen: float
    cut_from_event: float
    frozen_from_event: float
    frozen_of: int  # processes that were frozen
    waited: float  # for a CPU, from before the event until it was frozen: the machine's own share


def config(rules: Sequence[str]) -> str:
    """`{home}/rules` has the one that fires on a numbered exec."""
    return CONFIG.replace("RULES", ", ".join(f"'{path}'" for path in rules))


def rounds(sensor: Running, count: int) -> list[Round]:
    """AssertionError where one did not end as it should."""
    client = Client(str(sensor.home / "run" / "control.sock"))
    return [_round(sensor, client, number) for number in range(count)]


def _round(sensor: Running, client: Client, number: int) -> Round:
    with sensor.sandbox(f"cut-{unique()}") as box:
        with box.start("/bin/sh", "-c", FILL, str(PROCESSES)) as shell:
            try:
                sensor.until(lambda: len(_members(box)) == PROCESSES, f"{PROCESSES} processes")
                _settled(sensor, box)
                waited = _waited_ms(sensor)
                size = sensor.log.stat().st_size
                with box.start("/bin/true", f"marker-7-{number}"):
                    # Whoever watches is not to take the sensor's time: the log is read when all is over.
                    sensor.until(lambda: "frozen 1" in (box.path / "cgroup.events").read_text(), "it is frozen")
                    waited = _waited_ms(sensor) - waited
                    found = _quarantined(sensor, client, box, size, waited)
                    (box.path / "cgroup.kill").write_text("1")
            finally:
                shell.kill()
        return found


def _settled(sensor: Running, box: Sandbox) -> None:
    """What came before is read: its last exec, and no more of what was."""
    size = sensor.log.stat().st_size
    box.run("/bin/true", "settled")
    sensor.until(lambda: any("settled" in line.get("CommandLine", "") for line in _lines(sensor, box, size)), "it")


def _quarantined(sensor: Running, client: Client, box: Sandbox, size: int, waited: float) -> Round:
    """`size`: of the log before."""
    record = sensor.until(lambda: _held(client, box), "it is held")
    steps = {step["name"]: step for step in record["steps"]}
    assert steps["network"]["state"] == steps["freeze"]["state"] == "done", steps
    assert "frozen 1" in (box.path / "cgroup.events").read_text()
    denials = Denials.pinned("/sys/fs/bpf", sensor.instance)
    assert denials is not None and denials.get(box.id) == ALL
    lines = _lines(sensor, box, size)
    detection = next(line for line in lines if line["kind"] == "detection")
    executed = next(line for line in lines if line.get("id") == detection["id"].partition("/")[0])
    matched, event = utc_ns(detection["time"]), utc_ns(executed["time"])
    cut, frozen = steps["network"]["ended_ns"], steps["freeze"]["ended_ns"]
    return Round(
        (cut - matched) / 1e6,
        (frozen - matched) / 1e6,
        (cut - event) / 1e6,
        (frozen - event) / 1e6,
        len(_members(box)),
        waited,
    )


def _lines(sensor: Running, box: Sandbox, size: int) -> list[Line]:
    with sensor.log.open("rb") as file:
        file.seek(size)
        whole = [json.loads(line) for line in file if line.endswith(b"\n")]
    return [line for line in whole if line.get("SandboxId") == box.id]


def _waited_ms(sensor: Running) -> float:
    """Of the core's one loop: proc(5), /proc/PID/schedstat."""
    assert sensor.process is not None
    return int(Path(f"/proc/{sensor.process.pid}/schedstat").read_text().split()[1]) / 1e6


def _held(client: Client, box: Sandbox) -> Line | None:
    """Its cgroup vanishes next: how the evidence of a round ends is waited for too."""
    records = [one for one in client.quarantines() if one["cgroup_id"] == box.id]
    assert len(records) < 2
    held: list[Line] = [one for one in records if one["state"] == "held"]
    return held[0] if held else None


def _members(box: Sandbox) -> list[str]:
    return (box.path / "cgroup.procs").read_text().split()


def utc_ns(text: str) -> int:
    """Of RFC 3339 with nine digits."""
    return int(datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()) * 10**9 + int(text[20:29])
