"""Who did something to a file, where its number was used again before the sensor read of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.filing import Shell, looking
from tests.live.running import Running, Sandbox

TRIES = 200  # others on this host fork too
LOST = 'pinfold_events_lost_total{reason="unattributed",stage="files"}'


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with looking(rule_cache) as running:
        yield running


@pytest.fixture
def shell(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> Iterator[Shell]:
    with Shell(sensor, sandbox, tmp_path) as shell:
        yield shell.watched()


@contextmanager
def held(sensor: Running) -> Iterator[Callable[[], None]]:
    """The sensor reads nothing until what is given is called."""
    core = sensor.process
    assert core is not None
    core.send_signal(signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, core.pid, os.WSTOPPED | os.WNOWAIT)
        yield lambda: core.send_signal(signal.SIGCONT)
    finally:
        core.send_signal(signal.SIGCONT)


@contextmanager
def reused(number: int, box: Sandbox, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process with this number, once it is free."""
    for _ in range(TRIES):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
        process = box.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            if process.pid == number:
                yield process
                return
        finally:
            process.kill()
            process.communicate()
    raise AssertionError(f"{number} was never free")


def write(path: Path) -> tuple[str, ...]:
    return "/bin/dash", "-c", f"echo > {path}"


def test_it_is_not_the_newcomer(sensor: Running, shell: Shell) -> None:
    path = sensor.home / "trainer" / "one"
    with held(sensor) as go_on:
        writer = shell.box.start(*write(path))
        assert writer.wait() == 0
        with reused(writer.pid, shell.box, "/usr/bin/sleep", "600"):
            go_on()
            made = shell.wait("file_event", str(path))
    assert made["Image"] == "/usr/bin/dash" and made["ProcessId"] == writer.pid
    newcomer = sensor.wait(shell.box, category="process_creation", ProcessId=writer.pid, Image="/usr/bin/sleep")[0]
    assert made["ProcessGuid"] != newcomer["ProcessGuid"]
    assert len(shell.told("file_event", str(path))) == 1


def test_a_newcomer_is_not_put_down_for_what_was_done_outside(sensor: Running, shell: Shell) -> None:
    path, lost = sensor.home / "trainer" / "two", sensor.metrics().get(LOST, 0)
    with held(sensor) as go_on:
        writer = subprocess.Popen(write(path))
        assert writer.wait() == 0
        with reused(writer.pid, shell.box, "/usr/bin/sleep", "600"):
            go_on()
            sensor.until(lambda: sensor.metrics().get(LOST, 0) > lost, "a loss, counted")
    shell.do(f"echo > {path}")
    shell.wait("file_event", str(path))
    assert {line["ProcessId"] for line in shell.told("file_event", str(path))} == {shell.process.pid}


def test_a_newcomer_is_named_for_what_it_did(sensor: Running, shell: Shell) -> None:
    path = sensor.home / "trainer" / "three"
    with held(sensor) as go_on:
        first = shell.box.start("/usr/bin/true")
        assert first.wait() == 0
        with reused(first.pid, shell.box, "/bin/bash", "-c", f"read; echo > {path}; echo; read") as newcomer:
            assert newcomer.stdin is not None and newcomer.stdout is not None
            newcomer.stdin.write(b"\n")
            newcomer.stdin.flush()
            assert newcomer.stdout.readline() == b"\n"
            go_on()
            made = shell.wait("file_event", str(path))
    assert made["Image"] == "/usr/bin/bash" and made["ProcessId"] == first.pid


def test_many_events_leave_no_descriptor(sensor: Running, shell: Shell) -> None:
    assert sensor.process is not None
    core, folder = sensor.process.pid, sensor.home / "trainer"

    def pidfds() -> int:
        return sum(os.readlink(entry) == "anon_inode:[pidfd]" for entry in Path(f"/proc/{core}/fd").iterdir())

    with held(sensor) as go_on:
        before = pidfds()
        shell.do(f"for i in {{1..3000}}; do : > {folder}/$i; done")
        go_on()
        sensor.until(lambda: shell.told("file_event", f"{folder}/1"), "the first of many")
    sensor.settled(shell.box)
    assert pidfds() < before + 100
