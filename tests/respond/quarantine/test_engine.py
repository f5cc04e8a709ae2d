"""What is asked for, what is refused, what a start finds. Cgroups are folders here; tests/live has real ones."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sensor.bpf.denials import Deny
from sensor.configquarantine import Quarantine
from sensor.errors import ActError, NotFoundError, UsageError
from sensor.metriclist import QUARANTINE_STEPS, QUARANTINES
from sensor.metrics import decode
from sensor.respond.quarantine import still, watching
from sensor.respond.quarantine.ledger import Ledger
from sensor.respond.quarantine.record import STATES, STEPS, UNDOING, Order
from tests.respond.quarantine.quarantining import ALL, Bench, order, outcomes, reach, settle

ENDS = {"operator": "uid 0", "reason": "enough"}


class Folder:
    """Stands in for a cgroup without processes."""

    def __init__(self, place: Path, frozen: str = "0\n") -> None:
        place.mkdir(parents=True)
        for name, text in (("procs", ""), ("freeze", frozen), ("events", "populated 0\nfrozen 1\n")):
            (place / f"cgroup.{name}").write_text(text)
        self.place, self.id = place, place.stat().st_ino

    def file(self, name: str) -> str:
        return (self.place / f"cgroup.{name}").read_text().strip()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that freezes and thaws when it is told: a folder's cgroup.events would never say so."""
    monkeypatch.setattr(still, "frozen", lambda directory: directory.read("cgroup.freeze").strip() == b"1")


@pytest.fixture
def box(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cgroups" / "box")


@pytest.fixture
def bench(tmp_path: Path, box: Folder) -> Bench:
    return Bench(str(tmp_path / "cgroups"), str(tmp_path))


def held(bench: Bench, box: Folder, **more: Any) -> tuple[Any, Any]:
    quarantines = bench.start()
    record = quarantines.add(order(box.id, "/box", **more))
    return quarantines, reach(quarantines, record, "held")


def test_the_metrics_know_every_state_and_step() -> None:
    assert set(QUARANTINES) == {*STATES, "damaged"}
    assert set(QUARANTINE_STEPS) == {*STEPS, *UNDOING}


def test_the_steps_are_in_order_each_with_its_times_and_told(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box)
    assert [step.name for step in record.steps] == list(STEPS)
    assert all(0 < step.began_ns <= step.ended_ns for step in record.steps)
    begun = {step.name: step.began_ns for step in record.steps}
    assert begun["network"] <= begun["sockets"] <= begun["freeze"] <= begun["evidence"] <= begun["hold"]
    told = [fields["step"] for _, fields in bench.notices if "step" in fields]
    assert set(told) == set(STEPS) and len(told) == len(STEPS)
    assert all(fields["QuarantineId"] == record.id for _, fields in bench.notices)
    reach(quarantines, quarantines.release(record.id, **ENDS), "released")
    assert [step.name for step in record.undone] == ["thaw", "continue", "lift"]
    snapshot = decode(bench.metrics.snapshot())
    assert {labels for labels, _ in snapshot.histograms["pinfold_quarantine_seconds"]} == {
        ("cut",), ("frozen",), ("held",),
    }  # fmt: skip
    assert bench.metrics.value("pinfold_quarantine_steps_total", ("freeze", "done")) == 1
    quarantines.tick(time.monotonic_ns() + 2_000_000_000)
    assert bench.metrics.value("pinfold_quarantines", ("released",)) == 1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"reason": " "}, "needs a reason"),
        ({"reason": "x" * 1001}, "longer than 1000"),
        ({"operator": ""}, "needs an operator"),
        ({"path": "/a/../b"}, "path of a cgroup"),
        ({"path": "/"}, "path of a cgroup"),
        ({"path": "box"}, "path of a cgroup"),
        ({"path": "/box\0"}, "path of a cgroup"),
        ({"path": "/" + "x" * 4096}, "longer than the kernel"),
        ({"sandbox_id": 0}, "cgroup's id"),
        ({"ttl_seconds": -1}, "time to live"),
    ],
)
def test_what_cannot_be_meant_is_refused(bench: Bench, box: Folder, wrong: dict[str, Any], named: str) -> None:
    quarantines = bench.start()
    asked = msgspec.structs.replace(order(box.id, "/box"), **wrong)
    with pytest.raises(UsageError, match=named):
        quarantines.add(asked)
    assert bench.denials is not None and bench.denials.puts == []


