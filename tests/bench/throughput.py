"""The pipeline's throughput: recorded exec events from ring bytes through decoder, enrichment and all shipped rules.

Measured in a process of its own, pinned to one core, as the core process would be without anything else to do. No
command line comes twice, so nothing can be remembered of whole events. Making the records is not timed."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time

import msgspec
from msgspec import Struct

from sensor.config import Config
from sensor.enrich.enricher import Enricher
from sensor.events.activity import ProcessCreation
from sensor.events.layouts import READERS
from sensor.rules import ruleset
from sensor.rules.engine import Engine
from tests.bench.harness import BenchError, Figure, at_least, half_quartile_range, one_line, unmeasured
from tests.bench.records import RING_HEADER, Stream
from tests.bench.workspace import CHECKOUT, Workspace, cgroup2_mount

PIPELINE, LIVES = "pipeline", "pipeline-lives"
NAMES = (PIPELINE, LIVES)
LEAST = 100_000.0
RULES = CHECKOUT / "rules"


class Result(Struct, frozen=True):
    """Of the measuring process."""

    execs: list[float]  # exec events a second, each repetition
    lives: list[float]  # records a second of forks, execs and exits
    rules: int
    unindexed: int  # rules that are evaluated for every event, since nothing of them can be looked up
    matches: int  # events that some rule matched, over all repetitions
    record_bytes: float


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    try:
        result = _measured(space)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return [unmeasured(PIPELINE, "events/s", f">= {LEAST:g}", error), unmeasured(LIVES, "records/s", "-", error)]
    note = (
        f"{space.plan.records} records of {result.record_bytes:.0f} bytes on average, {result.rules} rules,"
        f" {result.unindexed} of them evaluated for every event, {len(result.execs)} repetitions,"
        f" {result.matches} matches"
    )
    execs, spread = statistics.median(result.execs), half_quartile_range(result.execs)
    lives = statistics.median(result.lives)
    return [
        at_least(PIPELINE, execs, "events/s", LEAST, spread=spread, note=note),
        Figure(
            LIVES, lives, "records/s", "-", None, half_quartile_range(result.lives), note="fork, exec and exit of each"
        ),
    ]


def _measured(space: Workspace) -> Result:
    command = [sys.executable, "-m", "tests.bench.throughput", str(space.core), str(space.plan.records)]
    done = subprocess.run(
        [*command, str(space.plan.repetitions)], cwd=CHECKOUT, capture_output=True, check=False, timeout=600
    )
    if done.returncode:
        raise BenchError(one_line(done.stderr.decode(errors="replace").strip().rpartition("\n")[2]))
    return msgspec.json.decode(done.stdout, type=Result)


def process(area: bytes, enricher: Enricher, engine: Engine, position: int) -> tuple[int, int, int]:
    """(records, exec events, matches) of an area: what the core does, without log and responses."""
    at, end, records, events, matched = 0, len(area), 0, 0, 0
    readers, apply, match, unpack = READERS, enricher.apply, engine.match, RING_HEADER.unpack_from
    while at < end:
        length, _ = unpack(area, at)
        kind = area[at + 8] | area[at + 9] << 8
        activity = apply(readers[kind][1](area, at + 8), 1, position + at)
        records += 1
        if activity is not None:
            events += type(activity) is ProcessCreation
            if match(activity):
                matched += 1
        at += 8 + (length + 7 & ~7)
    return records, events, matched


class _Line:
    """Enricher and engine as the core has them, and the stream that they are fed."""

    def __init__(self) -> None:
        self.rules = ruleset.load([RULES], None)
        self.engine, self.stream = Engine(self.rules), Stream()
        self.enricher = Enricher(Config(), str(cgroup2_mount()))
        self.position = self.matches = self.execs = self.exec_bytes = 0
        self.feed(self.stream.birth(b"/pinfold/bench") + self.stream.parents())

    def feed(self, area: bytes) -> tuple[int, int, float]:
        """(records, exec events, seconds)."""
        began = time.perf_counter()
        records, events, matched = process(area, self.enricher, self.engine, self.position)
        took = time.perf_counter() - began
        self.position += len(area)
        self.matches += matched
        return records, events, took

    def execs_alone(self, count: int) -> float:
        """Exec events a second. Their forks came before, and their exits come after, untimed."""
        lives = self.stream.lives(count)
        self.feed(b"".join(lives.forks))
        area = b"".join(lives.execs)
        _, events, took = self.feed(area)
        self.feed(b"".join(lives.exits))
        if events != count:
            raise BenchError(f"{count} records gave {events} events")
        self.execs += count
        self.exec_bytes += len(area)
        return events / took

    def whole_lives(self, count: int) -> float:
        """Records of all kinds a second."""
        records, _, took = self.feed(self.stream.lives(count).whole())
        return records / took


def measure(count: int, repetitions: int) -> Result:
    line = _Line()
    line.execs_alone(count // 4)  # caches of programs and folders fill once
    gc.collect()
    gc.freeze()
    execs, lives = [], []
    for _ in range(repetitions):
        execs.append(line.execs_alone(count))
        lives.append(line.whole_lives(count // 3))
    engine = line.engine
    if engine.index_errors or engine.errors:
        raise BenchError(f"rules failed: {engine.index_errors} events, {engine.errors}")
    return Result(
        execs, lives, len(line.rules.rules), len(line.rules.unindexed), line.matches, line.exec_bytes / line.execs
    )


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    sys.stdout.buffer.write(msgspec.json.encode(measure(int(sys.argv[2]), int(sys.argv[3]))))
