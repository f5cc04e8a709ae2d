"""From exec of a program that a rule matches to its SIGKILL, on an idle machine.

The victim's parent holds the clock: CLOCK_MONOTONIC just before execve in the child, and again when waitpid has told
of the SIGKILL. So the exec itself and the parent's wake-up are in the figure, and nothing is left out."""

from __future__ import annotations

from pathlib import Path

from tests.bench.harness import BenchError, Figure, at_most, half_quartile_range, percentile, unmeasured
from tests.bench.sensing import sensor
from tests.bench.workspace import Workspace

LIMITS_MS = {"kill-p50": (50, 1.0), "kill-p99": (99, 10.0)}
NAMES = tuple(LIMITS_MS)
MARKER = "pinfold-bench"  # `victim` before it is in the victim's arguments alone
RULE = f"""\
title: The bench's victim
id: 5b6f3a52-6d1f-4a4e-9a52-0c6f6c8f1d11
status: test
description: Matches the program that packaging/bench lets be killed.
logsource:
  category: process_creation
  product: linux
detection:
  selection:
    CommandLine|contains: 'victim {MARKER}'
  condition: selection
falsepositives:
  - None
level: high
tags:
  - attack.execution
"""
SHIPPED = Path(__file__).resolve().parents[2] / "rules"


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    try:
        samples, survived = _kills(space)
        if survived or len(samples) < space.plan.kills:
            raise BenchError(f"only {len(samples)} of {space.plan.kills} were killed, {survived} survived")
    except (BenchError, OSError) as error:
        return [
            unmeasured(name, "ms", f"<= {limit:g}", error) for name, (_, limit) in LIMITS_MS.items() if name in wanted
        ]
    spread = half_quartile_range(samples)
    note = f"{len(samples)} kills, least {min(samples):.3f}, most {max(samples):.3f} ms"
    return [
        at_most(name, percentile(samples, percent), "ms", limit, spread=spread, note=note)
        for name, (percent, limit) in LIMITS_MS.items()
        if name in wanted
    ]


def _kills(space: Workspace) -> tuple[list[float], int]:
    """Milliseconds of each kill, and how many victims lived on. All shipped rules are loaded beside the bench's."""
    rule = space.folder / "victim.yml"
    rule.write_text(RULE)
    settings = {
        "classes": {"default": {"mode": "enforce", "responses": {"high": "kill"}}},
        "rules": {"paths": [str(SHIPPED), str(rule)]},
    }
    with sensor(space, settings), space.cgroup(space.sandboxes / "victims") as box:
        report = space.run("killlatency", "-n", space.plan.kills, "-i", 20_000, "-m", MARKER, cgroup=box)
    return [nanoseconds / 1e6 for nanoseconds in report["samples_ns"]], int(report["survived"])
