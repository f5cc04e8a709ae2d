from __future__ import annotations

from pathlib import Path

import pytest

from sensor.config import Config, SandboxClass, SandboxPattern
from sensor.enrich.enricher import Enricher
from tests.enrich import records

UTC_OFFSET = 1_700_000_000 * 10**9


class FixedClock:
    def __init__(self) -> None:
        self.samples = 0

    def sample(self) -> int:
        self.samples += 1
        return UTC_OFFSET


@pytest.fixture
def config() -> Config:
    return Config(
        sandboxes=(SandboxPattern("boxes/*"), SandboxPattern("gpu/job-*.scope", class_="training")),
        classes={"training": SandboxClass(granted_devices=("nvidia",))},
    )


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def enricher(config: Config, clock: FixedClock, tmp_path: Path) -> Enricher:
    """With the sandbox `boxes/a` (records.BOX) and the GPU sandbox `gpu/job-1.scope` (records.OTHER_BOX)."""
    made = Enricher(config, str(tmp_path), clock)
    made.apply(records.birth(records.BOX, b"/boxes/a\0"), 1, 0)
    made.apply(records.birth(records.OTHER_BOX, b"/gpu/job-1.scope\0"), 1, 8)
    return made
