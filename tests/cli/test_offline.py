"""With the daemon dead: the engine of quarantines is played, all else is as it is on this host."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sensor.cli import main, offline
from sensor.config import Config
from sensor.errors import ActError, HostError, NotFoundError
from sensor.respond.disarm import Arming
from tests.cli.fake_daemon import STEPS


class Order(msgspec.Struct, frozen=True):
    sandbox_id: int
    name: str
    path: str
    reason: str = "a miner"
    operator: str = "uid 0, pid 7, /usr/bin/pinfold"


class Step(msgspec.Struct):
    name: str
    state: str = "done"
    detail: str = ""


class Record(msgspec.Struct):
    id: str
    order: Order
    state: str = "held"
    steps: list[Step] = msgspec.field(default_factory=lambda: [Step(name) for name in STEPS])
    undone: list[Step] = msgspec.field(default_factory=list)
    created_ns: int = 0


class Engine:
    """Does one thing a `run`."""

    def __init__(self) -> None:
        now = time.time_ns()
        self.kept = [
            Record("q-1", Order(11, "agent-1", "/pinfold/agent\udc80\x1b[2J"), created_ns=now),
            Record("q-2", Order(12, "agent-2", "/pinfold/agent-2"), "released", created_ns=now),
        ]
        self.damaged: list[str] = []
        self.did: list[tuple[str, ...]] = []
        self.closed = 0

    def records(self) -> list[Record]:
        return self.kept

    def get(self, quarantine_id: str) -> Record:
        for record in self.kept:
            if record.id == quarantine_id:
                return record
        raise NotFoundError(quarantine_id)

    def release(self, quarantine_id: str, *, operator: str, reason: str) -> Record:
        return self._end("releasing", quarantine_id, operator, reason)

    def kill(self, quarantine_id: str, *, operator: str, reason: str) -> Record:
        return self._end("killing", quarantine_id, operator, reason)

    def _end(self, state: str, quarantine_id: str, operator: str, reason: str) -> Record:
        self.did.append((state, quarantine_id, operator, reason))
        record = self.get(quarantine_id)
        record.state = state
        return record

    def run(self, timeout_s: float) -> None:
        for record in self.kept:
            if record.state in {"releasing", "killing"}:
                record.undone.append(Step("thaw" if not record.undone else "lift"))
                if len(record.undone) == 2:
                    record.state = {"releasing": "released", "killing": "killed"}[record.state]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def engine(here: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    asked: list[bool] = []

    def make(config: Config, acting: bool) -> Engine:
        asked.append(acting)
        made.did.append(("acting" if acting else "looking",))
        return made

    monkeypatch.setattr(offline, "engine", make)
    return made


def audit(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "state/audit.jsonl").read_text().splitlines()]


def test_the_list_comes_from_the_ledger_and_locks_nothing(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine", "list", "-o", "compact"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("q-1\theld\tagent-1\t")
    assert out.count("\n") == 1
    assert err.startswith("pinfold: ")
    assert "no daemon runs here" in err
    assert "going on alone" in err
    assert engine.did == [("looking",)]
    assert engine.closed == 1
    assert main(["quarantine", "list", "--check"]) == 10


@pytest.mark.parametrize("output", ["table", "json", "compact"])
def test_it_is_described_whatever_bytes_its_path_has(
    engine: Engine, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quarantine", "describe", "agent-1", "-o", output]) == 0
    out = capsys.readouterr().out
    assert "q-1" in out
    assert all(line.replace("\t", "").isprintable() for line in out.splitlines())


@pytest.mark.parametrize(
    ("verb", "doing", "done"), [("release", "releasing", "released"), ("kill", "killing", "killed")]
)
def test_it_is_ended_and_audited(
    engine: Engine, here: Path, verb: str, doing: str, done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nobody else would go on with it: so this waits, whatever was asked for.
    assert main(["quarantine", verb, "agent-1", "--reason", "over", "--yes", "--no-wait"]) == 0
    assert engine.get("q-1").state == done
    assert [what for what, *_ in engine.did] == ["looking", "acting", doing]
    assert engine.did[-1][1] == "q-1"
    assert engine.did[-1][2].startswith("uid 0, pid ")
    assert engine.did[-1][3] == "over"
    assert engine.closed == 2
    assert [(line["operation"], line["target"], line["reason"], line["outcome"]) for line in audit(here)] == [
        (f"quarantine_{verb}", "q-1", "over", "done")
    ]
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in told[1:]] == ["thaw", "lift"]


def test_what_fails_is_audited_too(engine: Engine, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ActError("the cgroup filesystem is read-only")

    monkeypatch.setattr(engine, "release", fail)
    assert main(["quarantine", "release", "q-1", "--reason", "x", "--yes"]) == 1
    assert audit(here)[0]["outcome"] == "failed"
    assert audit(here)[0]["detail"] == "the cgroup filesystem is read-only"


@pytest.mark.parametrize("verb", ["release", "kill"])
def test_a_dry_run_does_not_even_lock(engine: Engine, here: Path, verb: str) -> None:
    assert main(["quarantine", verb, "q-1", "--dry-run"]) == 0
    assert engine.did == [("looking",)]
    assert not (here / "state").exists()


def test_the_status_tells_what_is_left_and_is_5(engine: Engine, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Arming(here / "state").disarm()
    engine.damaged.append("q-3.json.corrupt-1")
    assert main(["status", "--check", "-o", "json"]) == 5
    out, err = capsys.readouterr()
    now = json.loads(out)
    assert (now["armed"], now["kernel"], now["sandboxes"]) == (False, "nothing is pinned", 0)
    assert now["findings"] == [
        "disarmed: nothing is refused, nobody is killed",
        "the daemon does not answer: nothing is detected",
        "the ledger is damaged: q-3.json.corrupt-1",
        "1 quarantine in force",
    ]
    assert "critical: 1 files of the ledger cannot be believed: q-3.json.corrupt-1" in err


def test_a_ledger_that_cannot_be_used_is_never_all_clear(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(config: Config, acting: bool) -> Engine:
        raise HostError("its folder can be written by others")

    monkeypatch.setattr(offline, "engine", refuse)
    assert main(["quarantine", "list"]) == 1
    assert main(["status", "-o", "json"]) == 5
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert "which quarantines are in force is not known: its folder can be written by others" in findings
    assert main(["kill", "nobody", "--reason", "x", "--yes"]) == 3  # and keeps nobody from killing


def test_a_hung_daemon_is_one_that_does_not_answer(engine: Engine, here: Path, silent: Callable[[], None]) -> None:
    silent()
    assert main(["quarantine", "list"]) == 0
    assert engine.did == [("looking",)]


@pytest.fixture
def silent(here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A socket at which nobody ever answers."""
    listener = socket.socket(socket.AF_UNIX)

    def listen() -> None:
        listener.bind(str(here / "run/control.sock"))
        listener.listen()
        monkeypatch.setattr("sensor.control.client.Client.__init__.__defaults__", (0.05,))
        monkeypatch.setattr("sensor.control.client.Client.of.__func__.__defaults__", (0.05,))

    yield listen
    listener.close()


def test_who_started_this_command_is_known() -> None:
    assert next(offline.ancestors()) == os.getppid()
    assert 1 not in set(offline.ancestors())
