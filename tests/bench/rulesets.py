"""What a thousand rules cost: exec events against them, loading them, and loading one that changed.

Measured in a process of its own, pinned to one core. The rules are tests/bench/variants.py's; events are those of
`throughput`. Rates are by the processor time of the measuring process, loads by the clock, as an operator waits."""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sensor.events.activity import ProcessCreation
from sensor.rules import ruleset
from sensor.rules.engine import Engine
from tests.bench import variants
from tests.bench.harness import BenchError, Figure, at_least, at_most, half_quartile_range, one_line, unmeasured
from tests.bench.throughput import RULES, Line, Silent
from tests.bench.workspace import CHECKOUT, Workspace

EXEC, SCALING, LOAD, RELOAD = "rules-exec-1000", "rules-scaling", "rules-load-1000", "rules-reload-one"
NAMES = (EXEC, SCALING, LOAD, RELOAD)
MANY, FEW = 1000, 100
LEAST, MOST_TIMES, MOST_LOAD_S, MOST_RELOAD_S = 50_000.0, 2.0, 2.0, 0.3
WITHIN_S = 900


class Result(Struct, frozen=True):
    """Of the measuring process: a sample each repetition."""

    execs: list[float]  # events a second, with MANY rules, from ring bytes
    many_us: list[float]  # of one event in Engine.match, with MANY rules
    few_us: list[float]  # with FEW: the mean of all tenths of MANY, since one of them may have none that work meets
    loads: list[float]  # seconds, nothing cached, engine included
    reloads: list[float]  # seconds, of MANY rules one changed, engine included
    load_work: list[float]  # processor seconds of each, children included
    reload_work: list[float]
    execs_of_many: int  # rules on exec events among MANY
    distinct: int  # command lines
    candidates: float  # branches evaluated for an event, with MANY rules


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    try:
        result = _measured(space)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        limits = (f">= {LEAST:g}", f"<= {MOST_TIMES:g}", f"<= {MOST_LOAD_S:g}", f"<= {MOST_RELOAD_S:g}")
        units = ("events/s", "times", "s", "s")
        return [unmeasured(*row, error) for row in zip(NAMES, units, limits, strict=True)]
    times = [many / few for many, few in zip(result.many_us, result.few_us, strict=True)]
    of_rules = (
        f"{MANY} rules, {result.execs_of_many} of them on exec events, {result.candidates:.2f} evaluated an event"
    )
    return [
        at_least(
            EXEC, statistics.median(result.execs), "events/s", LEAST, spread=half_quartile_range(result.execs),
            note=f"from ring bytes; {of_rules}; {result.distinct} events, all of other command lines",
        ),
        at_most(
            SCALING, statistics.median(times), "times", MOST_TIMES, spread=half_quartile_range(times),
            note=f"matching alone: {statistics.median(result.many_us):.2f} us an event with {MANY} rules,"
            f" {statistics.median(result.few_us):.2f} us with {FEW} of these",
        ),
        at_most(
            LOAD, statistics.median(result.loads), "s", MOST_LOAD_S, spread=half_quartile_range(result.loads),
            note=f"{statistics.median(result.load_work):.2f} s of processors, in children for the most part",
        ),
        at_most(
            RELOAD, statistics.median(result.reloads), "s", MOST_RELOAD_S, spread=half_quartile_range(result.reloads),
            note=f"{statistics.median(result.reload_work):.2f} s of processors",
        ),
    ]  # fmt: skip


def _measured(space: Workspace) -> Result:
    command = [sys.executable, "-m", "tests.bench.rulesets", str(space.core), str(space.plan.records)]
    done = subprocess.run(
        [*command, str(space.plan.repetitions)], cwd=CHECKOUT, capture_output=True, check=False, timeout=WITHIN_S
    )
    if done.returncode:
        raise BenchError(one_line(done.stderr.decode(errors="replace").strip().rpartition("\n")[2]))
    return msgspec.json.decode(done.stdout, type=Result)


