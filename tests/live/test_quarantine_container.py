"""A container that runc made, quarantined, released and killed: its runtime is asked what it sees of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.quarantining import wait
from tests.live.test_kill import mount
from tests.respond.quarantine.quarantining import Bench, order, outcomes, reach

COUNTS = "while :; do echo x >> /counts; sleep 0.02; done"
ENDS = {"operator": "uid 0", "reason": "enough"}


class Container:
    """With busybox alone in it, and namespaces of its own, the network's too."""

    def __init__(self, folder: Path) -> None:
        self.name = f"pinfold-test-{unique()}"
        self.folder = folder
        self._runc = shutil.which("runc") or pytest.fail("runc is needed: packaging/test installs it")
        programs = folder / "rootfs" / "bin"
        programs.mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or pytest.fail("busybox-static is needed"), programs / "busybox")
        for name in ("sh", "sleep"):
            (programs / name).symlink_to("busybox")
        self.call("spec", "--bundle", str(folder))
        spec = json.loads((folder / "config.json").read_text())
        spec["process"].update(terminal=False, args=["sh", "-c", COUNTS])
        spec["root"]["readonly"] = False
        spec["linux"]["cgroupsPath"] = f"/{self.name}"
        kinds = ("pid", "network", "ipc", "uts", "mount")  # not the cgroups': their paths are to be seen
        spec["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
        (folder / "config.json").write_text(json.dumps(spec))
        self.call("run", "--detach", "--bundle", str(folder), self.name)
        self.directory = mount() / self.name
        self.id = self.directory.stat().st_ino

    def call(self, *arguments: str) -> str:
        with open(self.folder / "out", "w+b") as out:
            subprocess.run(
                [self._runc, *arguments], check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60
            )
            out.seek(0)
            return out.read().decode()

    def status(self) -> str:
        return str(json.loads(self.call("state", self.name))["status"])

    def counted(self) -> int:
        file = self.folder / "rootfs" / "counts"
        return file.stat().st_size if file.exists() else 0

    def remove(self) -> None:
        (self.directory / "cgroup.freeze").write_text("0")
        self.call("delete", "--force", self.name)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    if os.geteuid():
        pytest.fail("root is needed to make a container")
    (tmp_path / "bundle").mkdir()
    made = Container(tmp_path / "bundle")
    try:
        yield made
    finally:
        made.remove()


def test_a_container_is_held_released_and_killed(container: Container, tmp_path: Path) -> None:
    bench = Bench(str(mount()), str(tmp_path))
    wait(lambda: container.counted() > 0, "it runs")
    quarantines = bench.start()
    record = reach(quarantines, quarantines.add(order(container.id, f"/{container.name}")), "held")
    assert set(outcomes(record).values()) == {"done"}, record.steps
    assert record.step("sockets").detail.endswith("in 2 network namespaces"), "its own, and the host's for what it made"
    counted = container.counted()
    quarantines.tick(time.monotonic_ns())
    assert container.counted() == counted
    assert container.status() in {"running", "paused"}
    reach(quarantines, quarantines.release(record.id, **ENDS), "released")
    wait(lambda: container.counted() > counted, "it runs again")
    record = reach(quarantines, quarantines.add(order(container.id, f"/{container.name}")), "held")
    reach(quarantines, quarantines.kill(record.id, **ENDS), "killed")
    wait(lambda: container.status() == "stopped", "its runtime sees that it is dead")
    assert "populated 0" in (container.directory / "cgroup.events").read_text()
    quarantines.close()
