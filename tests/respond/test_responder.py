from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sensor.config import Config, Responses, SandboxClass
from sensor.events.activity import ProcessCreation
from sensor.events.detection import Detection, Response
from sensor.metrics import Metrics, decode
from sensor.respond import procfs, responder
from sensor.respond.disarm import Arming
from sensor.respond.policy import Policy
from sensor.respond.responder import Responder, start_ns
from tests.respond.host import SANDBOX, Record, Table, alive, host, record_of, running, sleeper

EVERY_KILL = Responses(high="kill", critical="kill-sandbox")
CONFIG = Config(
    classes={
        "enforced": SandboxClass(mode="enforce", responses=EVERY_KILL),
        "watched": SandboxClass(mode="monitor", responses=EVERY_KILL),
    }
)
TEXT = {"CommandLine": "xmrig -o pool", "Image": "/home/agent/xmrig"}


def activity(record: Record, class_: str = "enforced", **changed: Any) -> ProcessCreation:
    plain: dict[type | str, Any] = {"int": 0, "str": "", "bool": False, "bytes": b""}
    values: dict[str, Any] = {
        field.name: plain.get(getattr(field.type, "__name__", "")) for field in msgspec.structs.fields(ProcessCreation)
    }
    values |= TEXT
    values |= {
        "SandboxId": SANDBOX,
        "SandboxClass": class_,
        "ProcessId": record.tgid,
        "ProcessGuid": f"{record.tgid}-{record.start_ns}",
        "monotonic_ns": time.monotonic_ns(),
    }
    return ProcessCreation(**(values | changed))


def detection(record: Record, level: str = "high", class_: str = "enforced", **changed: Any) -> Detection:
    return Detection("1-40:rule", time.time_ns(), "rule", "A rule", level, (), activity(record, class_, **changed))


class Stage:
    """A responder with everything that it talks to."""

    def __init__(self, folder: Path, table: Table, path: str | None = None) -> None:
        self.journal: list[Response] = []
        self.metrics = Metrics()
        self.arming = Arming(folder / "state")
        self.alive_at_intent: list[bool] = []
        self.table = table
        self.broken = False
        self.responder = Responder(Policy(CONFIG), host(table, path), self._write, self.metrics, self.arming)

    def _write(self, response: Response) -> None:
        if response.outcome == "intent":
            self.alive_at_intent.append(all(alive(tgid) for tgid in response.targets))
        if self.broken:
            raise OSError(28, "No space left on device")
        self.journal.append(response)

    def counted(self, action: str, outcome: str) -> float:
        return self.metrics.value("pinfold_responses_total", (action, outcome))


@pytest.fixture
def target() -> Iterator[subprocess.Popen[str]]:
    with running(*sleeper()) as process:
        yield process


