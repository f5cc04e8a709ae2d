"""Who sets a sandbox up is excused from rules about system calls, and nobody who takes its name and its empty command
line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.running import Line, Running, Sandbox

MOUNT, ENTER = (
    "A sandbox mounts with the rights over the host",
    "A namespace is entered or made with the rights over the host",
)
HELPERS = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
own = os.open("/proc/self/ns/uts", 0)
def deeds(times=1):
    for _ in range(times):
        assert libc.syscall(308, own, 0) == 0
        os.close(libc.syscall(430, b"tmpfs", 0))
def move_in():
    with open(os.environ["BOX"] + "/cgroup.procs", "w") as file:
        file.write("0")
def cloned_in():
    "fork, by clone3 with CLONE_INTO_CGROUP."
    box = os.open(os.environ["BOX"], os.O_PATH)
    arguments = struct.pack("<11Q", 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, box)
    return libc.syscall(435, arguments, 88)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Path]:
    """Any program, under a runtime's name."""
    copy = tmp_path / "runc"
    shutil.copy("/usr/bin/python3.11", copy)
    yield copy
    copy.unlink()


def nameless(box: Sandbox, program: Path, code: str, *, inside: bool) -> subprocess.CompletedProcess[bytes]:
    """What the kernel makes of an empty argv is one empty argument."""
    environment = os.environ | {"BOX": str(box.path), "PYTHONHOME": "/usr", "SELF": str(program)}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options: dict[str, Any] = {"executable": str(program), "env": environment, **pipes}
    process = box.start("", **options) if inside else subprocess.Popen([""], **options)
    out, err = process.communicate((HELPERS + code).encode(), timeout=60)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess("", 0, out, err)


def calls(sensor: Running, box: Sandbox) -> list[Line]:
    return [line for line in sensor.of(box, category="system_call") if line["SystemCall"] in {"setns", "fsopen"}]


def detected(sensor: Running, box: Sandbox) -> set[str]:
    return {line["rule"]["title"] for line in sensor.of(box, kind="detection")}


def test_a_copy_under_a_runtimes_name_without_arguments_is_not_excused(
    sensor: Running, sandbox: Sandbox, fake: Path
) -> None:
    nameless(sandbox, fake, "deeds()", inside=True)
    sensor.settled(sandbox)
    found = {(line["SystemCall"], line["Image"], line["CommandLine"]) for line in calls(sensor, sandbox)}
    assert found == {("setns", str(fake), ""), ("fsopen", str(fake), "")}
    assert not any(line["BroughtAlong"] for line in calls(sensor, sandbox))
    assert {MOUNT, ENTER} <= detected(sensor, sandbox)


@pytest.mark.parametrize("code", ["move_in(); deeds()", "cloned_in() or deeds()"], ids=["moved", "cloned"])
def test_a_runtime_that_came_in_is_excused(sensor: Running, sandbox: Sandbox, fake: Path, code: str) -> None:
    nameless(sandbox, fake, code, inside=False)
    sensor.wait(sandbox, category="system_call", SystemCall="fsopen")
    sensor.settled(sandbox)
    assert {(line["Image"], line["BroughtAlong"]) for line in calls(sensor, sandbox)} == {(str(fake), True)}
    assert not {MOUNT, ENTER} & detected(sensor, sandbox)


def test_and_its_children_until_they_execute(sensor: Running, sandbox: Sandbox, fake: Path) -> None:
    code = """
move_in()
child = os.fork()
if child == 0:
    deeds(); os._exit(0)
os.waitpid(child, 0)
"""
    nameless(sandbox, fake, code, inside=False)
    sensor.settled(sandbox)
    assert {line["BroughtAlong"] for line in calls(sensor, sandbox)} == {True}
    assert not {MOUNT, ENTER} & detected(sensor, sandbox)
    again = f"move_in(); os.execv(os.environ['SELF'], ['runc', '-c', {HELPERS + 'deeds()'!r}])"
    nameless(sandbox, fake, again, inside=False)
    sensor.settled(sandbox)
    assert {MOUNT, ENTER} <= detected(sensor, sandbox)


def test_what_is_told_late_of_a_runtime_is_excused(sensor: Running, sandbox: Sandbox, fake: Path) -> None:
    """Repeats are counted in the kernel, and told when the process runs the sandbox's first program already."""
    code = "move_in(); deeds(1000); os.execv('/usr/bin/sleep', ['sleep', '4'])"
    nameless(sandbox, fake, code, inside=False)

    def all_of_them() -> bool:
        lines = sensor.of(sandbox, category="system_call", SystemCall="fsopen")
        return sum(int(line["Count"]) for line in lines) == 1000

    sensor.until(all_of_them, "1000 calls")
    assert {(line["Image"], line["BroughtAlong"]) for line in calls(sensor, sandbox)} == {(str(fake), True)}
    told = [
        line["category"] for line in sensor.of(sandbox, kind="event", ProcessId=calls(sensor, sandbox)[0]["ProcessId"])
    ]
    late = told[told.index("process_creation") :]
    assert "system_call" in late, "it executed first"
    assert not {MOUNT, ENTER} & detected(sensor, sandbox)
