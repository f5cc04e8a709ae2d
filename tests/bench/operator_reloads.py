"""Policies swapped under load: whether what all of them deny was ever allowed in between."""

from __future__ import annotations

from tests.bench.harness import Figure, at_most
from tests.bench.workspace import Workspace

RELOADS = "policy-reloads"
NAMES = (RELOADS,)


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    from tests.live.reloading import reload_again_and_again  # noqa: PLC0415 - imports what other rows do not need

    assert wanted
    report = reload_again_and_again(space.plan.reloads, space.workloads)
    tried = ", ".join(f"{kind} {count:,}" for kind, count in report.tried.items())
    note = (
        f"{report.reloads} reloads in {report.seconds:.0f} s, {report.reloads / report.seconds:.1f}/s, "
        f"rules of one file; tried: {tried}; at the peer {report.arrived}"
    )
    got = [f"{kind} {count}" for kind, count in report.through.items() if count]
    return [at_most(RELOADS, report.successes, "got by", 0, note="; ".join([note, *got, *report.wrong]))]
