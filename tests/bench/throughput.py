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
from collections.abc import Callable

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

PIPELINE = "pipeline"
NAMES = (PIPELINE,)
LEAST = 100_000.0
UNIT = "events/s"
RULES = CHECKOUT / "rules"


class Result(Struct, frozen=True):
    """Of the measuring process."""

    rates: list[float]  # events a second, each repetition
    rules: int
    unindexed: int  # rules that are evaluated for every event, since nothing of them can be looked up
    matched: int  # events that some rule matched, over all repetitions
    record_bytes: float


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    try:
        result = _measured(space)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return [unmeasured(PIPELINE, UNIT, f">= {LEAST:g}", error)]
    note = (
        f"{space.plan.records} records of {result.record_bytes:.0f} bytes on average, {result.rules} rules,"
        f" {result.unindexed} of them evaluated for every event, {len(result.rates)} repetitions,"
        f" {result.matched} matches"
    )
    return [
        at_least(
            PIPELINE, statistics.median(result.rates), UNIT, LEAST, spread=half_quartile_range(result.rates), note=note
        )
    ]


def _measured(space: Workspace) -> Result:
    command = [sys.executable, "-m", "tests.bench.throughput", str(space.core), str(space.plan.records)]
    done = subprocess.run(
        [*command, str(space.plan.repetitions)], cwd=CHECKOUT, capture_output=True, check=False, timeout=600
    )
    if done.returncode:
        raise BenchError(one_line(done.stderr.decode(errors="replace").strip().rpartition("\n")[2]))
    return msgspec.json.decode(done.stdout, type=Result)


def process(area: bytes, enricher: Enricher, engine: Engine, position: int) -> tuple[int, int]:
    """(exec events, matches) of an area: what the core does with each record, without log and responses."""
    at, end, events, matched = 0, len(area), 0, 0
    readers, apply, match, unpack = READERS, enricher.apply, engine.match, RING_HEADER.unpack_from
    while at < end:
        length, _ = unpack(area, at)
        kind = area[at + 8] | area[at + 9] << 8
        record = readers[kind][1](area, at + 8)
        activity = apply(record, 1, position + at)
        if type(activity) is ProcessCreation:
            events += 1
            if match(activity):
                matched += 1
        at += 8 + (length + 7 & ~7)
    return events, matched


def measure(count: int, repetitions: int, clock: Callable[[], float] = time.perf_counter) -> Result:
    loaded = ruleset.load([RULES], None)
    engine, stream = Engine(loaded), Stream()
    enricher = Enricher(Config(), str(cgroup2_mount()))
    process(stream.birth(b"/pinfold/bench") + stream.parents(), enricher, engine, 0)
    position, rates, sizes, matches = 0, [], 0, 0
    process(stream.area(count // 4), enricher, engine, position)  # caches of programs and folders fill once
    gc.collect()
    gc.freeze()
    for _ in range(repetitions):
        area = stream.area(count)
        began = clock()
        events, matched = process(area, enricher, engine, position)
        took = clock() - began
        if events != count:
            raise BenchError(f"{count} records gave {events} events")
        position += len(area)
        sizes += len(area)
        matches += matched
        rates.append(events / took)
    if engine.index_errors or engine.errors:
        raise BenchError(f"rules failed: {engine.index_errors} events, {engine.errors}")
    return Result(rates, len(loaded.rules), len(loaded.unindexed), matches, sizes / count / repetitions)


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    sys.stdout.buffer.write(msgspec.json.encode(measure(int(sys.argv[2]), int(sys.argv[3]))))
