"""Memory for many living flows: proportional set size of the sensor's processes before, and while they live.

All of them are told: the kernel's sampling of many flows to one peer is set aside, since a flow that is only counted
costs the sensor nothing. Each has carried a request and a response, so that its first bytes were looked at. What the
kernel's maps take is there from the start and stands in the note."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from sensor.bpf import libbpf, objects
from tests.bench.harness import BenchError, Figure, at_most, one_line, unmeasured
from tests.bench.memory import memory
from tests.bench.sensing import Sensor, sensor
from tests.bench.workspace import Workspace

MEMORY_FLOWS = "memory-flows"
NAMES = (MEMORY_FLOWS,)
LIMIT_MB = 40.0
CONNECTIONS = 10_000  # each is two flows, its two ends
WARMING = 300  # before the first look, so that only what a further flow costs is counted
RATE = 1000  # connections a second: what is lost was not held
WITHIN_S = 120
BPFFS = "/sys/fs/bpf"
SETTINGS = {"flows": {"full_per_peer": 65536}}


def run(space: Workspace, _: set[str]) -> list[Figure]:
    try:
        with sensor(space, SETTINGS) as watching, space.cgroup(space.sandboxes / "flows") as box:
            with _held(space, box, WARMING):
                _told(watching, WARMING)
            _told(watching, 0)
            before = _sizes(watching)
            with _held(space, box, CONNECTIONS):
                living = _told(watching, CONNECTIONS)
                after = _sizes(watching)
            lost = _losses(watching)
            kernel = map_sizes(space.instance)
    except (BenchError, OSError) as error:
        return [unmeasured(MEMORY_FLOWS, "MB more", f"<= {LIMIT_MB:g}", error)]
    parts = ", ".join(f"{name} {before[name]:.1f} to {size:.1f}" for name, size in after.items())
    maps = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in list(kernel.items())[:4])
    note = (
        f"{living:,.0f} flows of {CONNECTIONS:,} connections within one sandbox, all told; lost: {lost}; {parts};"
        f" beside it the kernel's maps, {sum(kernel.values()) / 1e6:.1f} MB whether or not there are flows: {maps}, …"
    )
    return [at_most(MEMORY_FLOWS, sum(after.values()) - sum(before.values()), "MB more", LIMIT_MB, note=note)]


@contextmanager
def _held(space: Workspace, cgroup: Path, connections: int) -> Iterator[None]:
    """So many connections stand while inside."""
    command = [str(space.workloads / "enter"), str(cgroup), "--", str(space.workloads / "holdflows")]
    arguments = ["-n", str(connections), "-r", str(RATE), "-t", "280"]
    process = subprocess.Popen(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        report = _report(process)
        if report["errno"] != {"0": connections}:
            raise BenchError(f"connections by errno: {report['errno']}")
        yield
        assert process.stdin is not None
        process.stdin.close()
        if process.wait(WITHIN_S):
            raise BenchError(f"holdflows: exit status {process.returncode}")
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"holdflows did not end within {WITHIN_S} s") from error
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _report(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None and process.stderr is not None
    readable, _, _ = select.select([process.stdout], [], [], WITHIN_S)
    line = process.stdout.readline() if readable else b""
    if not line:
        process.kill()
        raise BenchError(f"holdflows told nothing: {one_line(process.stderr.read(300).decode(errors='replace'))}")
    report: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    return report


def _told(watching: Sensor, connections: int) -> float:
    """Waits until the sensor knows all flows of that many connections, or of few more than none; how many it knows."""
    wanted, deadline, living = 2 * connections, time.monotonic() + WITHIN_S, 0.0
    while time.monotonic() < deadline:
        living = watching.metric("pinfold_flows")
        if living >= wanted and (connections or living < WARMING):
            break
        time.sleep(0.2)
    else:
        raise BenchError(f"the sensor knows {living:.0f} flows of {wanted}; lost: {_losses(watching)}")
    watching.settle(lambda: watching.metric("pinfold_protocols_total"))
    time.sleep(1)
    return watching.metric("pinfold_flows")


def _losses(watching: Sensor) -> str:
    counted = watching.samples("pinfold_events_lost_total")
    lost = (f"{labels['stage']} {labels['reason']} {count:.0f}" for labels, count in counted if count)
    return ", ".join(lost) or "nothing"


def _sizes(watching: Sensor) -> dict[str, float]:
    """MB of PSS: the core's, and that of all its helpers."""
    sizes = {"core": 0.0, "helpers": 0.0}
    for tgid, _, size in memory(watching.tgid):
        sizes["core" if tgid == watching.tgid else "helpers"] += size
    return sizes


def map_sizes(instance: str) -> dict[str, int]:
    """Bytes of kernel memory of each pinned map, the largest first."""
    sizes: dict[str, int] = {}
    for pin in objects.base_folder(BPFFS, instance).glob("gen-*/map-*"):
        descriptor = libbpf.get(pin)
        try:
            sizes[pin.name.removeprefix("map-")] = _memlock(descriptor)
        finally:
            os.close(descriptor)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _memlock(descriptor: int) -> int:
    """Bytes; since 6.4 the map's own account, before that an estimate made when it was created."""
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "memlock":
            return int(value)
    return 0
