"""The sample of behaviours, for real and in variants, with all rules that pinfold ships: each is detected at medium or
above."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.peers.network import Network
from tests.live.peers.sample import Stage, Variant
from tests.live.running import Line, Running, Sandbox
from tests.live.sampling import BURN_S, SETTINGS, cases, counts

CASES = [(name, number) for name, variants in cases().items() for number in range(len(variants))]


@pytest.fixture(scope="module")
def everything(rule_cache: str) -> Iterator[Running]:
    options = "".join(f"{key}: {json.dumps(value)}\n" for key, value in SETTINGS.items())
    with Running(options.replace("{", "{{").replace("}", "}}"), cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def alarms(sensor: Running, box: Sandbox, name: str) -> list[Line]:
    return [
        line for line in sensor.of(box, kind="detection") if counts(name, line["rule"]["title"], line["rule"]["level"])
    ]


def found(sensor: Running, network: Network, folder: Path, name: str, variant: Variant) -> list[Line]:
    with sensor.sandbox() as box:
        stage = Stage(network, box, folder)
        with stage.ending:
            variant(stage)
            # A name may tell at once what only hours of it prove.
            wanted = "Behavior" if name.startswith("09") else "rule"
            lines: list[Line] = sensor.until(
                lambda: [line for line in alarms(sensor, box, name) if wanted in line], f"{name} detected"
            )
            return lines


def test_all_twenty_are_there_in_variants() -> None:
    assert [name[:2] for name in cases()] == [f"{number:02}" for number in range(1, 21)]
    assert all(len(variants) >= 2 for variants in cases().values())


@pytest.mark.parametrize(("name", "number"), CASES)
def test_it_is_detected(everything: Running, network: Network, tmp_path: Path, name: str, number: int) -> None:
    """What was first to fire is printed: `-rP` shows the table."""
    lines = found(everything, network, tmp_path, name, cases()[name][number])
    print(f"{name}/{number}: {lines[0]['rule']['level']}: {lines[0]['rule']['title']}")
    if name.startswith("09"):
        assert {line["Behavior"] for line in lines} == {"cpu_burn"}
        assert lines[0]["DurationMs"] >= BURN_S * 1000
        assert lines[0]["Image"].rpartition("/")[2] in {"yes", "worker-0", "python3.11", "python3"}
