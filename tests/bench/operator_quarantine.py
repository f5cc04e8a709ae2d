"""How soon a detection cuts a sandbox off and freezes it, and how soon the operator's command has held a crowd."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tests.bench.harness import Figure, at_most, half_quartile_range, percentile
from tests.bench.latency import SHIPPED
from tests.bench.workspace import Workspace

if TYPE_CHECKING:
    from tests.live.cutting import Round
    from tests.live.running import Running

CUT, FROZEN = "quarantine-cut", "quarantine-frozen"
HELD = "quarantine-held"
NAMES = (CUT, FROZEN, HELD)
CROWD, HELD_S = 500, 2.0
NICE = -5  # as the unit has it (packaging/systemd): a sandbox's fifty processes are not to decide how soon they stop
LIMITS_MS = {CUT: 5.0, FROZEN: 50.0}


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    figures = []
    if wanted & {CUT, FROZEN}:
        figures += [figure for figure in _detected(space) if figure.name in wanted]
    if HELD in wanted:
        figures.append(_commanded(space))
    return figures


def _detected(space: Workspace) -> list[Figure]:
    from tests.live.cutting import config, rounds  # noqa: PLC0415 - imports what other rows do not need
    from tests.live.running import Running  # noqa: PLC0415

    with Running(config=config([str(SHIPPED), "{home}/rules"])) as sensor:
        _as_the_unit(sensor)
        return _figures(rounds(sensor, space.plan.quarantines))


def _commanded(space: Workspace) -> Figure:
    """As the operator waits for it: the command's own start is in it."""
    from tests.live.crowds import hold  # noqa: PLC0415
    from tests.live.running import Running  # noqa: PLC0415

    with Running() as sensor:
        _as_the_unit(sensor)
        found = [hold(sensor, CROWD) for _ in range(space.plan.crowds)]
    samples = [each.seconds for each in found]
    wrong = [text for each in found for text in each.wrong]
    wrong += [f"{each.resets} resets" for each in found if each.resets != CROWD]
    wrong += [each.destroyed for each in found if not each.destroyed.startswith(f"{CROWD} destroyed")]
    last = found[-1]
    took = ", ".join(f"{name} {seconds:.2f}" for name, seconds in last.took.items() if seconds > 0)
    note = (
        f"median of {len(found)} with {CROWD} processes and {CROWD} connections; least {min(samples):.2f}, most "
        f"{max(samples):.2f} s; the last: {took} s; {last.destroyed}; {last.resets} resets; evidence: {last.evidence}"
    )
    figure = at_most(HELD, median(samples), "s", HELD_S, spread=half_quartile_range(samples), note=note)
    return replace(figure, met=False, note="; ".join([note, *wrong])) if wrong else figure


def _as_the_unit(sensor: Running) -> None:
    assert sensor.process is not None
    os.setpriority(os.PRIO_PROCESS, sensor.process.pid, NICE)


def _figures(found: Sequence[Round]) -> list[Figure]:
    processes = min(each.frozen_of for each in found)
    waits = [each.waited for each in found]
    waited = f"the sensor waited for a CPU meanwhile: median {median(waits):.2f}, p99 {percentile(waits, 99):.2f} ms"
    return [
        _figure(CUT, [each.cut for each in found], [each.cut_from_event for each in found], processes, waited),
        _figure(FROZEN, [each.frozen for each in found], [each.frozen_from_event for each in found], processes, waited),
    ]


def _figure(name: str, samples: Sequence[float], from_event: Sequence[float], processes: int, waited: str) -> Figure:
    note = (
        f"nice {NICE}; p99 of {len(samples)} sandboxes with {processes} processes, from when the rule matched; "
        f"median {median(samples):.2f}, most {max(samples):.2f} ms; from the event in the kernel: "
        f"median {median(from_event):.2f}, p99 {percentile(from_event, 99):.2f} ms; {waited}"
    )
    spread = half_quartile_range(samples)
    return at_most(name, percentile(samples, 99), "ms", LIMITS_MS[name], spread=spread, note=note)
