"""Memory: proportional set size (smaps_rollup) of the sensor's processes, many sandboxes alive, many events behind."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench.harness import BenchError, Figure, at_most, unmeasured
from tests.bench.sensing import Sensor, sensor
from tests.bench.workspace import Workspace

ALL, CORE = "memory-all", "memory-core"
NAMES = (ALL, CORE)
LIMITS_MB = {ALL: 96.0, CORE: 48.0}
MOST_ROUNDS = 600


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    try:
        with sensor(space) as watching, ExitStack() as boxes:
            events = _occupy(space, watching, boxes)
            core, sizes = watching.tgid, memory(watching.tgid)
    except (BenchError, OSError) as error:
        return [unmeasured(name, "MB", f"<= {limit:g}", error) for name, limit in LIMITS_MB.items() if name in wanted]
    parts = ", ".join(f"{name} {size:.1f}" for _, name, size in sizes)
    note = f"after {events:,.0f} events, {space.plan.sandboxes} sandboxes alive; {parts}"
    values = {ALL: sum(size for _, _, size in sizes), CORE: sum(size for tgid, _, size in sizes if tgid == core)}
    return [at_most(name, values[name], "MB", limit, note=note) for name, limit in LIMITS_MB.items() if name in wanted]


def _occupy(space: Workspace, watching: Sensor, boxes: ExitStack) -> float:
    """Fills sandboxes with a sleeper each, then lets them exec and connect in turn until the sensor has counted
    enough events. Returns that count."""
    cgroups = [boxes.enter_context(space.cgroup(space.sandboxes / f"box-{n}")) for n in range(space.plan.sandboxes)]
    for cgroup in cgroups:
        sleeper = space.spawn("execloop", "-n", 1, "/bin/sleep", 600, cgroup=cgroup)
        boxes.callback(_end, sleeper)
    events = 0.0
    for turn in range(MOST_ROUNDS):
        cgroup = cgroups[turn % len(cgroups)]
        space.run("execstorm", "-P", 1, "-t", 0.1, "-m", f"pfmemory{turn}", cgroup=cgroup)
        space.run("connectstorm", "-P", 1, "-n", 5000, "-t", 1, cgroup=cgroup)
        events = watching.metric("pinfold_events_total")
        if events >= space.plan.events:
            break
    else:
        raise BenchError(f"only {events:.0f} events were counted")
    watching.settle(watching.log_size)
    time.sleep(1)
    return events


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its child holds the pipes too, and goes with the cgroup: reading them to their end would wait for it."""
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def memory(root: int) -> list[tuple[int, str, float]]:
    """(tgid, name, MB of PSS) of a process and all its descendants."""
    found = []
    pending = [root]
    while pending:
        tgid = pending.pop()
        process = Path("/proc", str(tgid))
        found.append((tgid, (process / "comm").read_text().strip(), _pss_mb(process)))
        for children in process.glob("task/*/children"):
            pending += [int(child) for child in children.read_text().split()]
    return found


def _pss_mb(process: Path) -> float:
    """MB of 10^6 bytes, as the target has it; the kernel's kB are 1024 bytes."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise BenchError(f"{process}/smaps_rollup has no Pss")
