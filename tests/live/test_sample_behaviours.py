"""The sample of behaviours, for real and in variants, with all rules that pinfold ships: each is detected at medium or
above. Where a program was copied to must not be what tells of it, unless that is the behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.peers.network import RESOLVER, Network
from tests.live.peers.sample import BURNT, SAMPLE, Stage, Variant
from tests.live.running import Line, Running, Sandbox

ALARMING = frozenset({"medium", "high", "critical"})
SETTINGS = f"""
dns: {{{{resolvers: [{RESOLVER}]}}}}
detect: {{{{cpu_burn: {{{{every_s: 1, age_s: 3}}}}}}}}
"""
PLACES = frozenset(
    {"Executable in a scratch folder, or hidden, connects outward", "A hidden file in a scratch folder is executed"}
)
ABOUT_PLACES = ("07", "20")
CASES = [(name, number) for name, variants in SAMPLE.items() for number in range(len(variants))]


@pytest.fixture(scope="module")
def everything(rule_cache: str) -> Iterator[Running]:
    with Running(SETTINGS, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def alarms(sensor: Running, box: Sandbox, name: str) -> list[Line]:
    return [
        line
        for line in sensor.of(box, kind="detection")
        if line["rule"]["level"] in ALARMING and (line["rule"]["title"] not in PLACES or name.startswith(ABOUT_PLACES))
    ]


def found(sensor: Running, network: Network, folder: Path, name: str, variant: Variant) -> list[Line]:
    with sensor.sandbox() as box:
        stage = Stage(network, box, folder)
        with stage.ending:
            variant(stage)
            lines: list[Line] = sensor.until(lambda: alarms(sensor, box, name), f"{name} detected")
            return lines


@pytest.mark.parametrize(("name", "number"), CASES)
def test_it_is_detected(everything: Running, network: Network, tmp_path: Path, name: str, number: int) -> None:
    lines = found(everything, network, tmp_path, name, SAMPLE[name][number])
    print(f"{name}/{number}: {lines[0]['rule']['level']}: {lines[0]['rule']['title']}")


@pytest.mark.parametrize("number", range(len(BURNT)))
def test_a_cpu_burnt_for_hours_is_detected(everything: Running, network: Network, tmp_path: Path, number: int) -> None:
    """Hours are three seconds here."""
    lines = found(everything, network, tmp_path, "09 CPU burnt", BURNT[number])
    assert {line["Behavior"] for line in lines} == {"cpu_burn"}
    assert lines[0]["DurationMs"] >= 3000
    assert lines[0]["Image"].endswith(("/yes", "/worker-0", "/python3.11", "/python3"))
