"""How soon a detection cuts a sandbox off and freezes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from tests.bench.harness import Figure, at_most, half_quartile_range, percentile
from tests.bench.latency import SHIPPED
from tests.bench.workspace import Workspace

if TYPE_CHECKING:
    from tests.live.cutting import Round

CUT, FROZEN = "quarantine-cut", "quarantine-frozen"
NAMES = (CUT, FROZEN)
NICE = -5  # as the unit has it (packaging/systemd): a sandbox's fifty processes are not to decide how soon they stop
LIMITS_MS = {CUT: 5.0, FROZEN: 50.0}


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    from tests.live.cutting import config, rounds  # noqa: PLC0415 - imports what other rows do not need
    from tests.live.running import Running  # noqa: PLC0415

    with Running(config=config([str(SHIPPED), "{home}/rules"])) as sensor:
        assert sensor.process is not None
        os.setpriority(os.PRIO_PROCESS, sensor.process.pid, NICE)
        found = rounds(sensor, space.plan.quarantines)
    return [figure for figure in _figures(found) if figure.name in wanted]


def _figures(found: Sequence[Round]) -> list[Figure]:
    processes = min(each.frozen_of for each in found)
    return [
        _figure(CUT, [each.cut for each in found], [each.cut_from_event for each in found], processes),
        _figure(FROZEN, [each.frozen for each in found], [each.frozen_from_event for each in found], processes),
    ]


def _figure(name: str, samples: Sequence[float], from_event: Sequence[float], processes: int) -> Figure:
    note = (
        f"nice {NICE}; p99 of {len(samples)} sandboxes with {processes} processes, from when the rule matched; "
        f"median {median(samples):.2f}, most {max(samples):.2f} ms; from the event in the kernel: "
        f"median {median(from_event):.2f}, p99 {percentile(from_event, 99):.2f} ms"
    )
    spread = half_quartile_range(samples)
    return at_most(name, percentile(samples, 99), "ms", LIMITS_MS[name], spread=spread, note=note)