def test_a_kill_is_journalled_before_and_after(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    told = stage.responder.respond(detection(record))
    assert told == stage.journal
    assert [(r.outcome, r.targets, r.reason, r.action, r.mode) for r in told] == [
        ("intent", (target.pid,), "", "kill", "enforce"),
        ("done", (target.pid,), "", "kill", "enforce"),
    ]
    assert stage.alive_at_intent == [True]
    assert told[0].latency_ns == 0
    assert told[1].latency_ns > 0
    assert target.wait() == -signal.SIGKILL
    assert stage.counted("kill", "done") == 1
    assert stage.counted("kill", "would") == 0


def test_log_is_no_response(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    assert stage.responder.respond(detection(record, "medium")) == []
    assert stage.journal == []
    assert alive(target.pid)


def test_monitor_mode_says_what_it_would_do(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    for level, action in (("high", "kill"), ("critical", "kill-sandbox")):
        (told,) = stage.responder.respond(detection(record, level, "watched"))
        assert (told.outcome, told.mode, told.action) == ("would", "monitor", action)
    assert alive(target.pid)
    assert stage.counted("kill", "would") == 1


def test_disarmed_it_says_what_it_would_do_and_armed_again_it_does(
    tmp_path: Path, target: subprocess.Popen[str]
) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    stage.arming.disarm()
    (told,) = stage.responder.respond(detection(record))
    assert (told.outcome, told.reason, told.mode) == ("would", "disarmed", "enforce")
    assert alive(target.pid)
    stage.arming.arm()
    assert stage.responder.respond(detection(record))[-1].outcome == "done"


def test_a_process_that_ended_is_gone(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    record = record_of(ended.pid)
    ended.wait()
    stage = Stage(tmp_path, Table(record))
    assert [r.outcome for r in stage.responder.respond(detection(record))] == ["intent", "gone"]
    assert stage.counted("kill", "gone") == 1


def test_a_second_rule_on_the_same_process_kills_nothing_twice(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    stage.responder.respond(detection(record))
    again = stage.responder.respond(detection(record))
    assert [(r.outcome, r.reason) for r in again] == [("intent", ""), ("gone", "killed for an earlier detection")]


def test_pinfold_itself_is_never_touched(tmp_path: Path) -> None:
    record = record_of(os.getpid())
    stage = Stage(tmp_path, Table(record))
    told = stage.responder.respond(detection(record))
    assert (told[-1].outcome, told[-1].reason) == ("never_touch", "a process of pinfold")
    assert not stage.responder.pending


def test_what_was_there_before_the_sensor_is_answered_but_not_timed(
    tmp_path: Path, target: subprocess.Popen[str]
) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    assert stage.responder.respond(detection(record, Existing=True))[-1].outcome == "done"
    assert latencies(stage.metrics) == 0


def test_latency_is_observed(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    stage.responder.respond(detection(record))
    assert latencies(stage.metrics) == 1


def test_a_full_disk_stops_no_kill(tmp_path: Path, target: subprocess.Popen[str]) -> None:
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    stage.broken = True
    assert stage.responder.respond(detection(record))[-1].outcome == "done"
    assert target.wait() == -signal.SIGKILL
    assert stage.metrics.value("pinfold_events_lost_total", ("log", "journal")) == 2


def test_a_child_that_the_ring_tells_late_is_killed_when_settling(
    tmp_path: Path, target: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "RESCAN_NS", 0)
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    stage.responder.respond(detection(record))
    assert stage.responder.pending
    assert stage.responder.settle() == []
    with running(*sleeper()) as late:
        stage.table.add(record_of(late.pid, parent=record))
        (told,) = stage.responder.settle()
        assert (told.outcome, told.targets) == ("done", (late.pid,))
        assert late.wait() == -signal.SIGKILL


def test_settling_ends(tmp_path: Path, target: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "RESCAN_NS", 0)
    monkeypatch.setattr(responder, "SETTLE_NS", 0)
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    stage.responder.respond(detection(record))
    stage.responder.settle()
    assert not stage.responder.pending


def test_settling_honours_disarm(
    tmp_path: Path, target: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder, "RESCAN_NS", 0)
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    stage.responder.respond(detection(record))
    with running(*sleeper()) as late:
        stage.table.add(record_of(late.pid, parent=record))
        stage.arming.disarm()
        assert stage.responder.settle() == []
        assert alive(late.pid)


def test_a_refusal_for_want_of_a_record_is_asked_again(
    tmp_path: Path, target: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something named sshd, of which the ring has not told yet where it was executed."""
    monkeypatch.setattr(responder, "RESCAN_NS", 0)
    monkeypatch.setattr(procfs, "image_name", lambda _: "sshd")
    home = procfs.cgroup(target.pid)
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(), "/some/sandbox")
    monkeypatch.setattr(procfs, "cgroup", lambda tgid: "/some/sandbox/x" if tgid == target.pid else home)
    told = stage.responder.respond(detection(record))
    assert [r.outcome for r in told] == ["intent", "never_touch"]
    assert stage.responder.settle() == []  # told once
    assert alive(target.pid)
    stage.table.add(record)  # executed inside, the record says
    (done,) = stage.responder.settle()
    assert (done.outcome, done.targets) == ("done", (target.pid,))


def test_too_many_under_way_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "MOST_PENDING", 1)
    with running(*sleeper()) as one, running(*sleeper()) as two:
        records = [record_of(one.pid), record_of(two.pid)]
        stage = Stage(tmp_path, Table(*records))
        for record in records:
            stage.responder.respond(detection(record))
        assert stage.metrics.value("pinfold_responses_unsettled_total") == 1


def test_a_sandbox_that_is_gone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Table(), path=None)
    told = stage.responder.respond(detection(Record(2**22 + 1, 5), "critical"))
    assert [(r.outcome, r.action) for r in told] == [("intent", "kill-sandbox"), ("gone", "kill-sandbox")]


def test_a_failure_is_told_with_the_kernels_words(
    tmp_path: Path, target: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    record = record_of(target.pid)
    stage = Stage(tmp_path, Table(record))
    told = stage.responder.respond(detection(record))
    assert (told[-1].outcome, told[-1].reason) == ("failed", "Operation not permitted")


@pytest.mark.parametrize(("guid", "expected"), [("12-3456", 3456), ("12-", 0), ("", 0), ("12-x", 0), ("12-²", 0)])
def test_start_times_from_guids(guid: str, expected: int) -> None:
    assert start_ns(guid) == expected


def latencies(metrics: Metrics) -> int:
    ((_, histogram),) = decode(metrics.snapshot()).histograms["pinfold_response_latency_seconds"]
    return sum(histogram.counts)
