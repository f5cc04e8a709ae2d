"""Fixtures of the live tests. They need root and this kernel's BPF; where that is missing they fail,
since a sensor that was not tried live was not tried."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.bpf import features
from tests.live.running import Running, Sandbox
from tests.workloads.build import build


@pytest.fixture(scope="session", autouse=True)
def able() -> None:
    missing = [f.name for f in features.report() if f.required and f.state != "supported"]
    assert os.geteuid() == 0, "live tests need root: sudo packaging/test"
    assert not missing, f"live tests need what this kernel does not offer: {', '.join(missing)}"


@pytest.fixture(scope="session")
def rule_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache of compiled rules for all sensors of a run."""
    return str(tmp_path_factory.mktemp("rules"))


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    """One for a module's tests."""
    with Running(cache=rule_cache) as running:
        yield running


@pytest.fixture
def sandbox(sensor: Running) -> Iterator[Sandbox]:
    """In monitor mode."""
    with sensor.sandbox() as box:
        yield box


@pytest.fixture(scope="session")
def workloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("workloads"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks for leftovers comes after everything, the tests of other folders included."""
    items.sort(key=lambda item: "test_zz_nothing_left" in item.nodeid)
