"""The pipeline's throughput: events from ring bytes through decoder, enrichment, detectors and all shipped rules.

Measured in a process of its own, pinned to one core, as the core process would be without anything else to do; the time
is what this process took of the core, whatever else the machine does. No command line comes twice, and no connect's
socket or pair of process and address, so nothing can be remembered of whole events. Making the records is not timed."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from struct import pack
from typing import cast

import msgspec
from msgspec import Struct

from sensor.bpf.ring import Ring
from sensor.bpf.tables import Tables
from sensor.config import Config, Paths, complete
from sensor.daemon import BATCH
from sensor.enrich.enricher import Enricher
from sensor.events.activity import AnyActivity, NetworkConnection, ProcessCreation, SandboxChange
from sensor.events.detection import Detection
from sensor.export.log import EventLog
from sensor.export.recovery import Recovery
from sensor.metrics import Metrics
from sensor.network import Network
from sensor.pipeline import Pipeline
from sensor.respond.responder import Responder
from sensor.rules import ruleset
from sensor.rules.engine import Engine
from sensor.rules.ruleset import Ruleset
from tests.bench import connects
from tests.bench.harness import BenchError, Figure, at_least, half_quartile_range, one_line, unmeasured
from tests.bench.records import Stream
from tests.bench.workspace import CHECKOUT, Workspace, cgroup2_mount

PIPELINE, NETWORK, LIVES = "pipeline-exec", "pipeline-network", "pipeline-lives"
NAMES = (PIPELINE, NETWORK, LIVES)
LEAST = 100_000.0
LEAST_NETWORK = 200_000.0
RULES = CHECKOUT / "rules"
_ROOM = 1 << 32  # bytes


class Result(Struct, frozen=True):
    """Of the measuring process."""

    execs: list[float]  # exec events a second, each repetition
    connects: list[float]  # network events a second
    lives: list[float]  # records a second of forks, execs and exits
    rules: int
    unindexed: int  # rules that are evaluated for every event, since nothing of them can be looked up
    detections: int  # over all repetitions
    record_bytes: float


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    try:
        result = _measured(space)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return [
            unmeasured(PIPELINE, "events/s", f">= {LEAST:g}", error),
            unmeasured(NETWORK, "events/s", f">= {LEAST_NETWORK:g}", error),
            unmeasured(LIVES, "records/s", "-", error),
        ]
    note = (
        f"{space.plan.records} records of {result.record_bytes:.0f} bytes on average, {result.rules} rules,"
        f" {result.unindexed} of them evaluated for every event, {len(result.execs)} repetitions,"
        f" {result.detections} detections"
    )
    execs, spread = statistics.median(result.execs), half_quartile_range(result.execs)
    lives = statistics.median(result.lives)
    return [
        at_least(PIPELINE, execs, "events/s", LEAST, spread=spread, note=note),
        at_least(
            NETWORK,
            statistics.median(result.connects),
            "events/s",
            LEAST_NETWORK,
            spread=half_quartile_range(result.connects),
            note=f"connects of {connects.PROCESSES} processes: {connects.MIX}",
        ),
        Figure(
            LIVES,
            lives,
            "records/s",
            "-",
            None,
            half_quartile_range(result.lives),
            note="fork, exec and exit of each process, written to the event log",
        ),
    ]


def _measured(space: Workspace) -> Result:
    log = space.folder / "throughput-log"
    log.mkdir(mode=0o700)
    command = [sys.executable, "-m", "tests.bench.throughput", str(space.core), str(space.plan.records)]
    done = subprocess.run(
        [*command, str(space.plan.repetitions), str(log)], cwd=CHECKOUT, capture_output=True, check=False, timeout=600
    )
    if done.returncode:
        raise BenchError(one_line(done.stderr.decode(errors="replace").strip().rpartition("\n")[2]))
    return msgspec.json.decode(done.stdout, type=Result)


class _Recorded(Ring):
    """A ring of ordinary memory, in which everything is written and nothing read. It is round `number` of a ring that
    has room for `area` just once."""

    def __init__(self, area: bytes, number: int = 0) -> None:
        self.data = mmap.mmap(-1, max(len(area), 1))
        self.data.write(area)
        self._mask = _ROOM - 1
        begin = number * _ROOM
        self._position = ctypes.c_uint64(begin)
        self._end = memoryview(pack("<Q", begin + len(area))).cast("Q")

    def close(self) -> None:
        self.data.close()


class Silent(EventLog):
    """Keeps nothing: the figure ends behind the rules."""

    def __init__(self) -> None:
        self.added = 0

    def add_activity(self, activity: AnyActivity) -> None:
        self.added += 1

    def add_sandbox(self, change: SandboxChange) -> None:
        self.added += 1

    def add_detection(self, detection: Detection) -> None:
        self.added += 1

    def flush(self) -> None:
        pass


class _Nobody:
    """In the responder's place: how many detections came that far."""

    silences = None

    def __init__(self) -> None:
        self.detections = 0

    def answers(self, _: Detection) -> bool:
        return False

    def respond(self, _: Detection) -> None:
        self.detections += 1


