"""What containment and self-protection take: how long a process that left its cgroup lives, and what the checks of our
own links and maps cost. Without targets: shown."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench.harness import Figure, half_quartile_range, percentile
from tests.bench.workspace import Workspace

WINDOW, GUARD = "containment-window", "guard-cost"
NAMES = (WINDOW, GUARD)
GUARDED_S = 20.0
SECONDS = "pinfold_guard_seconds_total"


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    figures = []
    if WINDOW in wanted:
        figures.append(_window(space))
    if GUARD in wanted:
        figures.append(_guard(space))
    return figures


def _window(space: Workspace) -> Figure:
    from tests.live.containing import windows  # noqa: PLC0415 - imports what other rows do not need
    from tests.live.running import Running  # noqa: PLC0415

    with Running() as sensor, sensor.sandbox("refuse-window") as box, space.cgroup(Path(f"{space.outside}-left")) as to:
        samples = [seconds * 1000 for seconds in windows(sensor, box, str(to), space.plan.migrations)]
    note = (
        f"p99 of {len(samples)} that moved themselves out, from the move in the kernel to the SIGKILL; "
        f"median {percentile(samples, 50):.2f}, most {max(samples):.2f} ms"
    )
    return Figure(WINDOW, percentile(samples, 99), "ms", "-", None, half_quartile_range(samples), note=note)


def _guard(space: Workspace) -> Figure:
    """Of the core's CPU, each second, while the sandboxes do nothing."""
    from contextlib import ExitStack  # noqa: PLC0415

    from tests.live.running import Running  # noqa: PLC0415

    with ExitStack() as stack, Running() as sensor:
        for number in range(space.plan.guarded):
            stack.enter_context(sensor.sandbox(f"refuse-{number}"))
        time.sleep(2)  # until all are known, and looked at once
        before, began = sensor.metrics()[SECONDS], time.monotonic()
        time.sleep(GUARDED_S)
        spent, passed = sensor.metrics()[SECONDS] - before, time.monotonic() - began
    note = f"CPU of the core in integrity checks with {space.plan.guarded} sandboxes, over {passed:.0f} s"
    return Figure(GUARD, spent / passed * 1000, "ms/s", "-", None, note=note)
