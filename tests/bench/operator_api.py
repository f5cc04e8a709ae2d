"""The control socket asked a thousand times a second by one who may, and flooded by those who may not: what is lost."""

from __future__ import annotations

from tests.bench.harness import Figure, at_least, at_most
from tests.bench.workspace import Workspace

LOST, SERVED = "api-rate", "api-served"
NAMES = (LOST, SERVED)
RATE, PAUSE_US = 1000, 2000
ASKED = 1.05  # so much more is asked for than must be served


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    from tests.live.asking import ask_again_and_again  # noqa: PLC0415 - imports what other rows do not need
    from tests.live.running import Running  # noqa: PLC0415

    with Running() as sensor:
        report = ask_again_and_again(
            sensor, space.workloads, seconds=space.plan.asked_seconds, rate=RATE * ASKED, pause_us=PAUSE_US
        )
    told = sum(report.lost.values())
    asked = report.asked
    note = (
        f"{report.ran} execs, log lacks {report.missing}, doubles {report.doubled}; {report.flooded:,} connects by "
        f"those who may not, refused: {_counts(report.refused)}; lost: {_counts(report.lost) or 'nothing'}"
    )
    served = (
        f"{asked['asked']} asked over 8 connections, by status {asked['statuses']}, {asked['connects']} connects; "
        f"answered in {asked['p50_ms']:.1f} ms (median), {asked['p99_ms']:.1f} ms (p99)"
    )
    figures = [
        at_most(LOST, max(report.missing + report.doubled, told), "lost", 0, note=note),
        at_least(SERVED, report.served_per_s, "req/s", RATE, note=served),
    ]
    return [figure for figure in figures if figure.name in wanted]


def _counts(counts: dict[str, float]) -> str:
    return ", ".join(f"{name.partition('{')[2].rstrip('}')} {value:.0f}" for name, value in counts.items())
