"""Where a run of the bench lives: its folder, its compiled workloads, its cgroups; all gone afterwards."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.bench.harness import BenchError, one_line
from tests.workloads.build import build

CHECKOUT = Path(__file__).resolve().parents[2]


class Plan(Struct, frozen=True):
    """How much is measured. Medians want 15 rounds or more; `quick` only shows that everything works."""

    rounds: int = 15
    seconds: float = 0.35  # of one workload, in one round
    storm_seconds: float = 5.0
    storms: int = 3
    kills: int = 300
    events: int = 1_000_000  # before memory is read
    sandboxes: int = 100
    starts: int = 7
    records: int = 60_000  # through the pipeline, each repetition
    repetitions: int = 15
    crashes: int = 100  # of the daemon
    crashed_quarantines: int = 20  # meanwhile
    reloads: int = 1000
    quarantines: int = 150  # after a detection
    crowds: int = 7  # quarantined by the operator's command
    migrations: int = 100  # out of a sandbox's cgroup
    guarded: int = 200  # sandboxes
    asked_seconds: float = 15.0  # the control socket
    refusals: int = 1000  # of each kind


QUICK = Plan(
    rounds=5, seconds=0.2, storm_seconds=1.5, storms=1, kills=60, events=50_000, sandboxes=20, starts=3,
    records=20_000, repetitions=3, refusals=50, crashes=6, crashed_quarantines=4,
    reloads=30, quarantines=10, crowds=2, asked_seconds=3.0, migrations=10, guarded=20,
)  # fmt: skip


class Workspace:
    """One run's private names and folders, and the means to run a workload in a cgroup."""

    def __init__(self, plan: Plan, folder: Path, cgroup_mount: Path, seed: int) -> None:
        self.plan = plan
        self.folder = folder
        self.cgroup_mount = cgroup_mount
        self.chance = random.Random(seed)  # noqa: S311 (the order of arms, not secrets)
        self.instance = f"pinfold-bench-{secrets.token_hex(4)}"
        self.workloads = build(folder)
        # The last core for what is measured, so that the observers' own work does not hide behind migrations.
        self.core = max(os.sched_getaffinity(0))
        # Where observers run while a cost is measured: as on a host that keeps CPUs for its workloads. On the same
        # core an observer's own work would be in every figure, and where the scheduler puts it is chance.
        self.others = sorted(os.sched_getaffinity(0) - {self.core}) or [self.core]

    def tell(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(f"bench: {text}", file=sys.stderr, flush=True)

    @property
    def sandboxes(self) -> Path:
        """Every cgroup directly below is a sandbox."""
        return self.cgroup_mount / self.instance

    @property
    def shared(self) -> Path:
        """Here only `box-*` are sandboxes: an ordinary service below pays a look-up for its neighbours."""
        return self.cgroup_mount / f"{self.instance}-shared"

    @property
    def outside(self) -> Path:
        """A cgroup that has nothing to do with any sandbox."""
        return self.cgroup_mount / f"{self.instance}-outside"

    @contextmanager
    def cgroup(self, path: Path) -> Iterator[Path]:
        """A cgroup for a while; whatever still runs in it is killed first."""
        path.mkdir(exist_ok=True)
        try:
            yield path
        finally:
            remove_cgroup(path)

    def run(self, program: str, *arguments: object, cgroup: Path, wrap: Sequence[str] = ()) -> dict[str, Any]:
        """Runs a workload to its end in `cgroup`, `wrap` (such as strace) around it; its JSON report."""
        process = self.spawn(program, *arguments, cgroup=cgroup, wrap=wrap)
        return finish(process)

    def spawn(
        self, program: str, *arguments: object, cgroup: Path, wrap: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        command = [
            str(self.workloads / "enter"), str(cgroup), "--", *wrap,
            str(self.workloads / program), *(str(argument) for argument in arguments),
        ]  # fmt: skip
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes], timeout_s: float = 360) -> dict[str, Any]:
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{process.args!r} did not end within {timeout_s:.0f} s") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    name = Path(process.args[3]).name if isinstance(process.args, list) else "workload"
    if process.returncode:
        raise BenchError(f"{name}: exit status {process.returncode}: {one_line(err.decode(errors='replace')[-300:])}")
    try:
        report: dict[str, Any] = msgspec.json.decode(out, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BenchError(f"{name} printed no report: {one_line(out[:200])}") from error
    return report


def remove_cgroup(path: Path) -> None:
    """Kills what runs in `path` and below, then removes it. Nothing happens where it is gone already."""
    if not path.is_dir():
        return
    for child in path.iterdir():
        if child.is_dir():
            remove_cgroup(child)
    with suppress(OSError):  # cgroup.kill needs 5.14; the rmdir below tells if something is left
        (path / "cgroup.kill").write_text("1")
    for attempt in range(100):
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:  # the killed are still being reaped
            if attempt == 99:
                print(f"bench: {path} is left: {error}", file=sys.stderr)
            time.sleep(0.02)


def cgroup2_mount() -> Path:
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == "cgroup2":
                return Path(fields[1])
    raise BenchError("no cgroup2 is mounted")


def _interrupted(number: int, _frame: object) -> None:
    """Once: a second signal must not cut the cleaning up short."""
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    sys.exit(128 + number)


@contextmanager
def workspace(plan: Plan, seed: int) -> Iterator[Workspace]:
    """Everything of it is removed at the end, also after SIGINT and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    folder = Path(tempfile.mkdtemp(prefix="pinfold-bench-"))
    made = None
    try:
        made = Workspace(plan, folder, cgroup2_mount(), seed)
        for path in (made.sandboxes, made.shared, made.outside):
            path.mkdir()
        (made.shared / "service").mkdir()
        yield made
    finally:
        if made is not None:
            for path in (made.sandboxes, made.shared, made.outside):
                remove_cgroup(path)
        shutil.rmtree(folder, ignore_errors=True)
