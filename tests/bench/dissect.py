"""Dissectors' throughput: first bytes of both directions of recorded flows, told by `recognise`, on one core.

Measured in a process of its own, pinned to one core. Every repetition has flows that were not there before, and making
them is not timed."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections import Counter

import msgspec
from msgspec import Struct

from sensor.enrich.protocols.recognise import recognise, recognise_pair
from tests.bench.flows import SHARES, Flow, Recorded
from tests.bench.harness import BenchError, Figure, at_least, half_quartile_range, one_line, unmeasured
from tests.bench.workspace import CHECKOUT, Workspace

DISSECT = "dissect"
NAMES = (DISSECT,)
LEAST = 150_000.0
WITHIN_S = 600
DEAREST = 5  # kinds of flows that the note names


class Result(Struct, frozen=True):
    """Of the measuring process."""

    rates: list[float]  # flows a second, each repetition
    flows: int  # of a repetition
    client_bytes: float  # mean
    server_bytes: float
    costs: dict[str, float]  # microseconds of a flow by its kind


def run(space: Workspace, _: set[str]) -> list[Figure]:
    try:
        result = _measured(space)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return [unmeasured(DISSECT, "flows/s", f">= {LEAST:g}", error)]
    shares: Counter[str] = Counter()
    for kind, share in SHARES.items():
        shares[kind.partition("-")[0]] += share
    costs = sorted(result.costs.items(), key=lambda cost: -cost[1])[:DEAREST]
    dearest = ", ".join(f"{kind} {cost:.1f}" for kind, cost in costs)
    mix = ", ".join(f"{name} {share / 10:g} %" for name, share in shares.most_common())
    note = (
        f"both directions of {result.flows} flows, {result.client_bytes:.0f} and {result.server_bytes:.0f} bytes on"
        f" average, {len(result.rates)} repetitions, each of flows not seen before; {mix}; dearest, in us: {dearest}"
    )
    rate, spread = statistics.median(result.rates), half_quartile_range(result.rates)
    return [at_least(DISSECT, rate, "flows/s", LEAST, spread=spread, note=note)]


def _measured(space: Workspace) -> Result:
    arguments = (space.core, space.plan.records // 3, space.plan.repetitions, space.chance.getrandbits(32))
    command = [sys.executable, "-m", "tests.bench.dissect", *map(str, arguments)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False, timeout=WITHIN_S)
    if done.returncode:
        raise BenchError(one_line(done.stderr.decode(errors="replace").strip().rpartition("\n")[2]))
    return msgspec.json.decode(done.stdout, type=Result)


def timed(flows: list[Flow]) -> float:
    """Seconds that this process took for all of them, whatever else the machine does. A flow of which neither side is
    known is looked at once more as a pair, as the enricher does."""
    wanted = [(flow.client, flow.server, flow.udp) for flow in flows]
    began = time.process_time()
    for client, server, udp in wanted:
        sent, answered = recognise(client, udp), recognise(server, udp)
        if sent is None and answered is None:
            recognise_pair(client, server)
    return time.process_time() - began


def check(flows: list[Flow]) -> None:
    """Raises BenchError where a known protocol is not told: not finding it would be quick."""
    for flow in flows:
        for side, data in (("client", flow.client), ("server", flow.server)):
            found = recognise(data, flow.udp)
            if flow.protocol and (found is None or found.protocol != flow.protocol):
                told = "nothing" if found is None else found.protocol
                raise BenchError(f"the {side}'s bytes of {flow.kind} are told as {told}: {data[:40].hex()}")


def measure(count: int, repetitions: int, seed: int) -> Result:
    recorded = Recorded(seed)
    warm = recorded.take(count)  # programs and usual names are known after it, as to a sensor that runs for a minute
    check(warm)
    timed(warm)
    del warm
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the daemon sets it
    rates, total, client, server = [], 0, 0, 0
    for _ in range(repetitions):
        flows = recorded.take(count)
        gc.collect()
        rates.append(len(flows) / timed(flows))
        total += len(flows)
        client += sum(len(flow.client) for flow in flows)
        server += sum(len(flow.server) for flow in flows)
    kinds: dict[str, list[Flow]] = {}
    for flow in recorded.take(count):
        kinds.setdefault(flow.kind, []).append(flow)
    costs = {kind: timed(those) / len(those) * 1e6 for kind, those in kinds.items()}
    return Result(rates, total // repetitions, client / total, server / total, costs)


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    sys.stdout.buffer.write(msgspec.json.encode(measure(*map(int, sys.argv[2:]))))
