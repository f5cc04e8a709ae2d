"""At a real terminal: it draws, obeys, says when the sensor is gone, and leaves the terminal as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.cli import main
from tests.cli.fake_api import FakeApi, serving
from tests.cli.fake_top import told
from tests.cli.terminal import Terminal, screen
from tests.cli.test_app import COMMAND, pinfold

# The shell keeps the terminal open and tells its settings; it gets no signal that is sent to its foreground job alone.
AROUND = 'stty -a > "$0/before"; "$@"; echo "status $?"; stty -a > "$0/after"'
FAILS = (
    "import sys\nimport sensor.cli.topframe as topframe\nfrom sensor.cli import main\nreal = topframe.frame\n"
    "def frame(view, *size):\n    if view.told is not None:\n        raise RuntimeError('a defect')\n"
    "    return real(view, *size)\n"
    "topframe.frame = frame\nsys.exit(main(['top', *sys.argv[1:]]))"
)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(f"paths: {{runtime: {tmp_path}}}\n")
    return str(path)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with serving(tmp_path) as fake:
        fake.answers["GET /v1/top"] = (200, told(40))
        yield fake


def around(folder: Path, config: str, command: list[str] | None = None, term: str = "xterm") -> Terminal:
    command = [*(command or [*COMMAND, "top"]), "--config", config]
    shell = ["/bin/sh", "-c", AROUND, str(folder), *command]
    return Terminal(shell, {"TERM": term, "PYTHONIOENCODING": "utf-8", "NO_COLOR": ""}, (80, 24))


def restored(terminal: Terminal, folder: Path, status: int) -> None:
    """The same settings as before, the cursor and the first screen back, and the shell goes on."""
    terminal.until(b"status ")
    assert terminal.status() == 0
    assert f"status {status}" in terminal.seen.decode()
    assert (folder / "after").read_text() == (folder / "before").read_text()
    drawing = terminal.seen.rpartition(b"status ")[0]
    for begin, end in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert drawing.count(begin) == drawing.count(end) > 0
        assert drawing.rindex(end) > drawing.rindex(begin)


@pytest.mark.parametrize("term", ["xterm", "screen", "linux", "xterm-ghostty"])
@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_it_draws_and_quits_cleanly(tmp_path: Path, config: str, api: FakeApi, term: str, key: bytes) -> None:
    terminal = around(tmp_path, config, term=term)
    rows = terminal.drawn("agent-0")
    assert rows[0].startswith("pinfold top") and rows[-1].startswith("q quit")
    terminal.type(key)
    restored(terminal, tmp_path, 0)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, config: str, api: FakeApi, sent: signal.Signals) -> None:
    pid = tmp_path / "pid"
    code = (
        f"import os, sys\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        "from sensor.cli import main\nsys.exit(main(['top', *sys.argv[1:]]))"
    )
    terminal = around(tmp_path, config, [sys.executable, "-c", code])
    terminal.drawn("agent-0")
    subprocess.run(["kill", f"-{sent.value}", pid.read_text()], check=True)
    restored(terminal, tmp_path, 128 + sent)


def test_an_exception_leaves_the_terminal_as_it_was(tmp_path: Path, config: str, api: FakeApi) -> None:
    terminal = around(tmp_path, config, [sys.executable, "-c", FAILS])
    terminal.until(b"a defect")
    restored(terminal, tmp_path, 1)


def test_a_terminal_that_goes_away_ends_it(tmp_path: Path, config: str, api: FakeApi) -> None:
    terminal = Terminal([*COMMAND, "top", "--config", config], {"TERM": "xterm"}, (80, 24))
    terminal.drawn("agent-0")
    assert terminal.hang_up() in (128 + signal.SIGHUP, -signal.SIGHUP)


def test_keys_scroll_sort_hold_and_help(tmp_path: Path, config: str, api: FakeApi) -> None:
    terminal = around(tmp_path, config)
    assert "(1-" in terminal.drawn("EV/S*")[0]
    terminal.type(b"jj\x1b[B\x1bOB")
    terminal.drawn("(5-")
    terminal.type(b"k\x1b[A")
    terminal.drawn("(3-")
    terminal.type(b"G")
    terminal.drawn("-40)")
    terminal.type(b"g")
    terminal.drawn("(1-")
    terminal.type(b"s")
    terminal.drawn("CON/S*")
    terminal.type(b"S")
    terminal.drawn("EV/S*")
    terminal.type(b"?")
    terminal.drawn("this help, and back")
    terminal.type(b"?")
    terminal.drawn("agent-0")
    terminal.type(b"p")
    terminal.drawn("HELD")
    api.answers["GET /v1/top"] = (200, {**told(1), "events_s": 7})
    asked = len(api.asked)
    terminal.type(b"\x1b[5~\x1b[99~\x1bx\xff")  # nothing of this ends it
    while len(api.asked) < asked + 2:
        terminal.read()
    assert "40 sandboxes" in terminal.drawn("HELD")[0]
    terminal.type(b"p")
    terminal.drawn("1 sandboxes  7 events/s")
    terminal.type(b"q")
    restored(terminal, tmp_path, 0)


def test_it_follows_the_terminal_s_size(tmp_path: Path, config: str, api: FakeApi) -> None:
    terminal = around(tmp_path, config)
    terminal.drawn("agent-0")
    terminal.resize(40, 10)
    rows = terminal.drawn("q quit", 40, 10)
    assert rows[9].startswith("q quit") and "agent-0" in "\n".join(rows)
    terminal.resize(132, 50)
    terminal.drawn("agent-20", 132, 50)
    terminal.type(b"p")
    assert terminal.drawn("HELD", 132, 50)[49].startswith("q quit")
    terminal.resize(80, 24)
    terminal.type(b"q")
    restored(terminal, tmp_path, 0)


def test_it_outlives_the_sensor(tmp_path: Path, config: str) -> None:
    terminal = around(tmp_path, config)
    terminal.drawn("no daemon runs here")
    with serving(tmp_path) as api:
        api.answers["GET /v1/top"] = (200, told(2))
        terminal.drawn("agent-1")
    assert "agent-1" in "\n".join(terminal.drawn("trying again"))
    (tmp_path / "control.sock").unlink()
    with serving(tmp_path) as api:
        api.answers["GET /v1/top"] = (200, {**told(2), "events_s": 77})
        terminal.drawn("77 events/s")
        api.answers["GET /v1/top"] = (200, b"{\x1b")
        terminal.drawn("is no JSON")
    terminal.type(b"q")
    restored(terminal, tmp_path, 0)


def test_hostile_names_reach_no_terminal(tmp_path: Path, config: str, api: FakeApi) -> None:
    hostile = told(1)
    hostile["sandboxes"][0]["name"] = "\x1b]0;t\x07x"
    api.answers["GET /v1/top"] = (200, hostile)
    terminal = around(tmp_path, config)
    terminal.drawn("\\x1b]0;t")
    terminal.type(b"q")
    restored(terminal, tmp_path, 0)
    assert b"\x1b]" not in terminal.seen


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_be_drawn_on_is_refused_in_one_line(tmp_path: Path, config: str, term: str) -> None:
    terminal = around(tmp_path, config, term=term)
    terminal.until(b"status ")
    assert terminal.status() == 0
    lines = terminal.seen.decode().splitlines()
    assert lines[-1] == "status 2" and len(lines) == 2
    assert "--once" in lines[0] and "\x1b" not in lines[0]


def test_without_a_terminal_there_is_one_picture_or_none(config: str, api: FakeApi) -> None:
    done = pinfold("top", "--config", config)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = pinfold("top", "--once", "--config", config, LINES="24")
    assert (done.returncode, done.stderr) == (0, "")
    rows = done.stdout.splitlines()
    assert len(rows) == 23 and "agent-0" in done.stdout and "\x1b" not in done.stdout
    assert max(map(len, rows)) <= 80


def test_one_picture_without_the_sensor_is_5(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--config", config]) == 5
    assert "no daemon runs here" in capsys.readouterr().err


def test_the_screen_of_these_tests_draws() -> None:
    assert screen(b"x\x1b[2J\x1b[2;1H\x1b[1mab\x1b[0m\x1b[1;2Hc\r\nd", 4, 2) == [" c", "db"]


def test_a_terminal_of_another_encoding_gets_ascii(tmp_path: Path, config: str, api: FakeApi) -> None:
    long = told(1)
    long["sandboxes"][0]["name"] = "é" * 50
    api.answers["GET /v1/top"] = (200, long)
    environment = {"TERM": "xterm", "PYTHONIOENCODING": "ascii"}
    terminal = Terminal([*COMMAND, "top", "--config", config], environment, (80, 24))
    terminal.drawn("?????????????~")
    terminal.type(b"q")
    assert terminal.status() == 0
    assert terminal.seen.isascii()
