"""What tests of quarantines in real cgroups share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensor.respond import procfs
from tests.live.names import unique
from tests.live.test_kill import Cgroup, mount
from tests.respond.quarantine.quarantining import Bench

WAIT_S = 30


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Cgroup]:
    if os.geteuid():
        pytest.fail("root is needed to make cgroups")
    cgroup = Cgroup(mount(), f"pinfold-test-{unique()}")
    cgroup.state = str(tmp_path)
    try:
        yield cgroup
    finally:
        cgroup.close()


@pytest.fixture
def bench(box: Cgroup) -> Bench:
    return Bench(str(mount()), box.state)


def path_of(box: Cgroup) -> str:
    return "/" + str(box.directory.relative_to(mount()))


def events(box: Cgroup) -> str:
    return (box.directory / "cgroup.events").read_text()


def wait(until: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def state_of(tgid: int) -> str:
    stat = procfs.stat(tgid)
    return "" if stat is None else stat.state
