"""Quarantines of real cgroups: begun, held, released, killed, and each fault of sensor/respond/README.md."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sensor.errors import ActError
from sensor.respond.quarantine.engine import Quarantines
from tests.live.quarantining import bench, box, events, path_of, state_of, wait
from tests.live.test_kill import Cgroup, mount
from tests.respond.host import record_of
from tests.respond.quarantine.quarantining import ALL, Bench, order, outcomes, reach, settle

__all__ = ["bench", "box"]  # fixtures
COUNTS = "import sys,time\nwhile True:\n sys.stdout.write('x'); sys.stdout.flush(); time.sleep(0.005)"


def test_python_is_held_and_released(box: Cgroup, bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "counts"
    with out.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", COUNTS], stdout=file)
        try:
            (box.directory / "cgroup.procs").write_text(str(process.pid))
            quarantines = bench.start()
            record = quarantines.add(order(box.id, path_of(box)))
            assert bench.denials is not None
            assert bench.denials.get(box.id) == ALL, "in force when it returns"
            record = reach(quarantines, record, "held")
            assert set(outcomes(record).values()) == {"done"}
            assert "frozen 1" in events(box)
            assert bench.collector.asked[0].path == path_of(box)
            size = out.stat().st_size
            for _ in range(20):
                quarantines.tick(time.monotonic_ns())
            assert out.stat().st_size == size
            record = quarantines.release(record.id, operator="uid 0", reason="a false alarm")
            record = reach(quarantines, record, "released")
            assert outcomes(record)["thaw"] == outcomes(record)["lift"] == "done"
            assert not bench.denials.all()
            wait(lambda: out.stat().st_size > size, "it runs again")
            quarantines.close()
        finally:
            process.kill()
            process.wait()


def test_bash_is_killed(box: Cgroup, bench: Bench) -> None:
    shell = box.start("bash", "-c", "sleep 300 & sleep 300 & wait")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    record = reach(quarantines, quarantines.kill(record.id, operator="uid 0", reason="a miner"), "killed")
    assert shell.wait() == -signal.SIGKILL
    assert box.empty()
    assert "frozen 0" in events(box), "what is started in it next is not held"
    assert bench.denials is not None and not bench.denials.all()
    assert (record.ended_by, record.ended_why) == ("uid 0", "a miner")
    with pytest.raises(ActError, match="is over: killed"):
        quarantines.release(record.id, operator="uid 0", reason="late")
    quarantines.close()


def test_nested_cgroups_and_those_that_left_are_held(box: Cgroup, bench: Bench) -> None:
    nested = Cgroup(box.directory, "nested")
    inside = nested.start("sleep", "300")
    away = box.start("sleep", "300")
    mine = bench.table.add(record_of(away.pid, sandbox_id=box.id))
    (mount() / "cgroup.procs").write_text(str(away.pid))
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    assert "frozen 1" in events(nested)
    assert [tgid for tgid, _ in record.stopped] == [away.pid]
    assert state_of(away.pid) == "T"
    assert str(away.pid) in record.step("freeze").detail
    assert bench.collector.asked[0].processes == tuple(record.stopped)
    # Whoever continues it undoes nothing.
    away.send_signal(signal.SIGCONT)
    settle(quarantines, lambda: state_of(away.pid) == "T")
    record = reach(quarantines, quarantines.release(record.id, operator="uid 0", reason="enough"), "released")
    assert outcomes(record)["continue"] == "done"
    wait(lambda: state_of(away.pid) == "S", "it is continued")
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    reach(quarantines, quarantines.kill(record.id, operator="uid 0", reason="enough"), "killed")
    assert away.wait() == inside.wait() == -signal.SIGKILL
    assert mine.sandbox_id == box.id
    quarantines.close()


def test_who_was_stopped_before_stays_stopped(box: Cgroup, bench: Bench) -> None:
    away = box.start("sleep", "300")
    bench.table.add(record_of(away.pid, sandbox_id=box.id))
    (mount() / "cgroup.procs").write_text(str(away.pid))
    away.send_signal(signal.SIGSTOP)
    wait(lambda: state_of(away.pid) == "T", "stopped")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    assert record.stopped == []
    record = reach(quarantines, quarantines.release(record.id, operator="uid 0", reason="enough"), "released")
    assert outcomes(record)["continue"] == "skipped"
    assert state_of(away.pid) == "T"
    quarantines.close()


# Sockets.

SERVER = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
ends = [listener.accept()[0] for _ in range(3)]
print("there", flush=True)
time.sleep(300)
"""