def test_twice_is_once(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box)
    assert quarantines.add(order(box.id, "/box", reason="again")) is record
    assert len(quarantines.records()) == 1
    quarantines.release(record.id, **ENDS)
    assert quarantines.release(record.id, **ENDS) is record
    with pytest.raises(ActError, match="is releasing"):
        quarantines.add(order(box.id, "/box"))


def test_without_a_reason_nothing_ends(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box)
    for end in (quarantines.release, quarantines.kill):
        with pytest.raises(UsageError, match="reason"):
            end(record.id, operator="uid 0", reason="")
        with pytest.raises(NotFoundError):
            end("q1-nobody", **ENDS)
    assert record.state == "held"


def test_while_disarmed_nothing_begins(bench: Bench, box: Folder) -> None:
    bench.disarmed = True
    with pytest.raises(ActError, match="pinfold arm"):
        bench.start().add(order(box.id, "/box"))


def test_another_cgroup_of_that_path_is_not_meant(bench: Bench, box: Folder) -> None:
    with pytest.raises(ActError, match="no such cgroup"):
        bench.start().add(order(box.id + 1, "/box"))


def test_loopback_and_freeze_and_evidence_are_choices(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box, loopback=True, freeze=False, evidence=False)
    assert bench.denials is not None and bench.denials.get(box.id) == ALL & ~Deny.LOOPBACK
    assert outcomes(record)["freeze"] == outcomes(record)["evidence"] == "skipped"
    assert box.file("freeze") == "0"
    reach(quarantines, quarantines.release(record.id, **ENDS), "released")


def test_a_kernel_that_takes_no_denial_is_stated_and_the_rest_is_done(bench: Bench, box: Folder) -> None:
    assert bench.denials is not None
    bench.denials.broken = "the map is full"
    quarantines, record = held(bench, box)
    assert [record.step(name).state for name in ("network", "devices", "exec")] == ["failed"] * 3
    assert "the map is full" in record.step("network").detail
    assert record.step("freeze").state == "done"
    bench.denials.broken = ""
    settle(quarantines, lambda: record.step("network").state == "done")
    assert bench.denials.get(box.id) == ALL


def test_a_denial_that_is_not_lifted_is_not_released(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box)
    assert bench.denials is not None
    bench.denials.broken = "Operation not permitted"
    quarantines.release(record.id, **ENDS)
    settle(quarantines, lambda: record.undo("lift").state == "failed")
    assert record.state == "releasing"
    bench.denials.broken = ""
    reach(quarantines, record, "released")


