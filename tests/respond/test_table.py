"""The process table that enrich keeps is the one that responses ask."""

from __future__ import annotations

from sensor.enrich.processes import EntryProgram, Process, ProcessTable
from sensor.respond import table
from sensor.respond.kill import Killer, Tree
from sensor.respond.nevertouch import NeverTouch
from sensor.respond.table import Host, identity
from tests.respond.host import SANDBOX, record_of, running, sleeper


def responses_ask(known: ProcessTable) -> table.ProcessTable:
    """Static: mypy compares the two shapes."""
    return known


def test_a_tree_by_the_real_table() -> None:
    known = ProcessTable(1024)
    host = Host(responses_ask(known), lambda _: None, lambda: (), "/sys/fs/cgroup", "/nonexistent")
    with running(*sleeper()) as root, running(*sleeper()) as child, running(*sleeper()) as stranger:
        above: Process | None = None
        for process in (stranger, root, child):
            start_ns = record_of(process.pid).start_ns
            parent = above if process is child else None
            above = known.found(
                Process(process.pid, start_ns, 0, SANDBOX, SANDBOX, 0, parent, EntryProgram(process.pid, start_ns))
            )
        mine = known.get(root.pid)
        assert mine is not None
        killer = Killer(host, NeverTouch(host))
        tree = killer.start(identity(mine), SANDBOX)
        assert isinstance(tree, Tree)
        assert killer.resume(tree)
        assert tree.killed == [root.pid, child.pid]
        assert stranger.poll() is None
