"""`pinfold record` while a sandbox works, and `pinfold replay` of it: the same lines as in the log, each time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import orjson

from tests.live.running import Line, Running

LOADED = "rules: {{paths: ['{home}/rules']}}\n"


def command(sensor: Running, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "sensor.cli", *arguments, "--config", str(sensor.file)]


def told(line: Line) -> bytes:
    """What a replay gives too: a detection's own time is when the rule matched."""
    kept = {name: value for name, value in line.items() if line["kind"] != "detection" or name != "time"}
    return orjson.dumps(kept)


def replayed(sensor: Running, file: Path, log: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(sensor, "replay", str(file), "--log", str(log), "-o", "json"), capture_output=True, check=False
    )


def test_what_is_recorded_is_replayed_line_by_line(tmp_path: Path) -> None:
    file, logs = tmp_path / "x.pfr", (tmp_path / "one", tmp_path / "two")
    with Running(LOADED) as sensor:
        with sensor.sandbox() as before:
            before.run("/bin/true")
            sensor.settled(before)
            recorder = subprocess.Popen(command(sensor, "record", str(file)), stderr=subprocess.PIPE)
            assert recorder.stderr is not None
            assert b"recording" in recorder.stderr.readline()
            before.run("/bin/echo", "x-7-y")
            with sensor.sandbox() as box:
                box.run("/bin/sh", "-c", "/bin/true & wait; exec /bin/echo \"$(printf 'a\\377b')\"")
                box.python("import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9)); s.close()")
                sensor.settled(box)
            sensor.settled(before)
            recorder.send_signal(signal.SIGINT)
            said = recorder.communicate(timeout=30)[1]
            assert recorder.returncode == 0, said
            names = [before.id, box.id]
            # Now: what comes of the end of `before` is told when nobody records any more.
            live = [line for line in sensor.lines() if line.get("SandboxId") in names and line["kind"] != "response"]
        done = [replayed(sensor, file, log) for log in logs]
        from_log = replayed(sensor, sensor.log, tmp_path / "three")
        detected = [line for line in sensor.lines() if line["kind"] == "detection"]
        assert [each.returncode for each in done] == [0, 0], done[0].stderr
    assert file.stat().st_mode & 0o777 == 0o600
    one, two = (log.read_bytes() for log in logs)
    assert one == two
    again = {told(orjson.loads(line)) for line in one.splitlines()}
    began = min(orjson.loads(line)["time"] for line in one.splitlines())
    wanted = {told(line) for line in live if line["time"] >= began}
    assert wanted - again == set()
    assert {orjson.loads(line)["SandboxId"] for line in again} >= set(names)
    assert len(wanted) > 10
    (detection,) = map(orjson.loads, done[0].stdout.splitlines())
    assert detection["CommandLine"] == "/bin/echo x-7-y"
    # Of the log itself too: its events meet the same rules, and give the same detections at their events' times.
    assert from_log.returncode == 0, from_log.stderr
    assert [told(orjson.loads(line)) for line in from_log.stdout.splitlines()] == [told(line) for line in detected]
