"""The daemon killed at random moments while quarantines begin and end: what ledger and kernel say after each start.

Another process asks for the quarantines, through the control socket, and asks again whenever nobody answers. What it
was told was done must be so, whatever came after."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, field

from sensor.bpf.denials import Denials, Deny
from sensor.config import load
from sensor.respond.quarantine.offline import offline
from sensor.respond.quarantine.record import Record
from tests.live.running import Running, Sandbox

REPOSITORY = str(Path(__file__).resolve().parents[2])
AGREE_S = 5.0  # for what was just begun to be in the ledger: a denial comes before its first write
START_S, READY_S = 2.5, 0.5  # the moments: so long after the start, or after READY
IN_START = 0.2  # so many of them
DONE_S = 120.0
# Config as the sensor wrote it; cgroup ids follow. A line each when it is through with one: what it lost on the way.
DRIVER = """
import json, sys, time
from sensor.control.client import Client
from sensor.errors import NotFoundError, PinfoldError, UsageError

client = Client(sys.argv[1])

def ask(do):
    while True:
        try:
            return do()
        except (NotFoundError, UsageError):
            raise
        except PinfoldError:  # nobody answers, or not now
            time.sleep(0.02)

def follow(known, state, again):
    # Until it is in that state, asked for again where what was promised is forgotten.
    while True:
        try:
            record = ask(lambda: client.quarantine(known))
        except NotFoundError:
            told["lost"].append(known)
            known = again()["id"]
            continue
        if record["state"] == state:
            return known
        if state == "released" and record["state"] == "held":
            told["forgotten"].append(known)
            again()
        time.sleep(0.02)

for sandbox in sys.argv[2:]:
    told = {"sandbox": int(sandbox), "lost": [], "forgotten": []}

    def add():
        # A sandbox is known a moment after its daemon is.
        while True:
            try:
                return ask(lambda: client.add_quarantine(sandbox, "a fault test"))
            except NotFoundError:
                time.sleep(0.02)

    known = follow(add()["id"], "held", add)
    release = lambda: ask(lambda: client.release(known, "a fault test"))
    release()
    follow(known, "released", release)
    told["id"] = known
    print(json.dumps(told), flush=True)
