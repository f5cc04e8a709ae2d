from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sensor.respond import procfs
from sensor.respond.nevertouch import HOST_DAEMONS, NeverTouch, Refusal
from sensor.respond.table import Identity
from tests.respond.host import Program, Record, Table, host, record_of, running


def ask(guard: NeverTouch, tgid: int, known: Record | None = None) -> Refusal | None:
    stat = procfs.stat(tgid)
    assert stat is not None
    return guard.process(Identity(tgid, stat.start_ticks), stat, known)


@pytest.fixture
def daemon(tmp_path: Path) -> list[str]:
    """A program that calls itself sshd."""
    image = tmp_path / "sshd"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", image)
    return [str(image), "300"]


def test_pid_1_pinfold_itself_and_kernel_threads() -> None:
    guard = NeverTouch(host(Table(), own_pids=[os.getppid()]))
    for tgid, reason in ((1, "PID 1"), (os.getpid(), "a process of pinfold"), (os.getppid(), "a process of pinfold")):
        refusal = ask(guard, tgid)
        assert refusal is not None
        assert (refusal.reason, refusal.final) == (reason, True)
    thread = procfs.Stat("S", 2, procfs.PF_KTHREAD, 1, 5)
    refusal = guard.process(Identity(77, 5), thread, None)
    assert refusal is not None
    assert refusal.reason == "a kernel thread"


def test_an_ordinary_process_may_be_killed(daemon: list[str]) -> None:
    guard = NeverTouch(host(Table()))
    with running("sleep", "300") as process:
        assert ask(guard, process.pid) is None
        assert ask(guard, process.pid, record_of(process.pid, executed_inside=False)) is None


def test_the_hosts_daemon_was_executed_outside(daemon: list[str]) -> None:
    guard = NeverTouch(host(Table()))
    with running(*daemon) as process:
        refusal = ask(guard, process.pid, record_of(process.pid, executed_inside=False))
        assert refusal == Refusal("the host's sshd", final=True)


def test_a_name_gives_no_immunity_to_what_was_executed_inside(daemon: list[str]) -> None:
    guard = NeverTouch(host(Table()))
    with running(*daemon) as process:
        assert ask(guard, process.pid, record_of(process.pid, executed_inside=True)) is None


def test_a_comm_gives_no_immunity() -> None:
    source = "import ctypes,time; ctypes.CDLL(None).prctl(15, b'sshd', 0, 0, 0); print(flush=True); time.sleep(300)"
    with running("python3", "-c", source) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert Path(f"/proc/{process.pid}/comm").read_text() == "sshd\n"
        assert ask(NeverTouch(host(Table())), process.pid, record_of(process.pid, executed_inside=False)) is None


def test_without_a_record_the_host_comes_first_but_not_for_good(daemon: list[str]) -> None:
    with running(*daemon) as process:
        for known in (None, Record(process.pid, 1, executed_inside=True)):  # none, and one of an earlier process
            refusal = ask(NeverTouch(host(Table())), process.pid, known)
            assert refusal is not None
            assert not refusal.final


def test_a_unit_that_pid_1_started_in_its_cgroup_is_the_hosts(daemon: list[str]) -> None:
    """systemd forks into the unit's cgroup: if somebody takes that for a sandbox, sshd is executed inside it."""
    guard = NeverTouch(host(Table()))
    with running(*daemon) as process:
        mine = record_of(process.pid)
        mine.entry = Program(mine.tgid, mine.start_ns, "/usr/sbin/sshd")
        mine.parent_tgid = 1
        assert ask(guard, process.pid, mine) == Refusal("the host's sshd")
        mine.parent_tgid = 4242  # whoever else brought it in
        assert ask(guard, process.pid, mine) is None
        mine.parent_tgid, mine.entry.image = 1, "/bin/bash"  # bash entered, then executed something named sshd
        assert ask(guard, process.pid, mine) is None
        mine.entry = Program(mine.tgid + 1, mine.start_ns, "/usr/sbin/sshd")  # not the entry itself
        assert ask(guard, process.pid, mine) is None


def test_the_root_cgroup_and_the_cgroup_of_pid_1_are_no_sandboxes() -> None:
    guard = NeverTouch(host(Table()))
    for path in ("", "/"):
        assert guard.sandbox(path, []) == Refusal("the root cgroup")
    home = procfs.cgroup(1)
    if home is not None and home != "/":
        assert guard.sandbox(home, []) == Refusal("the cgroup holds PID 1")


def test_a_sandbox_that_holds_the_hosts_daemon_is_none(daemon: list[str]) -> None:
    with running("sleep", "300") as ordinary, running(*daemon) as process:
        table = Table(record_of(ordinary.pid), record_of(process.pid, executed_inside=False))
        members = [ordinary.pid, process.pid]
        assert NeverTouch(host(table)).sandbox("/nowhere", members) == Refusal("the host's sshd")
        table.records[process.pid].executed_inside = True
        assert NeverTouch(host(table)).sandbox("/nowhere", members) is None
        del table.records[process.pid]
        refusal = NeverTouch(host(table)).sandbox("/nowhere", members)
        assert refusal is not None
        assert not refusal.final


def test_a_member_that_ended_meanwhile_protects_nothing() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert NeverTouch(host(Table())).sandbox("/nowhere", [ended.pid]) is None


def test_the_design_names_are_on_the_list() -> None:
    assert {"dockerd", "containerd", "crio", "podman", "kubelet", "slurmd", "sshd"} <= HOST_DAEMONS
