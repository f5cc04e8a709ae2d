"""Storms: is anything lost when two cores do nothing but what the sensor must record?

Two accounts of loss are taken, and the worse counts: what pinfold says it lost (pinfold_events_lost_total), and what
the event log lacks of the operations that the workload numbered."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench import peers
from tests.bench.harness import BenchError, Figure, Peer, at_most, one_line, unmeasured
from tests.bench.sensing import Sensor, sensor
from tests.bench.workspace import Workspace, finish

EXEC, CONNECT, ISOLATION = "storm-exec", "storm-connect", "storm-isolation"
NAMES = (EXEC, CONNECT, ISOLATION)
PORTS, FIRST_PORT = 20_000, 10_000  # as connectstorm has them
# Reasons with which nothing is lost: the count is kept and told later, or the event was sent in full instead.
HARMLESS = {"watermark", "repeats_full"}
WORKERS = 2

_CONNECT = re.compile(rb'"DestinationIp":"(127\.[0-9.]+)","DestinationPort":(\d+)')


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    figures = []
    for name, storm in ((EXEC, _exec), (CONNECT, _connect), (ISOLATION, _isolation)):
        if name not in wanted:
            continue
        try:
            figures.append(_repeat(space, name, storm))
        except (BenchError, OSError) as error:
            figures.append(unmeasured(name, "lost", "<= 0", error))
    return figures


def _repeat(space: Workspace, name: str, storm: Any) -> Figure:
    """The losses of all repetitions added up: a median would hide the one storm that lost."""
    lost, notes = 0.0, []
    for _ in range(space.plan.storms):
        with sensor(space) as watching:
            missing, said = storm(space, watching)
            reasons = losses(watching)
        told = sum(count for reason, count in reasons.items() if reason not in HARMLESS)
        lost += missing if name == ISOLATION else max(missing, told)
        notes.append(said + "".join(f", {reason} {count:.0f}" for reason, count in sorted(reasons.items())))
    beside = _peers(space) if name == EXEC else {}
    return at_most(name, lost, "lost", 0, peers=beside, note="; ".join(notes))


def losses(watching: Sensor) -> Counter[str]:
    """Reason → events, over all stages, as the metrics have it."""
    reasons: Counter[str] = Counter()
    for labels, value in watching.samples("pinfold_events_lost_total"):
        if value:
            reasons[labels.get("reason", "?").lower()] += int(value)
    return reasons


def _exec(space: Workspace, watching: Sensor) -> tuple[int, str]:
    with space.cgroup(space.sandboxes / "storm") as box:
        report = space.run(
            "execstorm", "-P", WORKERS, "-t", space.plan.storm_seconds, "-m", "pfstorm", cgroup=box
        )  # fmt: skip
        watching.settle(watching.log_size)
    missing, doubled = account(watching.log_lines(), "pfstorm", report)
    return missing + doubled, _said(report, "execs", missing, doubled)


def _connect(space: Workspace, watching: Sensor) -> tuple[int, str]:
    with space.cgroup(space.sandboxes / "storm") as box:
        report = space.run("connectstorm", "-P", WORKERS, "-t", space.plan.storm_seconds, cgroup=box)
        watching.settle(watching.log_size)
    made = connects(report)
    seen: Counter[tuple[bytes, int]] = Counter()
    for line in watching.log_lines():
        if b'"category":"network_connection"' in line[:80] and (found := _CONNECT.search(line)):
            seen[found[1], int(found[2])] += 1
    missing = len(made - seen.keys())
    doubled = sum(count - 1 for count in seen.values())
    return missing + doubled, _said(report, "connects", missing, doubled)


def connects(report: dict[str, Any]) -> set[tuple[bytes, int]]:
    """The address and port of every connect of a connectstorm."""
    return {
        (f"127.{worker + 1}.{page // 250}.{page % 250 + 1}".encode(), FIRST_PORT + k % PORTS)
        for worker, tally in enumerate(report["workers"])
        for k, page in ((k, k // PORTS) for k in range(tally["done"] + tally["failed"]))
    }


def _isolation(space: Workspace, watching: Sensor) -> tuple[int, str]:
    """One sandbox floods with connects and execs, another works slowly: the other's execs are accounted for."""
    seconds = space.plan.storm_seconds
    with space.cgroup(space.sandboxes / "flood") as flood, space.cgroup(space.sandboxes / "calm") as calm:
        floods = [
            space.spawn("connectstorm", "-P", WORKERS, "-t", seconds, cgroup=flood),
            space.spawn("execstorm", "-P", WORKERS, "-t", seconds, "-m", "pfflood", cgroup=flood),
        ]
        time.sleep(0.2)
        slow = space.spawn("execstorm", "-P", 1, "-i", 5000, "-t", seconds - 0.4, "-m", "pfcalm", cgroup=calm)
        report = finish(slow)
        flooded = sum(int(finish(process)["count"]) for process in floods)
        watching.settle(watching.log_size)
    missing, doubled = account(watching.log_lines(), "pfcalm", report)
    return missing + doubled, _said(report, "calm execs", missing, doubled) + f" beside {flooded} floods"


def account(lines: Iterable[bytes], marker: str, report: dict[str, Any]) -> tuple[int, int]:
    """(missing, doubled) of an execstorm's numbered execs, in the log's lines or in a peer's."""
    pattern = re.compile(rb"\b%b-(\d+)-(\d+)\b" % marker.encode())
    seen: Counter[tuple[int, int]] = Counter()
    for line in lines:
        if line.startswith(b'{"v":') and b'"category":"process_creation"' not in line[:80]:
            continue  # the process's end repeats its command line
        if found := pattern.search(line):
            seen[int(found[1]), int(found[2])] += 1
    made = {
        (worker, k)
        for worker, tally in enumerate(report["workers"])
        for k in range(tally["done"] + tally["failed"] + tally["killed"])
    }
    return len(made - seen.keys()), sum(count - 1 for count in seen.values())


def _said(report: dict[str, Any], what: str, missing: int, doubled: int) -> str:
    rate = report["count"] / report["seconds"]
    return f"{report['count']} {what} at {rate:,.0f}/s, log lacks {missing}, doubles {doubled}"


def _peers(space: Workspace) -> dict[str, Peer]:
    """The same exec storm before auditd and bpftrace: what their output lacks."""
    beside = {}
    for name, watch in (("auditd", _auditd), ("bpftrace", _bpftrace)):
        try:
            report, output = watch(space)
            with output.open("rb") as lines:
                missing, _ = account(lines, "pfstorm", report)
            beside[name] = Peer(missing, note=f"{report['count']} execs at {report['rate']:,.0f}/s")
        except (BenchError, OSError) as error:
            beside[name] = Peer(None, note=one_line(error))
    return beside


def _storm(space: Workspace) -> dict[str, Any]:
    report = space.run(
        "execstorm", "-P", WORKERS, "-t", space.plan.storm_seconds, "-m", "pfstorm", cgroup=space.outside
    )  # fmt: skip
    time.sleep(2)  # both write behind
    return report


def _trigger(space: Workspace) -> peers.Trigger:
    return lambda: space.run("execloop", "-n", 5, cgroup=space.outside)


def _auditd(space: Workspace) -> tuple[dict[str, Any], Path]:
    with peers.auditd(space) as running:
        with running.watching("exec", _trigger(space)):
            report = _storm(space)
        return report, running.log


def _bpftrace(space: Workspace) -> tuple[dict[str, Any], Path]:
    with peers.bpftrace(space, "exec", _trigger(space)) as output:
        return _storm(space), output
