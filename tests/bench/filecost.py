"""What file events cost whoever opens a file for writing and closes it: the sensor with its marks against the same one
without, outside and inside a sandbox, in a folder that is marked and in one that is not."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import yaml

from tests.bench.harness import (
    BenchError,
    Figure,
    Measurements,
    alternate,
    at_most,
    half_quartile_range,
    median_interval,
    unmeasured,
)
from tests.bench.sensing import Sensor, sensor
from tests.bench.workspace import Workspace

OFF = ("off", "off-again")
# Row → place, folder, limit in percent (None: shown, not judged).
ROWS: dict[str, tuple[str, str, float | None]] = {
    "file-cost-outside": ("outside", "elsewhere", 1),
    "file-cost-outside-marked": ("outside", "marked", None),
    "file-cost-inside": ("inside", "elsewhere", 3),
    "file-cost-inside-marked": ("inside", "marked", None),
}
NAMES = tuple(ROWS)
MOST_BY_CHANCE = 3.0  # percent: a run with more shows nothing
MARKED_WITHIN_S = 20


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    rows = {name: row for name, row in ROWS.items() if name in wanted}
    places = {name: space.folder / f"files-{name}" for name in ("elsewhere", "marked")}
    for path in places.values():
        path.mkdir(exist_ok=True)
        (path / "file").touch()
    settings = {"cpus": space.others, "files": {"places": [str(places["marked"])]}}
    with sensor(space, settings) as watching:
        watching.stop()
        arms: dict[str, Callable[[], AbstractContextManager[None]]] = {
            OFF[0]: lambda: _watching(space, watching, enabled=False),
            OFF[1]: lambda: _watching(space, watching, enabled=False),
            "on": lambda: _watching(space, watching, enabled=True),
        }

        def measure(_arm: str, _: None) -> Measurements:
            chosen = [(place, folder) for place, folder, _ in rows.values()]
            space.chance.shuffle(chosen)
            return {f"{place} {folder}": _once(space, place, places[folder] / "file") for place, folder in chosen}

        rounds = alternate(arms, measure, space.plan.rounds, space.chance, space.tell)
    figures = []
    for name, (place, folder, limit) in rows.items():
        target = "-" if limit is None else f"<= {limit:g}"
        try:
            slower = rounds.slowdown("on", f"{place} {folder}", OFF)
            control = rounds.slowdown(OFF[1], f"{place} {folder}", OFF[:1])
        except BenchError as error:
            figures.append(unmeasured(name, "% slower", target, error))
            continue
        chance = max(abs(end) for end in median_interval(control))
        value, spread = statistics.median(slower), half_quartile_range(slower)
        off = statistics.median(measured[OFF[0]][f"{place} {folder}"] for measured in rounds.samples)
        note = f"{off:,.0f} ns when off; within {chance:.2f} % by chance; {len(slower)} rounds"
        if limit is not None and chance > MOST_BY_CHANCE:
            figures.append(Figure(name, value, "% slower", target, False, spread, {}, f"too noisy to tell; {note}"))
        elif limit is None:
            figures.append(Figure(name, value, "% slower", target, None, spread, {}, note))
        else:
            figures.append(at_most(name, value, "% slower", max(limit, chance), spread=spread, note=note))
    return figures


@contextmanager
def _watching(space: Workspace, watching: Sensor, *, enabled: bool) -> Iterator[None]:
    """With a process in the sandbox, whose root is looked at."""
    settings = yaml.safe_load(watching.config.read_text())
    settings["files"]["enabled"] = enabled
    watching.config.write_text(yaml.safe_dump(settings))
    watching.start()
    try:
        with space.cgroup(space.sandboxes / "box") as box:
            idle = subprocess.Popen([str(space.workloads / "enter"), str(box), "--", "/bin/sleep", "600"])
            try:
                _await_marks(watching, enabled)
                yield
            finally:
                idle.kill()
                idle.wait()
    finally:
        watching.stop()


def _await_marks(watching: Sensor, enabled: bool) -> None:
    until = time.monotonic() + MARKED_WITHIN_S
    while enabled and not watching.metric("pinfold_file_marks"):
        if time.monotonic() > until:
            raise BenchError("no file was marked")
        time.sleep(0.1)


def _once(space: Workspace, place: str, path: Path) -> float:
    cgroup = space.outside if place == "outside" else space.sandboxes / "box"
    bounds = ("-n", 10_000_000, "-t", space.plan.seconds, "-c", space.core)
    report = space.run("openloop", *bounds, "-w", path, cgroup=cgroup)
    if set(report["errno"]) != {"0"}:
        raise BenchError(f"outcomes by errno {report['errno']}")
    return float(report["ns"])
