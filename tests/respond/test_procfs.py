from __future__ import annotations

import os
import subprocess
import time

import pytest

from sensor.respond import procfs
from tests.respond.host import alive, running, script, sleeper

RENAME = "import ctypes,time; ctypes.CDLL(None).prctl(15, {name}, 0, 0, 0); print(flush=True); time.sleep(300)"


def test_stat_of_a_process_with_a_hostile_name() -> None:
    rename = (
        "import ctypes,time; ctypes.CDLL(None).prctl(15, b') R 1 (x) ', 0, 0, 0); print(flush=True); time.sleep(300)"
    )
    with running(*script(rename)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stat = procfs.stat(process.pid)
        assert stat is not None
        assert stat.parent_tgid == os.getpid()
        assert stat.threads == 1
        assert not stat.kernel_thread


def test_start_times_are_of_the_boot_clock() -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with running(*sleeper()) as process:
        stat = procfs.stat(process.pid)
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert stat is not None
        assert procfs.ticks(before) <= stat.start_ticks <= procfs.ticks(after)


def test_a_dead_process_is_none_and_a_zombie_is_gone() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    zombie = procfs.stat(process.pid)
    assert zombie is not None
    assert zombie.gone
    process.wait()
    assert procfs.stat(process.pid) is None
    assert procfs.cgroup(process.pid) is None
    assert procfs.image_name(process.pid) is None
    assert procfs.mount_namespace(process.pid) is None
    assert procfs.children(process.pid, 8, 8) == []


def test_a_leader_that_left_while_its_threads_run_on_is_not_gone() -> None:
    source = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(300,)).start()\n"
        "print(flush=True)\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"  # exit, not exit_group
    )
    if os.uname().machine != "x86_64":
        source = source.replace("syscall(60", "syscall(93")
    with running(*script(source)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 10
        stat = procfs.stat(process.pid)
        while stat is not None and stat.state != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
            stat = procfs.stat(process.pid)
        assert stat is not None
        assert (stat.state, stat.gone) == ("Z", False)
        assert alive(process.pid)


@pytest.mark.parametrize(
    ("path", "ancestor", "expected"),
    [
        ("/a/b", "/a", True),
        ("/a", "/a", True),
        ("/ab", "/a", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/a/b", "/a/", True),
    ],
)
def test_within_is_by_component(path: str, ancestor: str, expected: bool) -> None:
    assert procfs.within(path, ancestor) is expected


def test_cgroup_is_the_path_of_the_v2_hierarchy() -> None:
    with open("/proc/self/cgroup") as file:
        lines = [line.strip() for line in file]
    expected = next((line[3:] for line in lines if line.startswith("0::")), None)
    assert procfs.cgroup(os.getpid()) == expected


def test_children_are_listed_and_bounded() -> None:
    source = (
        "import subprocess, time\n"
        "made = [subprocess.Popen(['sleep', '300']) for _ in range(5)]\n"
        "print(*[child.pid for child in made], flush=True)\n"
        "time.sleep(300)\n"
    )
    with running(*script(source)) as process:
        assert process.stdout is not None
        made = [int(pid) for pid in process.stdout.readline().split()]
        try:
            assert sorted(procfs.children(process.pid, 8, 100)) == sorted(made)
            assert len(procfs.children(process.pid, 8, 3)) == 3
        finally:
            for pid in made:
                os.kill(pid, 9)
