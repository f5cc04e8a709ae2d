"""CPU used for hours: by one program, by many short ones, and by what pauses as builds and tests do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from sensor.configdetect import CpuBurnSettings, DetectSettings
from sensor.detect.host import HostWorld
from sensor.detect.world import Busiest, Living
from sensor.enrich import procfs
from sensor.enrich.processes import EntryProgram, Process, ProcessTable
from sensor.events.activity import Activity
from tests.detect.scene import SANDBOX, SECOND, Scene, make

BURNER = 700
LIVING = Living(SANDBOX, "agent-1", "default")
MINUTE = 60


def scene(cpu_ns: int = 10**18) -> Scene:
    """`cpu_ns`: of the busiest program; without end, all that is used is its."""
    made = Scene()
    made.world.living = (LIVING,)
    accused = make(Activity, SandboxId=SANDBOX, ProcessId=BURNER, Image="/opt/worker", CommandLine="worker -t 4")
    made.world.busy = Busiest(accused, cpu_ns)
    return made


def burn(on: Scene, minutes: int, cores: Callable[[int], float]) -> None:
    for minute in range(minutes):
        assert on.world.usage_ns is not None
        on.world.usage_ns += int(MINUTE * cores(minute) * SECOND)
        on.wait(MINUTE)


def test_one_program_for_hours() -> None:
    on = scene()
    burn(on, 119, lambda _: 1.0)
    assert on.of("cpu_burn") == []
    burn(on, 3, lambda _: 1.0)
    (event,) = on.of("cpu_burn")
    assert (event.Score, event.ScoreParts) == (60, "long=40 single=20")
    assert (event.ProcessId, event.Image, event.SandboxId) == (BURNER, "/opt/worker", SANDBOX)
    assert event.DurationMs >= 7200 * 1000
    assert event.CpuPercent == 12  # one of eight
    burn(on, 30, lambda _: 1.0)
    assert len(on.of("cpu_burn")) == 1, "once an hour"


def test_all_cpus_score_more() -> None:
    on = scene()
    burn(on, 123, lambda _: 7.8)
    assert on.score("cpu_burn") == 75


def test_many_short_programs_are_told_later() -> None:
    on = scene(cpu_ns=0)
    burn(on, 123, lambda _: 2.0)
    assert on.score("cpu_burn") == 40
    burn(on, 360, lambda _: 2.0)
    assert on.score("cpu_burn") == 60


def test_short_pauses_hide_nothing() -> None:
    on = scene()
    burn(on, 140, lambda minute: 0.0 if minute % 20 == 19 else 1.0)
    assert on.score("cpu_burn") == 60


@pytest.mark.parametrize(
    "cores",
    [
        lambda minute: 8.0 if minute % 60 < 40 else 0.1,  # builds, with a person or a model between them
        lambda minute: 0.4,  # a dev server, a notebook
        lambda minute: 4.0 if minute % 4 else 0.0,  # tests that wait for what they test
    ],
)
def test_ordinary_work(cores: Callable[[int], float]) -> None:
    on = scene()
    burn(on, 600, cores)
    assert on.of("cpu_burn") == []
    assert on.world.scans == 0


def test_what_ended_is_forgotten_and_what_cannot_be_read_is_nothing() -> None:
    on = scene()
    burn(on, 100, lambda _: 1.0)
    on.sandbox_ends()
    burn(on, 100, lambda _: 1.0)
    assert on.of("cpu_burn") == []
    on.world.usage_ns = None
    on.wait(300)
    assert on.of("cpu_burn") == []


def test_thousands_of_sandboxes_are_looked_at_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    on = scene()
    on.world.living = tuple(Living(number, str(number), "default") for number in range(1, 1001))
    asked: list[int] = []

    def usage(sandbox_id: int) -> int:
        asked.append(sandbox_id)
        return 0

    monkeypatch.setattr(on.world, "cpu_usage_ns", usage)
    on.wait(1)
    assert 0 < len(asked) < 1000
    on.wait(10)
    assert sorted(asked) == list(range(1, 1001))


def test_settings_make_seconds_of_hours() -> None:
    on = Scene(DetectSettings(cpu_burn=CpuBurnSettings(every_s=1, age_s=3)))
    on.world.living, on.world.busy = (LIVING,), Busiest(make(Activity, ProcessId=BURNER), 10**18)
    for _ in range(6):
        assert on.world.usage_ns is not None
        on.world.usage_ns += SECOND
        on.wait(1)
    assert on.score("cpu_burn") == 60


def test_the_busiest_of_living_processes() -> None:
    """Two that idle, and one that works; its twin's time is added."""
    started: list[subprocess.Popen[bytes]] = []
    table = ProcessTable(100)
    try:
        for image, code in (("/bin/idle", "input()"), ("/bin/burn", "while 1: pass"), ("/bin/burn", "while 1: pass")):
            child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE)
            started.append(child)
            stat = procfs.read_stat(child.pid)
            assert stat is not None
            entry = EntryProgram(child.pid, stat.start_ns)
            table.found(Process(child.pid, stat.start_ns, 0, SANDBOX, SANDBOX, 1, None, entry, image=image))
        until = time.monotonic() + 20
        while not all(procfs.cpu_ns(child.pid, _start(child.pid)) for child in started[1:]):
            assert time.monotonic() < until
            time.sleep(0.02)
        nothing = lambda *_: None  # noqa: E731
        world = HostWorld(table, nothing, nothing, nothing, lambda *_: False, lambda *_: False, lambda: [LIVING])
        for child in started[1:]:
            os.kill(child.pid, signal.SIGSTOP)
        found = world.busiest(LIVING)
        assert found is not None
        assert found.accused.Image == "/bin/burn" and found.accused.SandboxName == "agent-1"
        assert found.accused.ProcessId in {child.pid for child in started[1:]}
        assert found.cpu_ns == sum(procfs.cpu_ns(child.pid, _start(child.pid)) or 0 for child in started[1:])
        assert list(world.sandboxes()) == [LIVING]
        assert world.busiest(Living(1, "", "")) is None
    finally:
        for child in started:
            child.kill()
            child.wait()
    assert procfs.cpu_ns(started[1].pid, 0) is None


def _start(tgid: int) -> int:
    stat = procfs.read_stat(tgid)
    assert stat is not None
    return stat.start_ns