def test_connections_are_destroyed_and_the_peer_sees_the_reset_and_the_hosts_live(box: Cgroup, bench: Bench) -> None:
    import socket  # noqa: PLC0415

    enter = f"open({str(box.directory / 'cgroup.procs')!r}, 'w').write('0')\n"
    with subprocess.Popen([sys.executable, "-c", enter + SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            ours = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
            assert server.stdout.readline() == "there\n"
            with socket.create_server(("127.0.0.1", 0)) as other:
                host_ours = socket.create_connection(other.getsockname())
                host_theirs = other.accept()[0]
                quarantines = bench.start()
                record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
                for end in ours:
                    with pytest.raises(ConnectionResetError):
                        end.recv(1)
                    end.close()
                host_ours.sendall(b"x")
                assert host_theirs.recv(1) == b"x"
                host_ours.close()
                host_theirs.close()
            detail = record.step("sockets").detail
            assert detail.startswith("3 destroyed, "), detail
            assert "1 listening" in detail
            quarantines.close()
        finally:
            server.kill()


# Crashes.


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8, 20, 60])
def test_a_crash_at_any_moment_of_a_quarantine_is_taken_up(box: Cgroup, bench: Bench, ticks: int) -> None:
    box.start("sleep", "300")
    quarantines = bench.start()
    record = quarantines.add(order(box.id, path_of(box)))
    for _ in range(ticks):
        quarantines.tick(time.monotonic_ns())
        time.sleep(0.001)
    abandon(quarantines)
    again = bench.start()
    held = again.of(box.id)
    assert held is not None
    reach(again, held, "held")
    assert len([each for each in again.records() if not each.over]) == 1
    assert "frozen 1" in events(box)
    reach(again, again.release(held.id, operator="uid 0", reason="enough"), "released")
    assert "frozen 0" in events(box)
    assert bench.denials is not None and not bench.denials.all()
    again.close()
    assert record.id


@pytest.mark.parametrize("ticks", [0, 1, 2, 4, 8, 16])
@pytest.mark.parametrize("end", ["release", "kill"])
def test_a_crash_at_any_moment_of_its_end_is_taken_up(box: Cgroup, bench: Bench, ticks: int, end: str) -> None:
    box.start("sleep", "300")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    getattr(quarantines, end)(record.id, operator="uid 0", reason="enough")
    while not quarantines._means.ledger.written(record.id):
        time.sleep(0.001)
    for _ in range(ticks):
        quarantines.tick(time.monotonic_ns())
        time.sleep(0.001)
    abandon(quarantines)
    again = bench.start()
    record = reach(again, again.get(record.id), "released" if end == "release" else "killed")
    assert "frozen 0" in events(box)
    assert bool(box.tgids()) == (end == "release")
    assert bench.denials is not None and not bench.denials.all()
    again.close()


def abandon(quarantines: Quarantines) -> None:
    """As kill -9 would: what was being written may or may not be there, and the lock is free."""
    means = quarantines._means
    os.close(means.ledger._lock)
    means.ledger._lock = -1
    quarantines.acting = False


def test_pins_that_are_lost_are_put_again(box: Cgroup, bench: Bench) -> None:
    box.start("sleep", "300")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(box.id, path_of(box))), "held")
    quarantines.close()
    assert bench.denials is not None
    bench.denials.entries.clear()
    again = bench.start()
    assert bench.denials.get(box.id) == ALL
    record = reach(again, again.get(record.id), "held")
    assert len(bench.collector.asked) == 1
    # And while it runs.
    bench.denials.entries.clear()
    settle(again, lambda: bench.denials is not None and bench.denials.get(box.id) == ALL)
    assert bench.said("critical: the kernel's denial was gone")
    reach(again, again.get(record.id), "held")
    again.close()
