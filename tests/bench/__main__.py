"""The bench's command line: `packaging/bench [--only NAME…] [--json FILE] [--quick]`."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.bench import (
    corpus,
    correlations,
    cost,
    detection,
    dissect,
    filecost,
    flowmemory,
    latency,
    memory,
    operator_api,
    operator_crashes,
    operator_quarantine,
    operator_refusals,
    operator_reloads,
    operator_watch,
    rulesets,
    sample,
    start,
    storms,
    throughput,
)
from tests.bench.harness import BenchError, Figure, one_line, render, unmeasured
from tests.bench.peers import without_audit
from tests.bench.workspace import QUICK, Plan, Workspace, workspace

Run = Callable[[Workspace, set[str]], list[Figure]]
# In the order in which they run; peers that leave traces in the kernel come with the first.
GROUPS: dict[str, tuple[Run, tuple[str, ...]]] = {
    "cost": (cost.run, cost.NAMES),
    "file-cost": (filecost.run, filecost.NAMES),
    "storms": (storms.run, storms.NAMES),
    "throughput": (throughput.run, throughput.NAMES),
    "rulesets": (rulesets.run, rulesets.NAMES),
    "dissect": (dissect.run, dissect.NAMES),
    "latency": (latency.run, latency.NAMES),
    "memory": (memory.run, memory.NAMES),
    "flowmemory": (flowmemory.run, flowmemory.NAMES),
    "correlations": (correlations.run, correlations.NAMES),
    "detection": (detection.run, detection.NAMES),
    "sample": (sample.run, sample.NAMES),
    "corpus": (corpus.run, corpus.NAMES),
    "start": (start.run, start.NAMES),
    "refusals": (operator_refusals.run, operator_refusals.NAMES),
    "quarantine": (operator_quarantine.run, operator_quarantine.NAMES),
    "crashes": (operator_crashes.run, operator_crashes.NAMES),
    "api": (operator_api.run, operator_api.NAMES),
    "watch": (operator_watch.run, operator_watch.NAMES),
    "reloads": (operator_reloads.run, operator_reloads.NAMES),
}
ALL = [name for _, names in GROUPS.values() for name in names]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="packaging/bench", description="Measures pinfold beside its peers.")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="figures or groups, see --list")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: shows that all works, not how fast")
    parser.add_argument("--seed", type=int, default=None, help="of the order of arms; printed where not given")
    parser.add_argument("--list", action="store_true", help="print groups and figures, measure nothing")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.only if name not in GROUPS and name not in ALL]
    if unknown:
        parser.error(f"no figure or group: {' '.join(unknown)}; there are: {' '.join([*GROUPS, *ALL])}")
    return options


def chosen(only: list[str]) -> set[str]:
    if not only:
        return set(ALL)
    return {name for group, (_, names) in GROUPS.items() for name in names if group in only or name in only}


def measure(space: Workspace, wanted: set[str]) -> list[Figure]:
    """Every wanted figure; what fails says why and stops no other."""
    figures: list[Figure] = []
    for group, (run, names) in GROUPS.items():
        here = wanted & set(names)
        if not here:
            continue
        space.tell(f"{group}: {' '.join(name for name in names if name in here)}")
        try:
            figures += run(space, here)
        except Exception as error:  # one figure's failure, of whatever kind, is that figure's result
            missing = here - {figure.name for figure in figures}
            figures += [unmeasured(name, "-", "-", f"{type(error).__name__}: {error}") for name in sorted(missing)]
    return [figure for figure in figures if figure.name in wanted]


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.list:
        for group, (_, names) in GROUPS.items():
            print(f"{group}: {' '.join(names)}")
        return 0
    if os.geteuid():
        print("bench: must run as root", file=sys.stderr)
        return 1
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"bench: seed {seed}", file=sys.stderr)
    try:
        with workspace(QUICK if options.quick else Plan(), seed) as space, without_audit():
            figures = measure(space, chosen(options.only))
    except BenchError as error:
        print(f"bench: {one_line(error)}", file=sys.stderr)
        return 1
    except SystemExit:
        print("bench: interrupted; everything was removed", file=sys.stderr)
        raise
    render(figures)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