class Line:
    """The core's stages as the daemon wires them, and the stream that they are fed."""

    def __init__(self, log: EventLog, rules: Ruleset) -> None:
        self.engine, self.stream, self.log, self.nobody = Engine(rules), Stream(), log, _Nobody()
        self.metrics = Metrics()
        enricher, config = Enricher(Config(), str(cgroup2_mount())), complete(Config())
        network = Network(
            config, cast(Tables, None), enricher, self.metrics, lambda _: None, lambda *_: False, lambda *_, **__: None
        )
        self.pipeline = Pipeline(
            enricher, self.engine, log, cast(Responder, self.nobody), self.metrics,
            Recovery(None, frozenset(), {}, frozenset(), 0, 0), lambda _: None, network,
        )  # fmt: skip
        self.connects: connects.Connects | None = None
        self.rounds = self.exec_bytes = self.execs = 0
        self.feed(self.stream.birth(b"/pinfold/bench") + self.stream.parents())

    def feed(self, area: bytes) -> tuple[int, float]:
        """(records, seconds). In batches, as the daemon drains."""
        ring, records = _Recorded(area, self.rounds), 0
        began = time.process_time()
        while ring.used:
            count, following = self.pipeline.drain(ring, BATCH, 1)
            records += count
            self.log.flush()
            ring.advance(following)
        took = time.process_time() - began
        self.rounds += 1
        ring.close()
        return records, took

    def told(self, category: str = ProcessCreation.category) -> int:
        """Exec events that went through all stages, or those of another category."""
        return int(self.metrics.value("pinfold_events_total", (category,)))

    def execs_alone(self, count: int) -> float:
        """Exec events a second. Their forks came before, and their exits come after, untimed."""
        lives = self.stream.lives(count)
        self.feed(b"".join(lives.forks))
        area = b"".join(lives.execs)
        before = self.told()
        _, took = self.feed(area)
        if self.told() - before != count:
            raise BenchError(f"{count} records gave {self.told() - before} events")
        self.feed(b"".join(lives.exits))
        self.execs += count
        self.exec_bytes += len(area)
        return count / took

    def connects_alone(self, count: int) -> float:
        """Network events a second, of processes that live on."""
        if self.connects is None:
            lives = self.stream.lives(connects.PROCESSES, lasting=True, programs=connects.PROGRAMS)
            self.feed(b"".join(lives.forks + lives.execs))
            self.connects = connects.Connects(lives)
        before = self.told(NetworkConnection.category)
        _, took = self.feed(self.connects.records(count))
        if self.told(NetworkConnection.category) - before != count:
            raise BenchError(f"{count} connects gave {self.told(NetworkConnection.category) - before} events")
        if unknown := self.pipeline.enricher.counters["actors_unknown"]:
            raise BenchError(f"{unknown} events were of processes that are not known")
        return count / took

    def whole_lives(self, count: int) -> float:
        """Records of all kinds a second."""
        records, took = self.feed(self.stream.lives(count).whole())
        return records / took


def measure(count: int, repetitions: int, folder: Path) -> Result:
    rules = ruleset.load([RULES], None)
    log = EventLog(Config(paths=Paths(log=str(folder))), lambda *_: None)
    log.recover()
    silent, logged = Line(Silent(), rules), Line(log, rules)
    silent.execs_alone(count // 4)  # caches of programs and folders fill once
    logged.whole_lives(count // 4)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the daemon sets it
    execs, network, lives = [], [], []
    for _ in range(repetitions):
        execs.append(silent.execs_alone(count))
        network.append(silent.connects_alone(count))
        lives.append(logged.whole_lives(count // 3))
    for line in (silent, logged):
        if line.engine.index_errors or line.engine.errors:
            raise BenchError(f"rules failed: {line.engine.index_errors} events, {line.engine.errors}")
    return Result(
        execs, network, lives, len(rules.rules), len(rules.unindexed), silent.nobody.detections,
        silent.exec_bytes / silent.execs,
    )  # fmt: skip


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    sys.stdout.buffer.write(msgspec.json.encode(measure(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
