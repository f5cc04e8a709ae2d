from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from rich.cells import cell_len

from sensor.cli.live import _telling
from tests.cli.terminal import REPOSITORY, WAIT_S, Terminal

# The view itself, with another sensor than the real one.
VIEW = (
    "import os, sys\nfrom sensor.cli.live import LiveView\n"
    "folder, *command = sys.argv[1:]\n"
    "sys.exit(LiveView(folder + '/events.jsonl').run([sys.executable, '-m', *command], os.environ))"
)


def view(folder: Path, lines: int = 3) -> list[str]:
    return [sys.executable, "-c", VIEW, str(folder), "tests.cli.fake_sensor", str(folder), str(lines)]


def until(path: Path, text: str) -> str:
    deadline = time.monotonic() + WAIT_S
    while text not in (seen := path.read_text()):
        assert time.monotonic() < deadline, f"{text!r} did not come: {seen!r}"
        time.sleep(0.02)
    return seen


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 5), (signal.SIGINT, 6), (signal.SIGHUP, 5)], ids=["term", "int", "hangup"]
)
def test_the_view_shows_what_is_logged_and_passes_signals_on(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "COLUMNS": "80", "TMPDIR": str(tmp_path / "tmp")}
    with (
        out.open("wb") as stdout,
        err.open("wb") as stderr,
        subprocess.Popen(view(tmp_path), cwd=REPOSITORY, env=environment, stdout=stdout, stderr=stderr) as child,
    ):
        until(out, "HIGH")
        child.send_signal(sent)
        assert child.wait(WAIT_S) == status
    lines = out.read_text().splitlines()
    assert [line[28:].split()[0] for line in lines] == ["exec", "exec", "exec", "HIGH", "notice"]
    assert all(line.isprintable() and cell_len(line) <= 80 for line in lines)
    assert "\\x1b[2Jcommand 0" in lines[0]
    assert list((tmp_path / "tmp").iterdir()) == []
    told = err.read_text().splitlines()
    assert told == ["compiling \\x1b[31m", f"ready: logging to {tmp_path}/events.jsonl; times are UTC; Ctrl-C ends it"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"Phase": "established", "Initiated": True}, False),
        ({"Phase": "established", "Initiated": False}, True),
        ({"Phase": "sample", "Initiated": True}, False),
        ({"Phase": "sample", "Initiated": True, "EndReason": "cut"}, True),
        ({"Phase": "ended", "Initiated": True, "EndReason": "closed"}, True),
        ({"Phase": "established", "Initiated": True, "kind": "detection"}, True),
    ],
)
def test_of_a_flow_the_view_shows_what_no_other_line_says(fields: dict[str, object], told: bool) -> None:
    assert _telling({"kind": "event", "category": "network_flow", **fields}) is told


def test_a_flood_is_skipped_in_the_view_not_in_the_log(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    with (
        out.open("wb") as stdout,
        err.open("wb") as stderr,
        subprocess.Popen(view(tmp_path, 5000), cwd=REPOSITORY, stdout=stdout, stderr=stderr) as child,
    ):
        until(err, "bytes of the log are not shown")
        child.terminate()
        assert child.wait(WAIT_S) == 5
    assert out.read_text().count("\n") < 5000
    assert (tmp_path / "events.jsonl").read_text().count("\n") == 5004


def test_a_sensor_that_does_not_start_ends_the_view_with_its_status(tmp_path: Path) -> None:
    command = [sys.executable, "-c", VIEW, str(tmp_path), "tests.cli.no_such_module"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no_such_module" in done.stderr


def test_a_view_that_is_killed_takes_the_sensor_with_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as stdout, subprocess.Popen(view(tmp_path), cwd=REPOSITORY, stdout=stdout) as child:
        until(out, "HIGH")
        child.kill()
    until(tmp_path / "events.jsonl", "stopped")


def test_ctrl_c_at_a_terminal_reaches_the_sensor_once_and_colours_are_there(tmp_path: Path) -> None:
    terminal = Terminal(view(tmp_path), {"TERM": "xterm", "NO_COLOR": ""})
    terminal.until(b"HIGH")
    terminal.type(b"\x03")
    assert terminal.status() == 6
    seen = terminal.seen.decode()
    assert "\x1b[31m\x1b[1mHIGH" in seen
    assert "\x1b[2J" not in seen
    assert "\\x1b[2Jcommand 0" in click.unstyle(seen)
