"""What an operator may ask of the core: who may, what is meant, what is said, and what the audit keeps."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.control import arguments
from sensor.control.admissions import Bucket
from sensor.control.caller import Caller, ConflictError
from sensor.errors import ActError, DeniedError, NeverTouchError, NotFoundError, PinfoldError, UsageError
from sensor.export import schema
from sensor.respond.kill import Gone
from sensor.respond.killsandbox import Killed
from sensor.respond.nevertouch import Refusal
from sensor.respond.silences import Silence
from tests.operations.core import LAUNCHER, READER, ROOT, STRANGER, Core

WHY = "because"
# What each change is asked with, of the sandbox mine-1, the quarantine q1, the detection 1f-a0/r-1, the silence s1.
CHANGES: dict[str, dict[str, Any]] = {
    "kill": {"ref": "mine-1"},
    "attributes": {"ref": "mine-1", "attributes": {"team": "a"}},
    "quarantine_add": {"sandbox": "mine-1"},
    "quarantine_release": {"id": "q1"},
    "quarantine_kill": {"id": "q1"},
    "reload": {},
    "disarm": {},
    "arm": {},
    "acknowledge": {"id": "1f-a0/r-1"},
    "silence_add": {"rule": "r-1", "until_seconds": 60},
    "silence_remove": {"id": "s1"},
    "recording_begin": {"sandbox": "other"},
    "recording_end": {},
}
# Parents are `boxes/mine-*`: what is below them is one deeper.
BELOW = LAUNCHER.__class__(1200, 9, "/usr/bin/trainer", ("boxes",))


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return Core(tmp_path)


@pytest.fixture
def full(core: Core) -> Core:
    """With one of everything."""
    mine = core.sandbox("mine-1")
    core.sandbox("other")
    core.call("quarantine_add", sandbox="mine-1", reason=WHY)
    core.detect(0xA0, mine)
    core.silences.add(Silence("", WHY, "somebody", 0, 1, rule="x"))
    return core


def test_the_table_has_every_change() -> None:
    assert set(CHANGES) == set(arguments.TOUCHES) | set(arguments.CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_done_and_audited(full: Core, name: str) -> None:
    before = len(full.audit())
    full.call(name, reason="a good reason", **CHANGES[name])
    *_, line = full.audit()[before:]
    assert (line["operation"], line["outcome"], line["reason"]) == (name, "done", "a good reason")
    assert (line["uid"], line["tgid"], line["executable"]) == (0, 7, "/usr/bin/pinfold")
    jsonschema.Draft202012Validator(schema()).validate(line)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("caller", [READER, STRANGER])
def test_who_may_not_change_anything_is_refused_and_audited(full: Core, name: str, caller: Caller) -> None:
    before, state = len(full.audit()), _state(full)
    with pytest.raises(DeniedError, match=f"uid {caller.uid} may not change anything"):
        full.call(name, caller, reason=WHY, **CHANGES[name])
    (line,) = full.audit()[before:]
    assert (line["operation"], line["outcome"], line["uid"]) == (name, "refused", caller.uid)
    assert _state(full) == state


@pytest.mark.parametrize("name", CHANGES)
def test_a_dry_run_says_what_and_changes_nothing(full: Core, name: str) -> None:
    before, state = full.lines(), _state(full)
    asked = CHANGES[name] | ({"sandbox": "other"} if name == "quarantine_add" else {})
    answer = full.call(name, reason=WHY, dry_run=True, **asked)
    assert answer["dry_run"] is True
    assert all(answer["would"])
    assert _state(full) == state
    assert full.lines() == before


def test_what_is_recorded_is_roots_alone_to_ask_for(full: Core) -> None:
    """Arguments and first bytes, raw: whoever may stop a sandbox may not read that."""
    operator = ROOT.__class__(1100, 9, "/usr/bin/pinfold", "change")
    with pytest.raises(DeniedError, match="uid 1100 may not record"):
        full.call("recording_begin", operator, reason=WHY)
    assert full.recorder.asked == []
    answer = full.call("recording_begin", reason=WHY, sandbox="other", seconds=7)
    (wanted,) = full.recorder.asked
    assert wanted is not None
    assert (wanted.seconds, wanted.sandboxes) == (7, (full.enricher.sandboxes.live()[1].id,))
    assert answer == {"running": True, "path": "/x.pfr", "records": 0, "bytes": 0, "seconds": 0, "reason": ""}
    with pytest.raises(NotFoundError):
        full.call("recording_begin", reason=WHY, sandbox="nobody")


def _state(core: Core) -> Any:
    attributes: Any = core.parts.attributes
    return (
        list(core.killed), list(core.armed), len(core.reloads), list(core.recorder.asked),
        dict(core.silences.kept), dict(core.silences.seen),
        {name: record.state for name, record in core.quarantines.kept.items()}, dict(attributes.kept),
        core.parts.arming.disarmed(),
    )  # fmt: skip


@pytest.mark.parametrize("name", arguments.TOUCHES)
def test_a_launcher_touches_what_is_below_its_parents(full: Core, name: str) -> None:
    full.call(name, BELOW, reason=WHY, **CHANGES[name])
    with pytest.raises(DeniedError, match=r"may only touch sandboxes below its parents"):
        full.call(name, LAUNCHER, reason=WHY, **CHANGES[name])
    assert full.audit()[-1]["outcome"] == "refused"


@pytest.mark.parametrize("name", arguments.CHANGES)
def test_a_launcher_changes_nothing_else(full: Core, name: str) -> None:
    with pytest.raises(DeniedError, match="may not change anything"):
        full.call(name, BELOW, reason=WHY, **CHANGES[name])


def test_whoever_may_not_read_reads_nothing(full: Core) -> None:
    for name in arguments.READS:
        asked: dict[str, Any] = {"ref": "mine-1"} if name in {"resolve", "sandbox", "tree"} else {}
        asked |= {"id": "q1"} if name in {"quarantine", "detection"} else {}
        asked |= {"sandbox": "mine-1"} if name == "explain" else {}
        with pytest.raises(DeniedError, match="may not read"):
            full.call(name, STRANGER, **asked)


def test_a_kill_is_journalled_before_and_after(core: Core) -> None:
    box = core.sandbox("mine-1")
    answer = core.call("kill", ref=str(box.id), reason="mining")
    assert answer == {"id": box.id, "name": "mine-1", "killed": [101, 102], "complete": True}
    assert core.killed == [box.id]
    assert [line["outcome"] for line in core.audit()] == ["intent", "done"]
    assert core.audit()[0]["SandboxId"] == box.id


@pytest.mark.parametrize(
    ("found", "kind", "outcome"),
    [
        (Gone(), ConflictError, "refused"),
        (OSError(errno.EROFS, "Read-only file system"), ActError, "failed"),
        (Refusal("the cgroup holds PID 1"), NeverTouchError, "refused"),
    ],
)
def test_a_kill_that_does_not_happen_says_why(core: Core, found: Any, kind: type[PinfoldError], outcome: str) -> None:
    core.sandbox("mine-1")
    core.kills = found
    with pytest.raises(kind):
        core.call("kill", ref="mine-1", reason=WHY)
    assert [line["outcome"] for line in core.audit()] == ["intent", outcome]


def test_a_dry_run_asks_the_never_touch_list_too(core: Core) -> None:
    core.sandbox("mine-1")
    core.refusal = Refusal("the host's sshd")
    for name, asked in (("kill", {"ref": "mine-1"}), ("quarantine_add", {"sandbox": "mine-1"})):
        with pytest.raises(NeverTouchError, match="the host's sshd"):
            core.call(name, reason=WHY, dry_run=True, **asked)


def test_a_quarantine_is_ordered_as_asked(core: Core) -> None:
    box = core.sandbox("mine-1")
    asked = {"ttl_seconds": 60, "on_expiry": "release", "freeze": False, "loopback": True, "evidence": False}
    answer = core.call("quarantine_add", sandbox="/boxes/mine-1", reason=WHY, detection_id="1f-a0/r", **asked)
    order = core.quarantines.kept["q1"].order
    assert msgspec.to_builtins(order) == asked | {
        "sandbox_id": box.id,
        "path": "/boxes/mine-1",
        "name": "mine-1",
        "reason": WHY,
        "operator": "uid 0, pid 7, /usr/bin/pinfold",
        "detection_id": "1f-a0/r",
    }
    assert (answer["id"], answer["state"], answer["steps"][0]["name"]) == ("q1", "beginning", "network")
    assert "stopped" not in answer
    assert core.audit()[-1]["detail"] == "q1"
    assert core.call("sandbox", ref="mine-1")["quarantine"] == "q1"
    assert core.call("quarantine_add", sandbox="mine-1", reason=WHY, dry_run=True)["would"] == [
        "nothing: it is held by q1 already"
    ]
    core.call("quarantine_release", id="q1", reason="over")
    assert core.quarantines.ended == [("release", "uid 0, pid 7, /usr/bin/pinfold", "over")]
    assert (core.call("quarantines"), len(core.call("quarantines", all="1"))) == ([], 1)
    assert core.call("quarantine", id="q1")["state"] == "released"
    with pytest.raises(NotFoundError, match="no quarantine q9"):
        core.call("quarantine_release", id="q9", reason=WHY)


def test_what_is_meant_is_found_or_said(core: Core) -> None:
    first, second = core.sandbox("agent-1"), core.sandbox("agent-2")
    for ref in ("agent-1", str(first.id), "boxes/agent-1", "/boxes/agent-1/"):
        assert core.call("resolve", ref=ref)["id"] == first.id
    second.name = "agent-1"
    with pytest.raises(ConflictError, match=rf"2 sandboxes: {first.id} \(boxes/agent-1\), {second.id}"):
        core.call("resolve", ref="agent-1")
    second.name = str(first.id)
    assert core.call("resolve", ref=str(first.id))["id"] == first.id, "a name that looks like another's id is not it"
    with pytest.raises(NotFoundError, match="no sandbox agent-3; there is agent-1"):
        core.call("resolve", ref="agent-3")
    with pytest.raises(NotFoundError, match=r"no sandbox zzz$"):
        core.call("resolve", ref="zzz")
    core.enricher.sandboxes.ended(first.id, 5)
    assert core.call("sandbox", ref=str(first.id))["ended_ns"] > 0
    with pytest.raises(NotFoundError, match="it is over"):
        core.call("kill", ref=str(first.id), reason=WHY)
    with pytest.raises(NotFoundError, match=r"no sandbox with the cgroup id 1$"):
        core.call("kill", ref="1", reason=WHY)


@given(st.text(min_size=1, max_size=80))
def test_whatever_is_meant_the_answer_is_one_printable_line(tmp_path_factory: pytest.TempPathFactory, ref: str) -> None:
    core = _shared(tmp_path_factory)
    assert _said(lambda: core.operations.call("resolve", {"ref": ref}, ROOT)).isprintable()


def _said(act: Callable[[], object]) -> str:
    try:
        act()
    except PinfoldError as error:
        return str(error)
    return ""


_kept: list[Core] = []


def _shared(factory: pytest.TempPathFactory) -> Core:
    if not _kept:
        _kept.append(Core(factory.mktemp("core")))
        _kept[0].sandbox("agent-1").name = "agent-\x1b[2J\udcff"
    return _kept[0]


@given(st.sampled_from(sorted(arguments.ALL)), st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_whatever_the_api_sends_is_answered_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, body: bytes
) -> None:
    core = _shared(tmp_path_factory)
    assert _said(lambda: core.operations.answer(name, body, ROOT)).isprintable()


def test_a_hostile_name_is_told_and_audited_harmlessly(core: Core) -> None:
    box = core.sandbox("mine-1")
    box.name = "agent\x1b[2J\n\udcff"
    assert core.call("sandbox", ref=str(box.id))["name"] == "agent\x1b[2J\n?"
    core.call("kill", ref=str(box.id), reason=WHY)
    assert core.audit()[-1]["SandboxName"].isprintable()


def test_refusals_beyond_a_rate_are_counted_and_not_written(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.operations._journal, "_bucket", Bucket(0.0, 3.0))
    for _ in range(10):
        with pytest.raises(DeniedError):
            core.call("disarm", READER, reason=WHY)
    assert len(core.audit()) == 3
    core.call("arm", reason=WHY)
    assert core.audit()[-1]["detail"] == "7 refusals before it were not written"


def test_disarm_and_arm_are_both_halves(core: Core) -> None:
    assert core.call("disarm", reason=WHY) == {"armed": False}
    assert core.parts.arming.disarmed()
    assert core.call("policy")["armed"] is False
    assert core.call("arm", reason=WHY) == {"armed": True}
    assert not core.parts.arming.disarmed()
    assert core.armed == [False, True]


def test_disarm_lifts_the_kernel_s_half_even_where_the_marker_cannot_be_written(core: Core) -> None:
    (core.folder / "state").write_text("no folder")
    with pytest.raises(ActError):
        core.call("disarm", reason=WHY)
    assert core.armed == [False]
    assert core.audit()[-1]["outcome"] == "failed"


def test_a_policy_is_explained_for_one_question_at_a_time(core: Core) -> None:
    core.sandbox("mine-1")
    assert core.call("explain", READER, sandbox="mine-1", connect="1.2.3.4:22") == {"verdict": "refused"}
    assert core.questions == [("mine-1", {"connect": "1.2.3.4:22"})]
    with pytest.raises(UsageError, match="not connect and exec"):
        core.call("explain", sandbox="mine-1", connect="1.2.3.4:22", exec="/bin/sh")


def test_attributes_are_given_and_shown(core: Core) -> None:
    core.sandbox("mine-1")
    answer = core.call("attributes", ref="mine-1", reason=WHY, attributes={"class": "default", "team": "a"})
    assert answer["attributes"] == {"class": "default", "team": "a"}
    assert core.call("sandbox", ref="mine-1")["attributes"] == {"class": "default", "team": "a"}
    with pytest.raises(UsageError, match="not allowed"):
        core.call("attributes", ref="mine-1", reason=WHY, attributes={"a": "b\nc"})


def test_silences_select_something_and_end(core: Core) -> None:
    box = core.sandbox("mine-1")
    made = core.call("silence_add", reason=WHY, until_seconds=60, from_seconds=10, sandbox="mine-1", **{"class": "x"})
    assert (made["sandbox"], made["class"], made["operator"]) == ("mine-1", "x", str(ROOT))
    assert made["until_ns"] - made["from_ns"] == 50_000_000_000
    ids = {"until_seconds": 5, "reason": WHY}
    assert core.call("silence_add", sandbox=str(box.id), **ids)["sandbox"] == str(box.id)
    assert core.call("silence_add", sandbox="boxes/mine-1", **ids)["sandbox"] == str(box.id)
    assert core.call("silence_add", sandbox="to-come", from_seconds=1, **ids)["sandbox"] == "to-come"
    with pytest.raises(NotFoundError, match="no sandbox to-come"):
        core.call("silence_add", sandbox="to-come", **ids)
    assert made in core.call("silences", READER)
    assert len(core.call("silences", READER)) == 4
    core.call("silence_remove", id=made["id"], reason=WHY)
    for asked, why in (({}, "one at least"), ({"rule": "x", "from_seconds": 60}, "before until_seconds")):
        with pytest.raises(UsageError, match=why):
            core.call("silence_add", reason=WHY, until_seconds=60, **asked)
    with pytest.raises(NotFoundError, match="no silence s9"):
        core.call("silence_remove", id="s9", reason=WHY)


def test_what_is_not_there_is_refused_with_that(core: Core) -> None:
    core.sandbox("mine-1")
    core.parts.quarantines = core.parts.silences = core.parts.attributes = core.parts.explain = None
    for name, asked in (
        ("quarantine_add", {"sandbox": "mine-1", "reason": WHY}),
        ("silence_add", {"rule": "r", "until_seconds": 5, "reason": WHY}),
        ("attributes", {"ref": "mine-1", "attributes": {}, "reason": WHY}),
        ("explain", {"sandbox": "mine-1"}),
        ("quarantines", {}),
    ):
        with pytest.raises(ConflictError, match="this sensor has no"):
            core.call(name, **asked)
    assert msgspec.json.decode(core.operations.status())["unacknowledged"] == 0


def test_the_status_counts_what_needs_somebody(full: Core) -> None:
    full.parts.ledger_damage = lambda: "kept aside as ledger.damaged"
    full.reports.tampered = lambda sandbox_id: "maps"  # type: ignore[method-assign]
    found = msgspec.json.decode(full.operations.status())
    assert found["quarantines"] == {"beginning": 1}
    assert (found["ledger"], found["tamperable"]) == ("kept aside as ledger.damaged", 2)
    assert (found["detections"], found["unacknowledged"], found["armed"]) == (1, 1, True)
    full.call("acknowledge", id="1f-a0/r-1", reason="seen")
    assert msgspec.json.decode(full.operations.status())["unacknowledged"] == 0


def test_an_unknown_operation_is_none(core: Core) -> None:
    for name in ("", "status", "__init__", "kill\0"):
        with pytest.raises(UsageError, match="no such operation"):
            core.operations.call(name, {}, ROOT)
        with pytest.raises(UsageError, match="no such operation"):
            core.operations.answer(name, b"{}", ROOT)


def test_a_killed_sandbox_s_many_processes_are_told_bounded(core: Core) -> None:
    core.sandbox("mine-1")
    core.kills = Killed(tuple(range(1, 5000)))
    assert len(core.call("kill", ref="mine-1", reason=WHY)["killed"]) == 1024


def test_times_are_utc(core: Core) -> None:
    box = core.sandbox("mine-1")
    box.born_ns = time.monotonic_ns()
    assert abs(core.call("sandbox", ref="mine-1")["born_ns"] - time.time_ns()) < 10_000_000_000
