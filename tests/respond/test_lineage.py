"""A double fork does not escape: what a detected process forked is its tree, whoever has ended since."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from sensor.config import Responses
from sensor.respond import responder
from tests.respond.host import Record, Table, alive, ended, record_of, running, script, sleeper
from tests.respond.test_following import Stage, config, detection

DAEMON = """
import os, sys, time
if os.fork():
    sys.stdin.read() if sys.argv[1] == 'stay' else os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("root", ["stay", "leave"])
def test_a_double_fork_does_not_escape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """The grandchild is init's child by then, in a session of its own; its parent is gone, and so may the detected
    process be. Only the records of forks tell."""
    monkeypatch.setattr(responder, "RESCAN_NS", 0)
    with subprocess.Popen((*script(DAEMON), root), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        mine = record_of(process.pid, exec_id=1)
        assert process.stdout is not None
        grandchild = record_of(int(process.stdout.readline()))
        try:
            if root == "leave":
                process.wait()
            between = Record(2**22 + 1, mine.start_ns + 1, parent=mine)
            table = Table(mine)
            stage = Stage(tmp_path, table, config(a=Responses(high="kill")))
            told = stage.responder.respond(detection(mine))
            assert [each.outcome for each in told] == ["intent", "done" if root == "stay" else "gone"]
            assert alive(grandchild.tgid), "its fork is in the ring yet"
            grandchild.parent = between
            table.add(grandchild)
            (done,) = stage.responder.settle()
            assert (done.outcome, done.targets) == ("done", (grandchild.tgid,))
            assert ended(grandchild.tgid)
        finally:
            if alive(grandchild.tgid):
                os.kill(grandchild.tgid, signal.SIGKILL)
            process.kill()


def test_what_a_gone_process_left_behind_is_killed_at_once_where_it_is_known(tmp_path: Path) -> None:
    with running(*sleeper()) as orphan, running(*sleeper()) as bystander:
        gone = Record(2**22 + 1, 10**11)
        table = Table(record_of(orphan.pid, parent=gone), record_of(bystander.pid))
        stage = Stage(tmp_path, table, config(a=Responses(high="kill")))
        told = stage.responder.respond(detection(gone))
        assert [(each.outcome, each.targets) for each in told] == [("intent", (gone.tgid,)), ("done", (orphan.pid,))]
        assert alive(bystander.pid)


def test_orphans_are_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "RESCAN_NS", 0)
    monkeypatch.setattr(responder, "ORPHANS_NS", 0)
    stage = Stage(tmp_path, Table(), config(a=Responses(high="kill")))
    stage.responder.respond(detection(Record(2**22 + 1, 10**11)))
    stage.responder.settle()
    assert not stage.responder.pending
