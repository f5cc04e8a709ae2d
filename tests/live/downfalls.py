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
DONE_S = 120.0
# The moments of the kills: at most so long after it was asked for, or after READY; or after a start, so many of them.
MOMENT_S = {"add": 0.5, "release": 0.2}
IN_START, START_S = 0.2, 2.5
# Takes `add ID` and `release ID`; a line when it is so, with what was promised on the way and did not hold.
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
            time.sleep(0.005)

def add(sandbox):
    # A sandbox is known a moment after its daemon is.
    while True:
        try:
            return ask(lambda: client.add_quarantine(sandbox, "a fault test"))["id"]
        except NotFoundError:
            time.sleep(0.005)

def reach(state, again):
    while True:
        try:
            now = ask(lambda: client.quarantine(known[sandbox]))["state"]
        except NotFoundError:
            told["lost"].append(known[sandbox])
            known[sandbox] = add(sandbox)
            continue
        if now == state:
            return
        if state == "released" and now == "held":
            told["forgotten"].append(known[sandbox])
            again()
        time.sleep(0.01)

known = {}
for line in sys.stdin:
    what, sandbox = line.split()
    told = {"did": line.strip(), "lost": [], "forgotten": []}
    if what == "add":
        known[sandbox] = add(sandbox)
        reach("held", None)
    else:
        release = lambda: ask(lambda: client.release(known[sandbox], "a fault test"))
        release()
        reach("released", release)
    print(json.dumps(told), flush=True)
"""


class Report(Struct):
    """`wrong`: each a line. `slowest_s`: the longest that ledger and kernel took to agree after READY."""

    kills: int = 0
    in_start: int = 0
    under_way: int = 0  # kills before what was asked for was so
    done: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Driver:
    """`with Driver(…)`: told what to ask for."""

    def __init__(self, sensor: Running) -> None:
        self._file, self._errors = sensor.home / "driver", sensor.home / "driver-errors"
        with self._file.open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(sensor.home / "run" / "control.sock")],
                cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=out, stderr=errors,
            )  # fmt: skip

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, what: str, box: Sandbox) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {box.id}\n".encode())
        self._process.stdin.flush()

    def told(self) -> list[dict[str, list[str]]]:
        return [json.loads(line) for line in self._file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def late(self, count: int) -> str:
        """Waits until so much is done; why not."""
        until = time.monotonic() + DONE_S
        while len(self.told()) < count:
            if self._process.poll() is not None:
                return f"who asks ended with {self._process.poll()}: {self._errors.read_text()[-500:]}"
            if time.monotonic() > until:
                return f"{DONE_S:g} s after the last kill it is not so: something is stuck"
            time.sleep(0.01)
        return ""


def kill_again_and_again(sensor: Running, chance: random.Random, kills: int, quarantines: int) -> Report:
    """`sensor` runs, and does so again afterwards."""
    report = Report()
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(sensor.sandbox()) for _ in range(quarantines)]
        for box in boxes:
            for _ in range(3):
                stack.callback(_reap, box.start("/usr/bin/sleep", "3600"))
        driver = stack.enter_context(Driver(sensor))
        steps = [(what, box) for box in boxes for what in MOMENT_S]
        for number, (what, box) in enumerate(steps):
            driver.ask(what, box)
            for _ in range(kills * (number + 1) // len(steps) - kills * number // len(steps)):
                time.sleep(chance.random() * MOMENT_S[what])
                _kill(sensor, report, driver, number)
                while chance.random() < IN_START:
                    sensor.launch()
                    time.sleep(chance.random() * START_S)
                    report.in_start += 1
                    _kill(sensor, report, driver, number)
                report.wrong += _started(sensor, report, boxes)
            if late := driver.late(number + 1):
                report.wrong.append(f"{what} {box.id}: {late}")
                break
        for one in driver.told():
            report.done.append(str(one["did"]))
            report.wrong += [f"promised, and lost: the quarantine {each}" for each in one["lost"]]
            report.wrong += [f"promised, and forgotten: the release of {each}" for each in one["forgotten"]]
        report.wrong += _at_the_end(sensor, boxes)
    if "Traceback" in (sensor.home / "stderr").read_text(errors="replace"):
        report.wrong.append(f"the sensor raised: {sensor.said()}")
    return report


def _kill(sensor: Running, report: Report, driver: Driver, done_before: int) -> None:
    sensor.stop(signal.SIGKILL)
    report.kills += 1
    report.under_way += len(driver.told()) == done_before


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _started(sensor: Running, report: Report, boxes: Sequence[Sandbox]) -> list[str]:
    try:
        sensor.start()
    except AssertionError:
        report.wrong.append(f"after kill {report.kills} it does not start: {sensor.said().strip().splitlines()[-3:]}")
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