def test_one_that_stands_still_by_a_cgroup_above_is_released_all_the_same(
    bench: Bench, box: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.settings = Quarantine(freeze_seconds=1)
    quarantines, record = held(bench, box)
    monkeypatch.setattr(still, "frozen", lambda _: True)
    reach(quarantines, quarantines.release(record.id, **ENDS), "released")
    assert "one above it is frozen" in record.undo("thaw").detail


def test_evidence_that_fails_is_stated(bench: Bench, box: Folder) -> None:
    bench.collector.ok = False
    _, record = held(bench, box)
    assert record.step("evidence").state == "failed"
    assert record.step("hold").detail == "not done: evidence"


# Time.


@pytest.mark.parametrize(("after", "state"), [("release", "released"), ("kill", "killed"), ("hold", "held")])
def test_what_follows_when_its_time_is_over(
    bench: Bench, box: Folder, monkeypatch: pytest.MonkeyPatch, after: Any, state: str
) -> None:
    quarantines, record = held(bench, box, ttl_seconds=3600, on_expiry=after)
    quarantines.tick(time.monotonic_ns() + 2_000_000_000)
    assert record.state == "held" and not record.expired
    record.expires_ns = time.time_ns() - 1
    settle(quarantines, lambda: record.expired and record.state == state)
    assert not watching.expired(quarantines_case(quarantines, box)) if after == "hold" else record.ended_why


def quarantines_case(quarantines: Any, box: Folder) -> Any:
    return quarantines._cases[box.id]


# Starting.


def test_a_denial_without_a_ledger_entry_is_adopted_and_finished(bench: Bench, box: Folder) -> None:
    assert bench.denials is not None
    bench.denials.put(box.id, ALL)
    quarantines = bench_with_path(bench, box)
    (line,) = quarantines.recover()
    assert "found in force without a ledger entry" in line
    record = quarantines.of(box.id)
    reach(quarantines, record, "held")
    assert record.found and box.file("freeze") == "1"
    reach(quarantines, quarantines.release(record.id, **ENDS), "released")
    assert bench.denials.all() == {}


def bench_with_path(bench: Bench, box: Folder) -> Any:
    bench.host = msgspec.structs.replace(bench.host, sandbox_path=lambda number: "box" if number == box.id else None)
    return bench.make()


def test_a_denial_of_a_cgroup_that_is_gone_is_lifted(bench: Bench) -> None:
    assert bench.denials is not None
    bench.denials.put(4711, ALL)
    quarantines = bench.make()
    (line,) = quarantines.recover()
    assert "concerned nobody" in line and bench.denials.all() == {}
    assert quarantines.records() == []


def test_with_a_damaged_ledger_all_is_left_as_it_is_and_never_all_clear(
    bench: Bench, box: Folder, tmp_path: Path
) -> None:
    quarantines, record = held(bench, box, freeze=False)
    quarantines.close()
    file = tmp_path / "quarantine" / f"{record.id}.json"
    file.write_bytes(b"{")
    again = bench_with_path(bench, box)
    lines = again.recover()
    assert any("critical" in line and ".corrupt-1" in line for line in lines)
    assert again.damaged == [f"{record.id}.json.corrupt-1"]
    assert bench.denials is not None and bench.denials.get(box.id) == ALL
    found = again.of(box.id)
    reach(again, found, "held")
    assert box.file("freeze") == "0", "nobody knows whether it was to be frozen"
    again.tick(time.monotonic_ns() + 2_000_000_000)
    assert bench.metrics.value("pinfold_quarantines", ("damaged",)) == 1
    reach(again, again.release(found.id, **ENDS), "released")
    assert again.damaged


def test_after_another_boot_nothing_is_applied(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box)
    quarantines.close()
    assert bench.denials is not None
    bench.denials.entries.clear()
    (box.place / "cgroup.freeze").write_text("0")
    again = bench.make()
    again._boot = "another"
    again.recover()
    assert again.get(record.id).state == "ended"
    assert "started again" in again.get(record.id).remark
    assert bench.denials.all() == {} and box.file("freeze") == "0"


def test_a_recycled_path_is_not_quarantined_for_its_predecessor(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box)
    quarantines.close()
    other = Folder(box.place.with_name("other"))
    box.place.rename(box.place.with_name("gone"))
    os.rename(other.place, box.place)
    other.place = box.place
    again = bench.start()
    reach(again, again.get(record.id), "ended")
    assert other.file("freeze") == "0"
    assert bench.denials is not None and bench.denials.all() == {}


def test_while_another_acts_nothing_is_done_and_then_it_is_taken_over(bench: Bench, box: Folder) -> None:
    quarantines, record = held(bench, box)
    second = bench.make()
    (line,) = second.recover()
    assert "another process acts" in line
    with pytest.raises(ActError, match="another process acts"):
        second.release(record.id, **ENDS)
    assert second.get(record.id).state == "held", "but it can be looked at"
    quarantines.close()
    settle(second, lambda: second.acting)
    reach(second, second.release(record.id, **ENDS), "released")


def test_a_full_disk_keeps_nobody_from_being_held(
    bench: Bench, box: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    quarantines = bench.start()
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "_write", full)
        record = reach(quarantines, quarantines.add(order(box.id, "/box")), "held")
        assert box.file("freeze") == "1"
        settle(quarantines, lambda: bench.said("critical: the ledger cannot be written (No space left on device)"))
    settle(quarantines, (tmp_path / "quarantine" / f"{record.id}.json").exists)


def test_what_is_over_is_forgotten_oldest_first(bench: Bench, box: Folder, tmp_path: Path) -> None:
    bench.settings = Quarantine(keep_ended=2)
    quarantines = bench.start()
    ids = []
    for _ in range(4):
        record = reach(quarantines, quarantines.add(order(box.id, "/box")), "held")
        reach(quarantines, quarantines.release(record.id, **ENDS), "released")
        ids.append(record.id)
    settle(quarantines, lambda: len(quarantines.records()) == 2)
    assert [record.id for record in quarantines.records()] == ids[2:]
    assert {name for name in os.listdir(tmp_path / "quarantine") if name != "lock"} == {
        f"{one}.json" for one in ids[2:]
    }


def test_an_order_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Order(1, "/a", "a", "b", "c").reason = "d"  # type: ignore[misc]
