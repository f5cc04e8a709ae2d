"""`pinfold sandbox run` with real cgroups, under an instance of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from tests.cli.terminal import REPOSITORY, WAIT_S, Terminal
from tests.live.names import unique


class Box:
    """An instance with a configuration; `path` is its cgroup."""

    def __init__(self, folder: Path) -> None:
        instance = f"pf-test-{unique()}"
        self.path = Path(find_cgroup2_mount()) / instance
        self.config = folder / "c.yaml"
        self.config.write_text(f"instance: {instance}\n")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "sensor.cli", "sandbox", "run", "--config", str(self.config), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=REPOSITORY, capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    def cgroups(self) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_dir())

    def clean(self) -> None:
        if not self.path.exists():
            return
        (self.path / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + WAIT_S
        while "populated 1" in (self.path / "cgroup.events").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        self.path.rmdir()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    assert os.geteuid() == 0, "root is needed: cgroups are made"
    box = Box(tmp_path)
    yield box
    box.clean()


def test_the_command_runs_in_its_cgroup_from_its_first_instruction(box: Box) -> None:
    done = box.run("one", "--", "grep", "^0:", "/proc/self/cgroup")
    assert done.stdout == f"0::/{box.path.name}/one\n"
    assert (done.returncode, done.stderr) == (0, "")
    assert box.cgroups() == []


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["/nonexistent/\x1b"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -PIPE $$; exit 0"], 128 + 13),
        (["--", "sh", "-c", "exit 3"], 3),
    ],
)
def test_the_exit_status_is_the_command_s(box: Box, command: list[str], status: int) -> None:
    done = box.run("one", *command)
    assert done.returncode == status
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
    assert box.cgroups() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "x" * 65, "\x1b", "é"])
def test_a_name_that_could_leave_the_instance_is_2(box: Box, name: str) -> None:
    done = box.run(name, "true")
    assert done.returncode == 2
    assert done.stderr.startswith("pinfold: a sandbox's name is 1 to 64 letters")
    assert not box.path.exists()


def test_the_command_s_own_options_are_left_to_it(box: Box) -> None:
    assert box.run("one", "printf", "%s", "--help").stdout == "--help"
    assert box.run("one", "--", "printf", "%s", "--", "-o").stdout == "---o"


def test_what_stays_behind_is_named_and_the_name_is_taken(box: Box) -> None:
    done = box.run("one", "sh", "-c", "exec >/dev/null 2>&1; sleep 1000 & exit 4")
    assert done.returncode == 4
    assert done.stderr.startswith("pinfold: sandbox one still has processes: ")
    assert done.stderr.endswith(" sleep\n")
    again = box.run("one", "true")
    assert again.returncode == 1
    assert "sandbox one is in use" in again.stderr
    (box.path / "one/cgroup.kill").write_text("1")


def test_leftovers_are_killed_when_asked_and_nested_cgroups_removed(box: Box) -> None:
    nest = f"mkdir -p {box.path}/one/a/b; sleep 1000 & echo $! >{box.path}/one/a/b/cgroup.procs"
    done = box.run("--kill-leftovers", "one", "sh", "-c", f"exec >/dev/null 2>&1; {nest}; exit 4")
    assert (done.returncode, done.stderr) == (4, "")
    assert box.cgroups() == []


def test_an_empty_leftover_is_a_new_cgroup(box: Box) -> None:
    (box.path / "one").mkdir(parents=True)
    before = (box.path / "one").stat().st_ino
    done = box.run("one", "stat", "-c", "%i", str(box.path / "one"))
    assert done.returncode == 0
    assert int(done.stdout) != before


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(box: Box, sent: signal.Signals) -> None:
    name = sent.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 9' {name}; echo up; while :; do sleep 0.05; done"
    with subprocess.Popen(box.command("one", "sh", "-c", script), cwd=REPOSITORY, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        child.send_signal(sent)
        assert child.wait(WAIT_S) == 9
        assert child.stdout.read() == b"got\n"


def test_ctrl_c_at_a_terminal_reaches_the_command_once(box: Box) -> None:
    script = "trap 'echo got' INT; echo up; sleep 1; sleep 1; echo end"
    terminal = Terminal(box.command("one", "sh", "-c", script), {})
    terminal.until(b"up")
    terminal.type(b"\x03")
    assert terminal.status() == 0
    assert terminal.seen.count(b"got") == 1
    assert b"end" in terminal.seen
