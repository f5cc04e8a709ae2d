"""What goes wrong with a quarantine, each in a real cgroup: a row of the table in sensor/respond/README.md."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.configquarantine import Quarantine
from sensor.errors import ActError, NeverTouchError
from sensor.respond.cgroupfs import CgroupDirectory
from tests.live.quarantining import bench, box, events, path_of, state_of, wait
from tests.live.test_kill import FORKER, Cgroup, mount
from tests.respond.host import alive, record_of
from tests.respond.quarantine.quarantining import Bench, order, outcomes, reach, settle

__all__ = ["bench", "box"]
ENDS = {"operator": "uid 0", "reason": "enough"}
HOLDING_UP = str(Path(__file__).with_name("holding_up.py"))


def test_a_fork_bomb_is_held(box: Cgroup, bench: Bench, tmp_path: Path) -> None:
    counter = tmp_path / "born"
    counter.touch()
    box.start(sys.executable, "-c", FORKER.format(counter=str(counter)))
    wait(lambda: counter.stat().st_size >= 50, "it forks")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    assert record.step("freeze").state == "done"
    born = counter.stat().st_size
    members = box.tgids()
    quarantines.tick(time.monotonic_ns())
    assert (counter.stat().st_size, box.tgids()) == (born, members)
    reach(quarantines, quarantines.kill(record.id, operator="uid 0", reason="a bomb"), "killed")
    assert box.empty()
    quarantines.close()


def test_an_orchestrator_that_thaws_it_is_told_and_undone(box: Cgroup, bench: Bench) -> None:
    box.start("sleep", "300")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    for count in (1, 2):
        (box.directory / "cgroup.freeze").write_text("0")
        settle(quarantines, lambda count=count: quarantines.get(record.id).thawed == count)  # type: ignore[misc]
        settle(quarantines, lambda: "frozen 1" in events(box))
    assert bench.said("somebody thawed it, and it is frozen again (2 times so far)")
    quarantines.close()


def test_what_somebody_had_frozen_stays_frozen(box: Cgroup, bench: Bench) -> None:
    box.start("sleep", "300")
    (box.directory / "cgroup.freeze").write_text("1")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    assert "somebody had frozen it before" in record.step("freeze").detail
    record = reach(quarantines, quarantines.release(record.id, **ENDS), "released")
    assert outcomes(record)["thaw"] == "skipped"
    assert "left frozen" in record.undo("thaw").detail
    assert "frozen 1" in events(box)
    quarantines.close()


def test_a_cgroup_that_vanishes_ends_it_and_a_later_one_of_its_name_is_free(box: Cgroup, bench: Bench) -> None:
    process = box.start("sleep", "300")
    quarantines = bench.start()
    record = quarantines.add(order(box.id, path_of(box)))
    (box.directory / "cgroup.kill").write_text("1")
    process.wait()
    assert box.empty()
    box.directory.rmdir()
    box.directory.mkdir()
    other = box.directory.stat().st_ino
    assert other != box.id
    record = reach(quarantines, record, "ended")
    assert "another has its name, which is not quarantined" in record.remark
    assert bench.denials is not None and not bench.denials.all()
    assert "frozen 0" in events(box)
    quarantines.close()
    again = bench.start()
    assert again.of(other) is None and again.of(box.id) is None
    with pytest.raises(ActError, match="no such cgroup"):
        again.add(order(box.id, path_of(box)))
    again.close()


def test_what_may_never_be_touched_is_asked_when_acting(box: Cgroup, bench: Bench) -> None:
    own = box.start("sleep", "300")
    guarded = Bench(str(mount()), box.state, own_pids=[own.pid])
    quarantines = guarded.start()
    with pytest.raises(NeverTouchError, match="holds a process of pinfold"):
        quarantines.add(order(box.id, path_of(box)))
    assert guarded.denials is not None and guarded.denials.puts == []
    assert quarantines.records() == []
    quarantines.close()
    unguarded = bench.start()
    record = reach(unguarded, unguarded.add(order(box.id, path_of(box))), "held")
    unguarded.close()
    guarded.denials = bench.denials
    third = guarded.start()
    with pytest.raises(NeverTouchError):
        third.kill(record.id, **ENDS)
    assert alive(own.pid)
    assert third.get(record.id).state == "held"
    third.close()


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[Path]:
    """A file of which the lock is held in the kernel, until the test lets go by killing who holds it."""
    file = tmp_path / "locked"
    file.touch()
    with subprocess.Popen([sys.executable, HOLDING_UP, str(file)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"holding\n"
            wait(lambda: state_of(holder.pid) in {"S", "D"}, "it holds the lock")
            (tmp_path / "holder").write_text(str(holder.pid))
            yield file
        finally:
            holder.kill()


def let_go(file: Path) -> None:
    os.kill(int(file.with_name("holder").read_text()), signal.SIGKILL)


def stuck_in(box: Cgroup, file: Path) -> subprocess.Popen[bytes]:
    process = box.start(
        sys.executable, "-c", f"import os, time; os.write(os.open({str(file)!r}, 1), b'x'); time.sleep(300)"
    )
    wait(lambda: state_of(process.pid) == "D", "it waits uninterruptibly")
    return process


def test_a_process_in_uninterruptible_sleep_is_stated_and_freezes_late(box: Cgroup, bench: Bench, lock: Path) -> None:
    bench.settings = Quarantine(freeze_seconds=1)
    box.start("sleep", "300")
    stuck = stuck_in(box, lock)
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    step = record.step("freeze")
    assert step.state == "failed"
    assert step.detail.startswith(f"1 of 2 processes not frozen after 1 s: {stuck.pid};"), step.detail
    assert record.step("hold").detail == "not done: freeze"
    assert record.step("evidence").state == "done"
    assert bench.denials is not None and bench.denials.get(box.id)
    let_go(lock)
    settle(quarantines, lambda: record.step("freeze").state == "done")
    assert record.step("freeze").detail.startswith("late")
    assert "frozen 1" in events(box)
    reach(quarantines, quarantines.release(record.id, **ENDS), "released")
    quarantines.close()


def test_what_does_not_die_is_stated_and_dies_late(box: Cgroup, bench: Bench, lock: Path) -> None:
    bench.settings = Quarantine(freeze_seconds=1, kill_seconds=1)
    stuck = stuck_in(box, lock)
    quarantines = bench.start()
    record = quarantines.add(order(box.id, path_of(box)))
    settle(quarantines, lambda: record.state == "held")
    quarantines.kill(record.id, **ENDS)
    settle(quarantines, lambda: bool(record.remark))
    assert record.remark.startswith(
        f"1 of its processes do not die, and die as soon as the kernel lets go of them: {stuck.pid}"
    )
    settle(quarantines, lambda: not quarantines.busy)
    assert record.state == "killing"
    assert bench.denials is not None and bench.denials.get(box.id)
    let_go(lock)
    settle(quarantines, lambda: record.state == "killed")
    assert stuck.wait() == -signal.SIGKILL
    assert not bench.denials.all()
    quarantines.close()


def test_a_cgroup_that_goes_while_it_is_held_ends_it(box: Cgroup, bench: Bench) -> None:
    """An orchestrator restarts its container: what it starts under the same name is another sandbox."""
    process = box.start("sleep", "300")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    (box.directory / "cgroup.kill").write_text("1")
    process.wait()
    assert box.empty()
    box.directory.rmdir()
    box.directory.mkdir()
    settle(quarantines, lambda: record.state == "ended")
    assert "another has its name, which is not quarantined" in record.remark
    assert bench.said("another has its name, which is not quarantined")
    assert bench.denials is not None and not bench.denials.all()
    assert "frozen 0" in events(box)
    quarantines.close()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """The cgroup file system, mounted where nothing can be written."""
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "--bind", str(mount()), str(place)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_in_a_read_only_cgroupfs_each_process_is_stopped(box: Cgroup, read_only: Path) -> None:
    bench = Bench(str(read_only), box.state)
    processes = [box.start("sleep", "300") for _ in range(3)]
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    detail = record.step("freeze").detail
    assert detail.startswith(
        "cgroup.freeze: Read-only file system, so that each process was stopped by a signal; 3 stopped"
    )
    assert [state_of(process.pid) for process in processes] == ["T"] * 3
    quarantines.close()
    again = bench.start()
    with subprocess.Popen(["sleep", "300"]) as late:
        late.send_signal(signal.SIGSTOP)
        wait(lambda: state_of(late.pid) == "T", "stopped")
        (box.directory / "cgroup.procs").write_text(str(late.pid))
        settle(again, lambda: late.pid in dict(again.get(record.id).spared))
        record = reach(again, again.release(record.id, **ENDS), "released")
        assert outcomes(record)["continue"] == "done"
        wait(lambda: all(state_of(process.pid) == "S" for process in processes), "continued")
        assert state_of(late.pid) == "T", "who was stopped when we came is left so"
        late.kill()
    again.close()


def test_a_fork_bomb_in_a_read_only_cgroupfs_is_stopped(box: Cgroup, read_only: Path, tmp_path: Path) -> None:
    bench = Bench(str(read_only), box.state)
    counter = tmp_path / "born"
    counter.touch()
    box.start(sys.executable, "-c", FORKER.format(counter=str(counter)))
    wait(lambda: counter.stat().st_size >= 50, "it forks")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    assert record.step("freeze").state == "done", record.step("freeze").detail
    assert all(state_of(tgid) == "T" for tgid in box.tgids())
    assert len(box.tgids()) >= 50
    quarantines.close()


def test_a_sandbox_without_a_freezer_of_its_own_is_stopped_and_killed_one_by_one(bench: Bench, tmp_path: Path) -> None:
    """A container under cgroup v1 alone: no cgroup.freeze, no cgroup.kill, no cgroup.events, and its processes are
    known by their records."""
    folder = tmp_path / "cgroups" / "box"
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").touch()
    number = folder.stat().st_ino
    processes = [subprocess.Popen(["sleep", "300"]) for _ in range(2)]
    try:
        bench = Bench(str(folder.parent), str(tmp_path))
        for process in processes:
            bench.table.add(record_of(process.pid, sandbox_id=number))
        quarantines = bench.start()
        record = reach(quarantines, quarantines.add(order(number, "/box")), "held")
        assert record.step("freeze").detail.startswith("it has no cgroup.freeze, so that each process was stopped")
        assert [state_of(process.pid) for process in processes] == ["T", "T"]
        reach(quarantines, quarantines.release(record.id, **ENDS), "released")
        wait(lambda: all(state_of(process.pid) == "S" for process in processes), "continued")
        record = reach(quarantines, quarantines.add(order(number, "/box")), "held")
        reach(quarantines, quarantines.kill(record.id, **ENDS), "killed")
        assert [process.wait() for process in processes] == [-9, -9]
        quarantines.close()
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EOPNOTSUPP])
def test_without_cgroup_kill_a_held_sandbox_dies_too(
    box: Cgroup, bench: Bench, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """An older kernel's answer is put in its place; the rest is real."""
    write = CgroupDirectory.write

    def older(directory: CgroupDirectory, name: str, value: bytes) -> None:
        if name == "cgroup.kill":
            raise OSError(code, os.strerror(code))
        write(directory, name, value)

    monkeypatch.setattr(CgroupDirectory, "write", older)
    processes = [box.start("sleep", "300") for _ in range(3)]
    for process in processes:
        bench.table.add(record_of(process.pid, sandbox_id=box.id))
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    reach(quarantines, quarantines.kill(record.id, **ENDS), "killed")
    assert [process.wait() for process in processes] == [-9] * 3
    assert "frozen 0" in events(box)
    quarantines.close()


def test_a_sandbox_that_left_its_cgroup_and_removed_it_is_held_by_its_processes(box: Cgroup, bench: Bench) -> None:
    away = box.start("sleep", "300")
    bench.table.add(record_of(away.pid, sandbox_id=box.id))
    (mount() / "cgroup.procs").write_text(str(away.pid))
    assert box.empty()
    box.directory.rmdir()
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    assert state_of(away.pid) == "T"
    reach(quarantines, quarantines.kill(record.id, **ENDS), "killed")
    assert away.wait() == -signal.SIGKILL
    quarantines.close()
