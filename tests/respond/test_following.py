"""What follows a detection beyond its level: rules, exceptions, silences, budgets, grace, holds, and what a double fork
leaves behind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sensor.config import Config, SandboxClass
from sensor.configrespond import Budget, ResponseException, ResponseRule, Responses
from sensor.errors import ActError, NeverTouchError
from sensor.events.activity import NetworkBehavior
from sensor.events.detection import Detection, Response
from sensor.metrics import Metrics
from sensor.respond import budget, grace
from sensor.respond.disarm import Arming
from sensor.respond.exceptions import file_id
from sensor.respond.grace import Graces
from sensor.respond.policy import Policy
from sensor.respond.responder import Responder
from sensor.respond.silences import Silence, Silences
from sensor.respond.table import Host
from tests.respond.host import SANDBOX, Record, Table, alive, ended, record_of, running, sleeper
from tests.respond.test_responder import activity

HELD = Responses(high="quarantine", medium="freeze", critical="kill", budget=Budget(2))


def config(**classes: Responses) -> Config:
    return Config(classes={name: SandboxClass(mode="enforce", responses=each) for name, each in classes.items()})


def behaviour(record: Record, class_: str = "a", **changed: Any) -> NetworkBehavior:
    plain: dict[str, Any] = {"int": 0, "str": "", "bool": False}
    fields = msgspec.structs.fields(NetworkBehavior)
    values: dict[str, Any] = {field.name: plain.get(getattr(field.type, "__name__", "")) for field in fields}
    values |= {
        "SandboxId": SANDBOX, "SandboxName": "box", "SandboxClass": class_, "ProcessId": record.tgid,
        "ProcessGuid": f"{record.tgid}-{record.start_ns}", "monotonic_ns": time.monotonic_ns(), "Image": record.image,
        "Score": 85, "DestinationIp": "10.1.2.3", "DestinationPort": 22,
    }  # fmt: skip
    return NetworkBehavior(**(values | changed))


def detection(record: Record, level: str = "high", identity: str = "1-40/rule", **changed: Any) -> Detection:
    tags = ("attack.t1090", "attack.command_and_control")
    return Detection(identity, time.time_ns(), "rule", "A rule", level, tags, behaviour(record, **changed))


class Stage:
    """A responder with everything that it talks to; `clock` is what grace and silences go by."""

    def __init__(self, folder: Path, table: Table, settings: Config) -> None:
        self.state = str(folder / "state")
        self.journal: list[Response] = []
        self.notices: list[str] = []
        self.held: list[tuple[str, bool]] = []
        self.answer: Exception | None = None
        self.clock = 1_000_000_000_000
        self.metrics = Metrics()
        self.arming = Arming(folder / "arming")
        self.silences = Silences(self.state, self._told, lambda: self.clock)
        self.responder = self.made(table, settings)

    def made(self, table: Table, settings: Config) -> Responder:
        home = Host(table, lambda _: None, lambda: (), "/sys/fs/cgroup", self.state)
        one = Responder(
            Policy(settings), home, self.journal.append, self.metrics, self.arming,
            quarantine=self._quarantine, silences=self.silences, told=self._told,
        )  # fmt: skip
        one._graces._now = lambda: self.clock
        return one

    def outcomes(self, *detections: Detection) -> list[str]:
        return [told.outcome for each in detections for told in self.responder.respond(each)]

    def _told(self, text: str, **_: Any) -> None:
        self.notices.append(text)

    def _quarantine(self, found: Detection, freeze_only: bool) -> str:
        if self.answer is not None:
            raise self.answer
        self.held.append((found.id, freeze_only))
        return f"q{len(self.held)}"


@pytest.fixture
def target() -> Iterator[subprocess.Popen[str]]:
    with running(*sleeper()) as process:
        yield process


@pytest.fixture
def record(target: subprocess.Popen[str]) -> Record:
    return record_of(target.pid, image="/usr/bin/sleep")


@pytest.fixture
def stage(tmp_path: Path, record: Record) -> Stage:
    return Stage(tmp_path, Table(record), config(a=HELD))


def test_holds_are_journalled_before_and_after(stage: Stage, record: Record) -> None:
    told = stage.responder.respond(detection(record))
    assert told == stage.journal
    assert [(each.action, each.outcome, each.reason) for each in told] == [
        ("quarantine", "intent", ""),
        ("quarantine", "done", "quarantine q1"),
    ]
    stage.responder.respond(detection(record, "medium", "1-48/rule"))
    assert stage.held == [("1-40/rule", False), ("1-48/rule", True)]
    assert stage.metrics.value("pinfold_responses_total", ("freeze", "done")) == 1
    assert alive(record.tgid)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NeverTouchError("it holds sshd"), "never_touch"),
        (ActError("no room for it"), "failed"),
        (OSError(28, "No space left on device"), "failed"),
    ],
)
def test_a_hold_that_cannot_be_says_why(stage: Stage, record: Record, error: Exception, outcome: str) -> None:
    stage.answer = error
    told = stage.responder.respond(detection(record))[-1]
    assert (told.outcome, told.reason) == (outcome, getattr(error, "strerror", None) or str(error))


def test_without_a_quarantine_a_hold_fails_and_says_so(stage: Stage, record: Record) -> None:
    stage.responder.quarantine = None
    assert stage.responder.respond(detection(record))[-1].outcome == "failed"


# Which response.


@pytest.mark.parametrize(
    ("rule", "follows"),
    [
        ({"rule": "rule"}, True),
        ({"rule": "A rule"}, True),
        ({"rule": "a rule"}, False),
        ({"tag": "attack.t1090"}, True),
        ({"tag": "attack.t10*"}, True),
        ({"tag": "attack.t11*"}, False),
        ({"level": "high"}, True),
        ({"level": "low"}, False),
        ({"score_at_least": 85}, True),
        ({"score_at_least": 86}, False),
        ({"rule": "rule", "score_at_least": 86}, False),
    ],
)
def test_rules_go_before_the_level(record: Record, rule: dict[str, Any], follows: bool) -> None:
    policy = Policy(config(a=Responses(high="log", rules=(ResponseRule("freeze", **rule),))))
    decision = policy.of_detection(detection(record))
    assert decision.action == ("freeze" if follows else "log")
    assert decision.key == ("classes", "a", "responses", *(("rules", 0) if follows else ("high",)))


def test_what_has_no_score_reaches_none(record: Record) -> None:
    policy = Policy(config(a=Responses(rules=(ResponseRule("kill", score_at_least=1),))))
    plain = Detection("1-1/r", 0, "r", "R", "high", (), activity(record, "a"))
    assert policy.of_detection(plain).action == "log"


def test_the_first_rule_that_fits_counts(record: Record) -> None:
    rules = (ResponseRule("log", rule="rule"), ResponseRule("kill", level="high"))
    assert Policy(config(a=Responses(rules=rules))).of_detection(detection(record)).action == "log"


# Exceptions.


def excepting(path: str, destination: str) -> Config:
    return config(a=Responses(high="kill", exceptions=(ResponseException(path, destination, "the mirror"),)))


@pytest.mark.parametrize(
    ("destination", "outcome"),
    [("10.0.0.0/8", "excepted"), ("10.1.2.3:22", "excepted"), ("10.1.2.3:23", "done"), ("10.2.0.0/16", "done")],
)
def test_an_exception_is_for_a_program_and_a_destination(
    tmp_path: Path, record: Record, destination: str, outcome: str
) -> None:
    program = tmp_path / "git"
    program.write_text("the real one")
    known = file_id(str(program))
    assert known is not None
    record.image_file = known
    stage = Stage(tmp_path, Table(record), excepting(str(program), destination))
    assert stage.outcomes(detection(record))[-1] == outcome
    if outcome == "done":
        assert ended(record.tgid)
    else:
        assert alive(record.tgid)
        assert stage.journal[-1].reason == f"{program} to {destination}: the mirror"


@pytest.mark.parametrize(
    "changed",
    [
        {"image_file": (1, 2)},
        {"image": "/tmp/git"},
        {"exec_id": 1 << 62},
        {"exec_id": 0},
        {"start_ns": 5},
        {"executed_inside": False},
    ],
)
def test_who_runs_the_program_only_now_or_another_is_not_excepted(
    tmp_path: Path, record: Record, changed: dict[str, Any]
) -> None:
    """Its image is replaced, it executed the program after the deed, or it is a later process of that number."""
    program = tmp_path / "git"
    program.write_text("the real one")
    record.image_file = file_id(str(program)) or (0, 0)
    found = detection(record)
    stage = Stage(tmp_path, Table(record), excepting(str(program), "10.0.0.0/8"))
    assert stage.responder._passed_over(found) is not None
    for name, value in changed.items():
        setattr(record, name, value)
    assert stage.responder._passed_over(found) is None


def test_a_program_put_in_its_place_is_excepted_from_the_next_reload_on(tmp_path: Path, record: Record) -> None:
    program = tmp_path / "git"
    program.write_text("the real one")
    settings = excepting(str(program), "10.0.0.0/8")
    policy = Policy(settings)
    (tmp_path / "other").write_text("another")
    os.replace(tmp_path / "other", program)
    now = file_id(str(program))
    assert policy.exception(detection(record), now) == ""
    assert Policy(settings).exception(detection(record), now) != ""


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    policy = Policy(excepting(str(tmp_path / "absent"), "10.0.0.0/8"))
    assert "absent' is no file of this host" in policy.unbound[0]
    assert Policy(excepting("/usr/bin", "10.0.0.0/8")).unbound, "a folder is no program"


# Silences and acknowledgements.


def test_what_is_silenced_is_told_and_left_alone(stage: Stage, record: Record) -> None:
    made = stage.silences.add(Silence("", "maintenance", "uid 0", 0, stage.clock + 60_000_000_000, rule="rule"))
    (told,) = stage.responder.respond(detection(record))
    assert (told.outcome, told.reason) == ("silenced", f"silence {made.id} of uid 0: maintenance")
    stage.clock += 60_000_000_000
    assert stage.outcomes(detection(record)) == ["intent", "done"]


def test_an_acknowledged_detection_is_left_alone(stage: Stage, record: Record) -> None:
    stage.silences.acknowledge("1-40/rule", "we know", "uid 0")
    assert stage.outcomes(detection(record)) == ["acknowledged"]
    assert stage.outcomes(detection(record, identity="1-48/rule")) == ["intent", "done"]


# The budget.


def test_beyond_the_budget_it_is_only_told_and_loudly(
    stage: Stage, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [detection(record, identity=f"1-{number:x}/rule", SandboxId=number) for number in range(8, 13)]
    assert stage.outcomes(*found) == ["intent", "done", "intent", "done", "budget", "budget", "budget"]
    assert len(stage.held) == 2
    assert stage.metrics.value("pinfold_response_budget_exceeded_total") == 3
    assert stage.metrics.value("pinfold_responses_total", ("quarantine", "budget")) == 3
    (notice,) = stage.notices
    assert notice.startswith("critical: 2 quarantines of class a in a minute")
    assert stage.outcomes(found[0]) == ["intent", "done"], "its sandbox was counted already"
    assert stage.outcomes(detection(record, "critical", "1-90/rule"))[0] == "intent", "a kill costs nothing"
    monkeypatch.setattr(budget, "MINUTE_NS", 0)
    assert stage.outcomes(found[4]) == ["intent", "done"]


def test_budgets_are_by_class(tmp_path: Path, record: Record) -> None:
    stage = Stage(tmp_path, Table(record), config(a=HELD, b=HELD))
    for class_ in ("a", "b"):
        found = [detection(record, SandboxId=number, class_=class_) for number in range(2)]
        assert stage.outcomes(*found) == ["intent", "done"] * 2


# Grace.


@pytest.fixture
def patient(tmp_path: Path, record: Record) -> Stage:
    return Stage(tmp_path, Table(record), config(a=Responses(high="kill", medium="quarantine", grace_seconds=30)))


def test_a_response_is_announced_and_carried_out_when_its_time_has_come(patient: Stage, record: Record) -> None:
    (told,) = patient.responder.respond(detection(record))
    assert (told.outcome, told.latency_ns, told.targets) == ("announced", 0, (record.tgid,))
    assert "30 s" in told.reason
    patient.clock += 29_000_000_000
    assert not patient.responder.pending
    assert patient.responder.settle() == []
    patient.clock += 1_000_000_000
    assert patient.responder.pending
    assert [each.outcome for each in patient.responder.settle()] == ["intent", "done"]
    assert ended(record.tgid)
    assert patient.responder.announced == 0


@pytest.mark.parametrize("by", ["acknowledged", "silenced", "disarmed", "monitor"])
def test_whoever_says_so_meanwhile_keeps_it_from_being_done(patient: Stage, record: Record, by: str) -> None:
    patient.responder.respond(detection(record))
    if by == "acknowledged":
        patient.silences.acknowledge("1-40/rule", "known", "uid 0")
    elif by == "silenced":
        patient.silences.add(Silence("", "known", "uid 0", 0, patient.clock + 90_000_000_000, sandbox="box"))
    elif by == "disarmed":
        patient.arming.disarm()
    else:
        patient.responder.policy = Policy(Config(classes={"a": SandboxClass()}))
    patient.clock += 31_000_000_000
    (told,) = patient.responder.settle()
    assert told.outcome == (by if by in {"acknowledged", "silenced"} else "would")
    assert alive(record.tgid)


def test_a_restart_in_between_carries_it_out(patient: Stage, record: Record) -> None:
    patient.responder.respond(detection(record))
    patient.responder.respond(detection(record, "medium", "1-48/rule"))
    again = patient.made(Table(record), config(a=Responses(grace_seconds=30)))
    again.recover()
    patient.clock += 31_000_000_000
    told = again.settle()
    assert [(each.action, each.outcome) for each in told] == [
        ("kill", "intent"), ("kill", "done"), ("quarantine", "intent"), ("quarantine", "done"),
    ]  # fmt: skip
    assert ended(record.tgid)
    third = patient.made(Table(), config(a=Responses()))
    third.recover()
    assert third.announced == 0, "done once"


def test_a_crash_while_doing_it_does_it_again(patient: Stage, record: Record) -> None:
    patient.responder.respond(detection(record, "medium"))
    patient.clock += 31_000_000_000
    patient.responder._graces.take_due()  # and the sensor dies here
    again = patient.made(Table(record), config(a=Responses()))
    again.recover()
    assert [each.outcome for each in again.settle()] == ["intent", "done"]


def test_another_boot_s_announcements_are_nobody_s(patient: Stage, record: Record, tmp_path: Path) -> None:
    patient.responder.respond(detection(record))
    assert len(Graces(patient.state, boot="another").restore()) == 0


def test_damaged_announcements_are_said(patient: Stage, record: Record) -> None:
    patient.responder.respond(detection(record))
    Path(patient.state, "announced.json").write_text('[{"due_ns": ')
    again = patient.made(Table(record), config(a=Responses()))
    again.recover()
    assert again.announced == 0
    assert "cannot be read" in patient.notices[-1]


def test_when_too_many_wait_the_next_is_done_at_once(
    patient: Stage, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grace, "MOST_WAITING", 1)
    found = [detection(record, "medium", f"1-{number:x}/rule") for number in (8, 16)]
    assert patient.outcomes(*found) == ["announced", "intent", "done"]


def test_the_same_detection_waits_once(patient: Stage, record: Record) -> None:
    assert patient.outcomes(detection(record), detection(record)) == ["announced", "announced"]
    assert patient.responder.announced == 1
