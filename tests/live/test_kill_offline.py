"""`pinfold kill` and `pinfold status` without a daemon, on real cgroups of an instance of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from tests.cli.terminal import REPOSITORY, WAIT_S
from tests.live.names import unique
from tests.live.running import Sandbox, remove_cgroup


class Place:
    def __init__(self, home: Path) -> None:
        self.instance = f"pf-test-{unique()}"
        self.parent = Path(find_cgroup2_mount()) / self.instance
        self.parent.mkdir()
        self.home = home
        self.config = home / "c.yaml"
        paths = ", ".join(f"{name}: {home}/{name}" for name in ("state", "runtime", "log", "cache"))
        self.config.write_text(f"instance: {self.instance}\npaths: {{{paths}}}\n")

    def pinfold(self, *arguments: str, cgroup: Path | None = None) -> subprocess.CompletedProcess[str]:
        """In a cgroup of its own where one is given."""

        def enter() -> None:
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text("0")

        return subprocess.run(
            [sys.executable, "-m", "sensor.cli", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PINFOLD_CONFIG": str(self.config)},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            preexec_fn=enter,
        )

    def audit(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.home / "state/audit.jsonl").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    remove_cgroup(made.parent)


@pytest.fixture
def box(place: Place) -> Iterator[Sandbox]:
    made = Sandbox(place.parent / "agent-1")
    yield made
    made.remove()


KILL = ("kill", "agent-1", "--reason", "a miner")


def test_everything_in_it_is_killed_nested_and_frozen_too(place: Place, box: Sandbox) -> None:
    nested = box.path / "nested"
    nested.mkdir()
    plain = box.start("sleep", "1000")
    inside = box.start("sleep", "1000")
    (nested / "cgroup.procs").write_text(str(inside.pid))
    (box.path / "cgroup.freeze").write_text("1")
    assert place.pinfold(*KILL).returncode == 2  # nobody consented
    would = place.pinfold(*KILL, "--dry-run")
    assert (would.returncode, would.stdout) == (0, f"kill 2 processes in {place.instance}/agent-1\n")
    assert plain.poll() is None
    done = place.pinfold(*KILL, "--yes", "-o", "compact")
    assert (done.returncode, done.stdout) == (0, "agent-1\t2\n"), done.stderr
    assert "going on alone" in done.stderr
    assert (plain.wait(WAIT_S), inside.wait(WAIT_S)) == (-9, -9)
    (line,) = place.audit()
    assert (line["operation"], line["SandboxId"], line["outcome"]) == ("kill", box.id, "done")


def test_the_operators_own_shell_is_never_killed(place: Place, box: Sandbox) -> None:
    victim = box.start("sleep", "1000")
    done = place.pinfold(*KILL, "--yes", cgroup=box.path)
    assert done.returncode == 1
    assert "is not killed: the cgroup holds a process of pinfold" in done.stderr
    assert victim.poll() is None
    assert place.audit()[0]["outcome"] == "failed"
    victim.kill()
    victim.wait(WAIT_S)


def test_an_empty_sandbox_is_told_as_such(place: Place, box: Sandbox) -> None:
    done = place.pinfold(*KILL, "--yes", "-o", "compact")
    assert (done.returncode, done.stdout) == (0, "agent-1\t0\n"), done.stderr


def test_what_is_no_sandbox_cannot_be_named(place: Place, box: Sandbox) -> None:
    other = place.parent / "agent-1/nested"
    other.mkdir()
    for word in ("nested", str(other.stat().st_ino), f"{place.instance}/agent-1/nested", "/", place.instance, "agent"):
        done = place.pinfold("kill", word, "--reason", "x", "--yes")
        assert done.returncode == 3, (word, done.stderr)


def test_the_status_counts_what_is_there(place: Place, box: Sandbox) -> None:
    done = place.pinfold("status", "-o", "json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["sandboxes"] == 1
