"""The daemon killed at random moments of quarantines and releases: what ledger and kernel disagree on afterwards."""

from __future__ import annotations

from tests.bench.harness import Figure, at_most
from tests.bench.workspace import Workspace

CRASHES = "quarantine-crashes"
NAMES = (CRASHES,)


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    from tests.live.downfalls import kill_again_and_again  # noqa: PLC0415 - imports what other rows do not need
    from tests.live.running import Running  # noqa: PLC0415

    assert wanted
    with Running() as sensor:
        report = kill_again_and_again(sensor, space.chance, space.plan.crashes, space.plan.crashed_quarantines)
    note = (
        f"{report.kills} kills, {report.under_way} before what was asked for was so, {report.in_start} of a start; "
        f"{len(report.done) // 2} quarantined and released; agreed at most {report.slowest_s * 1000:.0f} ms after READY"
    )
    return [at_most(CRASHES, len(report.wrong), "wrong", 0, note="; ".join([note, *report.wrong]))]
