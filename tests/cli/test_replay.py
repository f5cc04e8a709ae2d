"""`pinfold replay` and `pinfold rules test --baseline`, of a recording and of a log; no kernel, no daemon."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from sensor.cli import main
from tests.cli.terminal import Terminal
from tests.recording.test_recording import STORY, Recorded
from tests.test_pipeline import CONNECT, MINER

LOUD = CONNECT.replace("level: high", "level: medium")
QUIET = MINER.replace("level: high", "level: low")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    (tmp_path / "core").mkdir()
    core = Recorded(tmp_path / "core")
    core.begin()
    for position, record in enumerate(STORY):
        core.take(position * 8, record)
    core.run.lines()
    return Path(core.end())


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "loud.yml").write_text(LOUD)
    (folder / "quiet.yml").write_text(QUIET)
    return folder


def test_a_recording_is_replayed_twice_the_same(
    here: Path, recording: Path, rules: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logs = [here / name for name in ("one", "two")]
    for log in logs:
        assert main(["replay", str(recording), "--rules", str(rules), "--log", str(log), "-o", "json"]) == 0
    out, err = capfd.readouterr()
    assert [orjson.loads(line)["rule"]["level"] for line in out.splitlines()] == ["low", "medium"] * 2
    assert err == f"{_events(logs[0])} events, 2 detections\n" * 2
    assert logs[0].read_bytes() == logs[1].read_bytes() != b""
    assert logs[0].stat().st_mode & 0o777 == 0o600


def _events(log: Path) -> int:
    return sum(line.startswith(b'{"v":1,"kind":"event"') for line in log.read_bytes().splitlines())


def test_on_a_terminal_a_bar_goes_along_and_gives_way(here: Path, recording: Path, rules: Path) -> None:
    command = [sys.executable, "-m", "sensor.cli", "replay", str(recording), "--rules", str(rules)]
    terminal = Terminal(command, {"PINFOLD_CONFIG": str(here / "c.yaml"), "NO_COLOR": "1"}, (100, 24))
    assert terminal.status() == 0
    assert b"2 detections" in terminal.seen
    assert b"100%" in terminal.seen
    shown = [line.rpartition(b"\x1b[K")[2] for line in terminal.seen.splitlines() if b"xmrig -o pool" in line]
    assert shown
    assert all(line[2:3] == b":" for line in shown), "each begins with its time"


def test_the_log_is_replayed_too(here: Path, recording: Path, rules: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its events meet the rules of today, and give the detections of a recording."""
    log, again = here / "one", here / "two"
    assert main(["replay", str(recording), "--rules", str(rules), "--log", str(log)]) == 0
    first = capfd.readouterr().out
    assert "\x1b" not in first
    assert main(["replay", str(log), "--rules", str(rules), "--log", str(again)]) == 0
    assert capfd.readouterr().out == first
    sandboxless = [line for line in log.read_bytes().splitlines() if b'"kind":"sandbox"' not in line[:32]]
    assert again.read_bytes().splitlines() == sandboxless


def test_a_damaged_log_is_read_as_far_as_it_can_be(
    here: Path, recording: Path, rules: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = here / "one"
    assert main(["replay", str(recording), "--rules", str(rules), "--log", str(log)]) == 0
    capfd.readouterr()
    log.write_bytes(b'{"v":1,"kind":"event","category":"process_creation","id":9}\n' + log.read_bytes() + b'{"v":1,"ki')
    assert main(["replay", str(log), "--rules", str(rules)]) == 0
    err = capfd.readouterr().err
    assert "2 detections; its end is missing: read as far as it is whole; 1 could not be read" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x50\x2a\x4d\x18what", "not a recording of pinfold: make one with `pinfold record FILE`"),
        (b"#!/bin/sh\n", "not a recording of pinfold"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_a_line(
    here: Path, rules: Path, content: bytes, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "x").write_bytes(content)
    assert main(["replay", str(here / "x"), "--rules", str(rules)]) == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_broken_rule_is_named(here: Path, recording: Path, rules: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (rules / "broken.yml").write_text("title: x\n")
    assert main(["replay", str(recording), "--rules", str(rules)]) == 1
    assert "broken.yml:" in capfd.readouterr().err


def test_a_baseline_lists_what_fired_and_is_10_at_medium(
    here: Path, recording: Path, rules: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["rules", "test", "--baseline", str(recording), str(rules), "-o", "json"]) == 10
    out, err = capfd.readouterr()
    loud, quiet = map(orjson.loads, out.splitlines())
    assert (loud["level"], loud["count"], loud["example"]["DestinationPort"]) == ("medium", 1, 3333)
    assert (quiet["level"], quiet["example"]["CommandLine"]) == ("low", "xmrig -o pool")
    assert err.endswith("2 rules fired, 1 of them at medium or above\n")
    (rules / "loud.yml").unlink()
    assert main(["rules", "test", "--baseline", str(recording), str(rules)]) == 0
    assert "xmrig -o pool" in capfd.readouterr().out
