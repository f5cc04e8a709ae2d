"""Kills of real processes. Their membership comes from the table here; tests/live has real cgroups."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator

import pytest

from sensor.respond import kill, procfs
from sensor.respond.kill import Gone, Killer, Tree
from sensor.respond.nevertouch import NeverTouch, Refusal
from sensor.respond.table import Host, identity
from tests.respond.host import SANDBOX, Record, Table, alive, host, record_of, running, script, sleeper

FAMILY = """
import subprocess, sys, time
def grow(depth):
    if depth:
        made = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[1], str(depth - 1)])
        print(made.pid, flush=True)
    time.sleep(300)
grow(int(sys.argv[2]))
"""


def killer_for(known: Host) -> Killer:
    return Killer(known, NeverTouch(known))


def start(table: Table, record: Record, sandbox: int = SANDBOX) -> Tree | Refusal:
    return killer_for(host(table)).start(identity(record), sandbox)


@pytest.fixture
def family() -> Iterator[list[int]]:
    """A process, its child and its grandchild, oldest first."""
    with running(*script(FAMILY), FAMILY, "2") as process:
        assert process.stdout is not None
        pids = [process.pid, *(int(process.stdout.readline()) for _ in range(2))]
        yield pids
        for pid in pids[1:]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_process_is_killed_by_sigkill() -> None:
    with running(*sleeper()) as process:
        table = Table(record_of(process.pid))
        tree = start(table, table.records[process.pid])
        assert isinstance(tree, Tree)
        assert tree.killed == [process.pid]
        assert process.wait() == -signal.SIGKILL


def test_another_start_time_is_another_process() -> None:
    with running(*sleeper()) as process:
        record = record_of(process.pid)
        record.start_ns -= procfs.TICK_NS  # one tick is the least that /proc can show
        with pytest.raises(Gone):
            start(Table(record), record)
        assert alive(process.pid)


def test_a_zombie_and_a_number_that_nobody_has_are_gone() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    record = record_of(process.pid)
    with pytest.raises(Gone):
        start(Table(record), record)
    process.wait()
    with pytest.raises(Gone):
        start(Table(record), record)


def test_a_process_outside_the_sandbox_is_not_touched() -> None:
    with running(*sleeper()) as process:
        for record in (record_of(process.pid, sandbox_id=0), record_of(process.pid, sandbox_id=99)):
            assert start(Table(record), record) == Refusal("a process outside the sandbox")
        assert start(Table(), record_of(process.pid)) == Refusal("a process outside the sandbox")
        # Sandbox 0 is "none", not a sandbox that everything outside belongs to.
        outside = record_of(process.pid, sandbox_id=0)
        assert start(Table(outside), outside, sandbox=0) == Refusal("a process outside the sandbox")
        assert alive(process.pid)


def test_pinfold_and_pid_1_are_not_touched_though_the_table_has_them_inside() -> None:
    for tgid in (os.getpid(), 1):
        record = record_of(tgid)
        assert isinstance(start(Table(record), record), Refusal)


def test_the_tree_dies_root_first_without_a_record_of_its_children(family: list[int]) -> None:
    root = record_of(family[0])
    records = [root, *(record_of(pid) for pid in family[1:])]  # all inside, none with a parent told
    killer = killer_for(host(Table(*records)))
    tree = killer.start(identity(root), SANDBOX)
    assert isinstance(tree, Tree)
    assert tree.killed == family[:1]
    assert killer.resume(tree)
    assert tree.killed == family
    _gone(family)


def test_the_tree_stops_at_the_sandboxs_border(family: list[int]) -> None:
    root = record_of(family[0])
    child = record_of(family[1], sandbox_id=0, parent=root)
    grandchild = record_of(family[2], parent=child)
    killer = killer_for(host(Table(root, child, grandchild)))
    tree = killer.start(identity(root), SANDBOX)
    assert isinstance(tree, Tree)
    assert killer.resume(tree)
    assert alive(child.tgid)
    # The grandchild is of the sandbox and descends from the root, by the records alone.
    assert tree.killed == [root.tgid]
    assert alive(grandchild.tgid)


def test_an_orphan_is_found_by_its_record() -> None:
    """A daemon's double fork leaves no trace in /proc of whom it descends from."""
    with running(*sleeper()) as root, running(*sleeper()) as orphan, running(*sleeper()) as bystander:
        mine = record_of(root.pid)
        between = Record(2**22 + 1, mine.start_ns + 1, parent=mine)  # ended long ago
        table = Table(mine, record_of(orphan.pid, parent=between), record_of(bystander.pid))
        killer = killer_for(host(table))
        tree = killer.start(identity(mine), SANDBOX)
        assert isinstance(tree, Tree)
        assert killer.resume(tree)
        assert tree.killed == [root.pid, orphan.pid]
        assert alive(bystander.pid)


