"""State of correlations: memory of 10,000 groups, and expiry against a reading of the whole stream.

A child of its own (`python -m tests.bench.correlations`) fills a correlator and reads its own proportional set size
before and after, once for each kind of state; the figure is that of the greediest."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from sensor.rules.correlation.correlator import Correlator, Hit
from sensor.rules.correlation.items import Item
from sensor.rules.correlation.model import Alternative, Correlation, Key, Part
from tests.bench.harness import BenchError, Figure, at_most, unmeasured
from tests.bench.workspace import Workspace

STATE, EXPIRY = "correlation-state", "correlation-expiry"
NAMES = (STATE, EXPIRY)
LIMIT_MB = 30.0
GROUPS = 10_000
SANDBOXES = 40  # one has no more than an eighth of the groups
EVENTS = 24  # of each group
RANDOM_EVENTS = 200_000
SECOND = 1_000_000_000
SPAN = 60 * SECOND
LEAST = 12
WITHIN_S = 300


class Measured(Struct, frozen=True):
    megabytes: dict[str, float]  # by type
    evicted: dict[str, int]
    fired: int
    wrong: int
    left: int  # groups that are there when nothing can come of them any more


def run(_: Workspace, wanted: set[str]) -> list[Figure]:
    targets = ((STATE, "MB", f"<= {LIMIT_MB:g}"), (EXPIRY, "wrong", "<= 0"))
    try:
        measured = _measured()
    except (BenchError, OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        return [unmeasured(name, unit, target, error) for name, unit, target in targets if name in wanted]
    sizes = ", ".join(f"{kind} {size:.1f}" for kind, size in measured.megabytes.items())
    note = f"{GROUPS:,} groups of {EVENTS} events each, by type: {sizes}; evicted {measured.evicted or 'none'}"
    exact = f"of {RANDOM_EVENTS:,} events {measured.fired:,} fired; {measured.left} groups are left over at the end"
    exact += "; wrong: against a reference that keeps every event of the window"
    found = (
        at_most(STATE, max(measured.megabytes.values()), "MB", LIMIT_MB, note=note),
        at_most(EXPIRY, float(measured.wrong + measured.left), "wrong", 0.0, note=exact),
    )
    return [figure for figure in found if figure.name in wanted]


def _measured() -> Measured:
    command = [sys.executable, "-m", "tests.bench.correlations"]
    done = subprocess.run(command, capture_output=True, timeout=WITHIN_S, check=False)
    if done.returncode:
        raise BenchError(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
    return msgspec.json.decode(done.stdout, type=Measured)


# In the child.


def rule(kind: str) -> Correlation:
    parts = tuple(Part(f"rule-{n}", (Key("Image"),), ()) for n in range(3))
    sequence = (Alternative((0, 1, 2)),) if kind == "temporal_ordered" else ()
    bounds = () if sequence else (("lt" if kind == "closing" else "gte", float(LEAST)),)
    counted = "event_count" if kind == "closing" else kind
    return Correlation(
        f"id-{kind}", kind, "high", "test", (), "", "", (), (), counted, SPAN, parts, ("Image",), bounds, sequence, 0,
        across_sandboxes=False, generate=False, digest="",
    )  # fmt: skip


def hit(kind: str, group: int, number: int, time_ns: int) -> Hit:
    """Of a sequence, one that never comes to its end: what has begun is what costs."""
    part = number % 2 if kind == "temporal_ordered" else 0
    item = Item(time_ns, 1, number, part, 1, number)
    subject = b"s" * 900 if kind == "closing" else b""
    return Hit(f"id-{kind}", part, group % SANDBOXES, (f"/usr/bin/program-{group}",), item, f"rule-{part}", subject)


def fill(kind: str, count: Callable[[str, int], None]) -> Correlator:
    correlator = Correlator([rule(kind)], 0, count)
    for number in range(EVENTS):
        for group in range(GROUPS):
            correlator.feed(hit(kind, group, number, SECOND * (1 + number) + group), None)
    return correlator


def megabytes(kind: str, evicted: dict[str, int]) -> float:
    def count(what: str, number: int) -> None:
        evicted[f"{kind}: {what}"] = evicted.get(f"{kind}: {what}", 0) + number

    before = _pss_mb()
    correlator = fill(kind, count)
    size = _pss_mb() - before
    assert sum(state.total for state in correlator.states.values()) > 0
    return size


def expiry(events: int, seed: int) -> tuple[int, int, int]:
    """How often it fired, how often wrongly or not, and how many groups are left when all is over."""
    chance = random.Random(seed)  # noqa: S311 - a stream, not a secret
    correlator = Correlator([rule("event_count")], 0)
    now, fired, wrong = SECOND, 0, 0
    seen: dict[int, list[int]] = {}
    quiet: dict[int, int] = {}
    for number in range(events):
        now += chance.randrange(1, 4 * SECOND // 10)
        group = chance.randrange(32)
        times = seen.setdefault(group, [])
        times.append(now)
        while times[0] <= now - SPAN:
            del times[0]
        expected = len(times) >= LEAST and now >= quiet.get(group, 0)
        if expected:
            quiet[group] = now + SPAN
        told = bool(correlator.feed(hit("event_count", group, number, now), None))
        fired += told
        wrong += told is not expected
        if not number % 100:
            correlator.tick(now)
    correlator.tick(now + 2 * SPAN)
    return fired, wrong, sum(state.total for state in correlator.states.values())


def _pss_mb() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise BenchError("smaps_rollup has no Pss")


def main(kinds: Sequence[str] = ("event_count", "value_count", "temporal_ordered", "closing")) -> int:
    """Each kind of state in a child of its own, since what was freed is not given back."""
    if len(sys.argv) > 1:
        evicted: dict[str, int] = {}
        size = megabytes(sys.argv[1], evicted)
        sys.stdout.buffer.write(msgspec.json.encode((size, evicted)))
        return 0
    sizes: dict[str, float] = {}
    evictions: dict[str, int] = {}
    for kind in kinds:
        done = subprocess.run([sys.executable, "-m", __spec__.name, kind], capture_output=True, check=True)
        size, evicted = msgspec.json.decode(done.stdout, type=tuple[float, dict[str, int]])
        sizes[kind] = size
        evictions |= evicted
    fired, wrong, left = expiry(RANDOM_EVENTS, 1)
    sys.stdout.buffer.write(msgspec.json.encode(Measured(sizes, evictions, fired, wrong, left)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
