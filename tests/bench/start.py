"""From the sensor's fork to READY=1: cold (no pins, no caches), and with the pins of the last run in place."""

from __future__ import annotations

import statistics

from tests.bench.harness import BenchError, Figure, at_most, half_quartile_range, unmeasured
from tests.bench.sensing import sensor
from tests.bench.workspace import Workspace

COLD, WARM = "start-cold", "start-warm"
NAMES = (COLD, WARM)
LIMITS_S = {COLD: 2.0, WARM: 0.5}


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    try:
        samples = _starts(space)
    except (BenchError, OSError) as error:
        return [unmeasured(name, "s", f"<= {limit:g}", error) for name, limit in LIMITS_S.items() if name in wanted]
    return [_figure(name, samples[name]) for name in LIMITS_S if name in wanted]


def _figure(name: str, seconds: list[float]) -> Figure:
    note = f"{len(seconds)} starts, least {min(seconds):.3f}, most {max(seconds):.3f} s"
    spread = half_quartile_range(seconds)
    return at_most(name, statistics.median(seconds), "s", LIMITS_S[name], spread=spread, note=note)


def _starts(space: Workspace) -> dict[str, list[float]]:
    """Cold and warm alternate, so that both meet the same page cache."""
    samples: dict[str, list[float]] = {COLD: [], WARM: []}
    with sensor(space) as watching:
        for _ in range(space.plan.starts):
            watching.stop()
            watching.remove_pins()
            watching.forget_caches()
            samples[COLD].append(watching.start())
            watching.stop()
            samples[WARM].append(watching.start())
    return samples
