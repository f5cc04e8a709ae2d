"""Whether anything that is refused has an effect: a packet at the peer, a descriptor, a protocol's beginning."""

from __future__ import annotations

from tests.bench.harness import Figure, at_most
from tests.bench.workspace import Workspace

REFUSED = "refused-before-effect"
NAMES = (REFUSED,)


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    from tests.live.refusing import refuse_again_and_again  # noqa: PLC0415 - imports what other rows do not need

    assert wanted
    report = refuse_again_and_again(space.plan.refusals)
    tried = ", ".join(f"{what} {count:,}" for what, count in report.tried.items() if count)
    got = [f"LEAKED {what}: {count}" for what, count in report.leaked.items() if count]
    note = f"tried: {tried}; of the same from where it is allowed the peer saw {report.seen} packets"
    return [at_most(REFUSED, sum(report.leaked.values()), "leaked", 0, note="; ".join([note, *got]))]