"""


class Report(Struct):
    """`wrong`: each a line. `slowest_s`: the longest that ledger and kernel took to agree after READY."""

    kills: int = 0
    in_start: int = 0
    under_way: int = 0  # kills while something had been begun and was not over
    quarantines: int = 0
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Driver:
    """`with Driver(…)`: told to begin at once."""

    def __init__(self, sensor: Running, boxes: Sequence[Sandbox]) -> None:
        command = [sys.executable, "-c", DRIVER, str(sensor.home / "run" / "control.sock")]
        self._file = sensor.home / "driver"
        with self._file.open("wb") as out, (sensor.home / "driver-errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, *(str(box.id) for box in boxes)],
                cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
            )  # fmt: skip
        self._errors = sensor.home / "driver-errors"

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def told(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def finish(self, within_s: float) -> str:
        """Why it did not."""
        try:
            status = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return f"the one who asks is not done {within_s:g} s after the last kill: something is stuck"
        return f"the one who asks ended with {status}: {self._errors.read_text()[-500:]}" if status else ""


def kill_again_and_again(sensor: Running, chance: random.Random, kills: int, quarantines: int) -> Report:
    """`sensor` runs, and does so again afterwards."""
    report = Report()
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(sensor.sandbox()) for _ in range(quarantines)]
        for box in boxes:
            for _ in range(3):
                stack.callback(_reap, box.start("/usr/bin/sleep", "3600"))
        driver = stack.enter_context(Driver(sensor, boxes))
        while report.kills < kills:
            _one(sensor, chance, report, boxes)
        report.wrong += _started(sensor, report, boxes)
        if late := driver.finish(DONE_S):
            report.wrong.append(late)
        told = driver.told()
        report.quarantines = len(told)
        report.wrong += [f"told of, and lost: {each}" for one in told for each in one["lost"]]  # type: ignore[attr-defined]
        report.wrong += [f"release told of, and forgotten: {each}" for one in told for each in one["forgotten"]]  # type: ignore[attr-defined]
        report.wrong += _at_the_end(sensor, boxes)
    if "Traceback" in (sensor.home / "stderr").read_text(errors="replace"):
        report.wrong.append(f"the sensor raised: {sensor.said()}")
    return report


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _one(sensor: Running, chance: random.Random, report: Report, boxes: Sequence[Sandbox]) -> None:
    """One kill, of a daemon that runs or of one that starts."""
    if sensor.process is None and chance.random() < IN_START:
        sensor.launch()
        time.sleep(chance.random() * START_S)  # the moment
        report.in_start += 1
    else:
        if sensor.process is None:
            report.wrong += _started(sensor, report, boxes)
        time.sleep(chance.random() * READY_S)  # the moment
    sensor.stop(signal.SIGKILL)
    report.kills += 1
    report.under_way += any(record.state != "held" for record in _ledger(sensor)[0] if not record.over)


def _started(sensor: Running, report: Report, boxes: Sequence[Sandbox]) -> list[str]:
    sensor.start()
    began = time.monotonic()
    while (found := disagreements(sensor, boxes)) and not found.sure and time.monotonic() < began + AGREE_S:
        time.sleep(0.01)
    report.slowest_s = max(report.slowest_s, time.monotonic() - began)
    return [f"after kill {report.kills}: {line}" for line in (*found.sure, *found.unsettled)]


# Ledger and kernel.


class Disagreements(Struct):
    """`sure`: wrong whatever is under way. `unsettled`: a disagreement if it lasts."""

    sure: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.sure or self.unsettled)


def _ledger(sensor: Running) -> tuple[list[Record], list[str]]:
    looking = offline(load(str(sensor.file)), acting=False)
    try:
        return looking.records(), list(looking.damaged)
    finally:
        looking.close()


def disagreements(sensor: Running, boxes: Sequence[Sandbox]) -> Disagreements:
    """The kernel is read between two readings of the ledger that say the same: else it is tried again."""
    found = Disagreements()
    before, damaged = _ledger(sensor)
    denials = Denials.pinned("/sys/fs/bpf", sensor.instance)
    denied = denials.all() if denials is not None else {}
    frozen = {box.id for box in boxes if "frozen 1" in (box.path / "cgroup.events").read_text()}
    asked = {box.id for box in boxes if (box.path / "cgroup.freeze").read_text().strip() == "1"}
    if _ledger(sensor)[0] != before:
        found.unsettled.append("the ledger does not stand still")
        return found
    found.sure += [f"{name} of the ledger is damaged" for name in damaged]
    living: dict[int, Record] = {}
    for record in before:
        number = record.cgroup_id
        if not record.over:
            if number in living:
                found.sure.append(f"{record.id} and {living[number].id} are of one sandbox")
            living[number] = record
    for record in living.values():
        found.sure += _of_living(record, denied.get(record.cgroup_id, Deny(0)), record.cgroup_id in frozen)
    over = {record.cgroup_id: record for record in before if record.over and record.cgroup_id not in living}
    for number, record in over.items():
        if number in denied or number in asked:
            found.sure.append(f"{record.id} is {record.state}: denied {denied.get(number)!r}, frozen {number in asked}")
    unknown = (denied.keys() | asked) - living.keys() - over.keys()
    found.unsettled += [f"the sandbox {number} is held, and the ledger knows nothing of it" for number in unknown]
    return found


def _of_living(record: Record, deny: Deny, frozen: bool) -> list[str]:
    """What is begun or held is denied; `releasing` is written before anything is undone."""
    wrong = []
    if record.state in {"beginning", "held"} and record.step("network").state == "done" and deny != Deny(record.deny):
        wrong.append(f"{record.id} is {record.state}, and denied is {deny!r} instead of {Deny(record.deny)!r}")
    if record.state == "held" and record.step("freeze").state == "done" and not frozen:
        wrong.append(f"{record.id} is held, and is not frozen")
    return wrong


def _at_the_end(sensor: Running, boxes: Sequence[Sandbox]) -> list[str]:
    """All were released, each once."""
    found = disagreements(sensor, boxes)
    until = time.monotonic() + AGREE_S
    while found and time.monotonic() < until:
        time.sleep(0.01)
        found = disagreements(sensor, boxes)
    wrong = [f"at the end: {line}" for line in (*found.sure, *found.unsettled)]
    records = _ledger(sensor)[0]
    for box in boxes:
        of = [f"{record.id} {record.state}" for record in records if record.cgroup_id == box.id]
        if len(of) != 1 or not of[0].endswith(" released"):
            wrong.append(f"at the end: of the sandbox {box.id} there is: {', '.join(of) or 'nothing'}")
        if not all(os.path.exists(f"/proc/{tgid}") for tgid in (box.path / "cgroup.procs").read_text().split()):
            wrong.append(f"at the end: a process of the sandbox {box.id} is gone")
    return wrong