def test_a_child_whose_record_comes_late_is_killed_by_the_next_resume() -> None:
    with running(*sleeper()) as root, running(*sleeper()) as late:
        mine = record_of(root.pid)
        table = Table(mine)
        killer = killer_for(host(table))
        tree = killer.start(identity(mine), SANDBOX)
        assert isinstance(tree, Tree)
        assert killer.resume(tree)
        assert alive(late.pid)
        table.add(record_of(late.pid, parent=mine))
        assert killer.resume(tree)
        assert tree.killed == [root.pid, late.pid]


def test_a_number_used_again_is_nobodys_child() -> None:
    """A record whose parent has the root's number but another start time does not descend from it."""
    with running(*sleeper()) as root, running(*sleeper()) as other:
        mine = record_of(root.pid)
        earlier = Record(mine.tgid, mine.start_ns - procfs.TICK_NS)
        killer = killer_for(host(Table(mine, record_of(other.pid, parent=earlier))))
        tree = killer.start(identity(mine), SANDBOX)
        assert isinstance(tree, Tree)
        assert killer.resume(tree)
        assert alive(other.pid)


def test_a_stopped_and_ignoring_process_dies_too() -> None:
    source = (
        "import signal, time\n"
        "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT)]\n"
        "print(flush=True)\n"
        "time.sleep(300)\n"
    )
    with running(*script(source)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        record = record_of(process.pid)
        assert isinstance(start(Table(record), record), Tree)
        assert process.wait() == -signal.SIGKILL


def test_without_a_record_the_actor_is_who_was_alive_then() -> None:
    killer = killer_for(host(Table()))
    before = time.monotonic_ns() - 2 * procfs.TICK_NS
    with running(*sleeper()) as process:
        acted = time.monotonic_ns() + procfs.TICK_NS
        stat = procfs.stat(process.pid)
        assert stat is not None
        assert killer.started(process.pid, 0, acted) == stat.start_ticks
        assert killer.started(process.pid, 0, before) == 0  # it was born after the deed
        assert killer.started(process.pid, 123 * procfs.TICK_NS + 5, acted) == 123  # a record decides
    assert killer.started(process.pid, 0, acted) == 0


def test_one_go_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "AT_ONCE", 2)
    mine = Record(2**22 + 1, 10**9)
    table = Table(*(Record(2**22 + 2 + n, 10**9, parent=mine) for n in range(5)))
    killer = killer_for(host(table))
    tree = Tree(identity(mine), SANDBOX, deque(), {identity(mine)}, [])
    rounds = 0
    while not killer.resume(tree):
        rounds += 1
        assert rounds < 10
    assert rounds == 1  # two plainly and two by the path for large trees, then the last
    assert len(tree.seen) == 6


def _gone(pids: list[int]) -> None:
    """Waits for what was signalled to end; a zombie whose parent was killed first is init's to reap."""
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "still alive after SIGKILL"
        time.sleep(0.005)