class _Kept:
    """In the engine's place: keeps what the pipeline would have it match."""

    rules = ()

    def __init__(self) -> None:
        self.events: list[ProcessCreation] = []

    def match(self, activity: object) -> tuple[()]:
        if isinstance(activity, ProcessCreation):
            self.events.append(activity)
        return ()


def _parts(loaded: ruleset.Ruleset, parts: int) -> list[Engine]:
    """An engine for every so many-th rule."""
    return [Engine(replace(loaded, compiled=loaded.compiled[at::parts])) for at in range(parts)]


def _matched(engine: Engine, events: list[ProcessCreation]) -> float:
    """Microseconds of one event."""
    match, began = engine.match, time.process_time()
    for event in events:
        match(event)
    return (time.process_time() - began) / len(events) * 1e6


def measure(core: int, count: int, repetitions: int, folder: Path) -> Result:
    many = folder / "many"
    many.mkdir()
    paths = variants.write(RULES, many, MANY)
    loads, reloads = _Loads(), _Loads()
    _load(many, paths, folder / "cache", max(3, repetitions // 3), loads, reloads)
    os.sched_setaffinity(0, {core})  # not before: rules are loaded with the cores there are
    loaded = ruleset.load([many], folder / "cache")
    line, engines = Line(Silent(), loaded), ([_parts(loaded, 1)[0]], _parts(loaded, MANY // FEW))
    line.execs_alone(count // 4)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the daemon sets it
    execs: list[float] = []
    taken: tuple[list[float], list[float]] = ([], [])
    distinct = 0
    for number in range(repetitions):
        execs.append(line.execs_alone(count))
        kept, real = _Kept(), line.pipeline.engine
        line.pipeline.engine = kept  # type: ignore[assignment]
        line.execs_alone(count // 3)
        line.pipeline.engine = real
        distinct += count + len({event.CommandLine for event in kept.events})
        for which in (0, 1) if number % 2 else (1, 0):  # in turn: what drifts, drifts for both
            taken[which].append(statistics.mean(_matched(engine, kept.events) for engine in engines[which]))
    for engine in (line.engine, *engines[0], *engines[1]):
        if engine.index_errors or engine.errors:
            raise BenchError(f"rules failed: {engine.index_errors} events, {engine.errors}")
    evaluations = [
        (cost.evaluations, events)
        for rule, cost, events in engines[0][0].costs()
        if rule.category == "process_creation"
    ]
    return Result(
        execs, *taken, loads.seconds, reloads.seconds, loads.work, reloads.work, len(evaluations), distinct,
        sum(of_rule for of_rule, _ in evaluations) / evaluations[0][1],
    )  # fmt: skip


class _Loads:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.work: list[float] = []

    def load(self, folder: Path, cache: Path) -> ruleset.Ruleset:
        before, began = os.times(), time.perf_counter()
        loaded = ruleset.load([folder], cache)
        Engine(loaded)
        self.seconds.append(time.perf_counter() - began)
        self.work.append(sum(os.times()[:4]) - sum(before[:4]))
        return loaded


def _load(folder: Path, paths: list[Path], cache: Path, repetitions: int, loads: _Loads, reloads: _Loads) -> None:
    for number in range(repetitions):
        shutil.rmtree(cache, ignore_errors=True)
        loads.load(folder, cache)
        changed = paths[number * 7 + 70]
        text = changed.read_text(encoding="utf-8")
        changed.write_text(text.replace("title: ", f"title: {number} ", 1), encoding="utf-8")
        loaded = reloads.load(folder, cache)
        if not any(rule.file == str(changed) and rule.title.startswith(f"{number} ") for rule in loaded.rules):
            raise BenchError("the rule that changed was not loaded anew")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="pinfold-bench-") as place:
        result = measure(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(place))
    sys.stdout.buffer.write(msgspec.json.encode(result))
