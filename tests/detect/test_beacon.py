"""Regular small exchanges, with jitter, and the keep-alives of honest programs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.detect.scene import OUTSIDE, Scene


def exchanges(scene: Scene, flow: int, period: float, count: int, *, jitter: float = 0.0, size: int = 200) -> None:
    chance = random.Random(7)  # noqa: S311 - jitter, the same each time
    for _ in range(count):
        scene.wait(period * (1 + chance.uniform(-jitter, jitter)))
        scene.move(flow, out=size // 2, in_=size // 2)


@pytest.mark.parametrize(("period", "jitter"), [(2, 0.0), (5, 0.2), (60, 0.0), (60, 0.3), (600, 0.1)])
def test_an_implant_on_one_flow(period: float, jitter: float) -> None:
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 8443)
    exchanges(scene, flow, period, max(8, int(2400 / period)), jitter=jitter)
    scene.wait(60)
    assert scene.score("beacon") >= 60
    event = scene.of("beacon")[-1]
    assert 0.7 * period <= event.PeriodMs / 1000 <= 1.3 * period
    assert event.JitterPercent <= 35


def test_an_implant_that_connects_anew() -> None:
    scene = Scene()
    for _ in range(40):
        flow = scene.connect(700, OUTSIDE, 8443)
        scene.move(flow, out=300, in_=200)
        scene.wait(0.3)
        scene.end(flow)
        scene.wait(59)
    assert scene.score("beacon") >= 60
    assert scene.of("beacon")[-1].Repetitions >= 6


def test_half_an_hour_is_asked_for() -> None:
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 8443)
    exchanges(scene, flow, 60, 20)
    assert scene.score("beacon") < 60


@pytest.mark.parametrize(
    ("protocol", "more"), [("tls", {"Alpn": "h2"}), ("tls", {}), ("http", {"Upgrade": "websocket"})]
)
def test_pings_of_a_websocket_and_keep_alives_of_a_model(protocol: str, more: dict[str, Any]) -> None:
    scene = Scene()
    flow = scene.connect(500, OUTSIDE, 443)
    scene.recognise(flow, protocol, **more)
    exchanges(scene, flow, 20, 400)
    assert scene.score("beacon") < 60


def test_a_poller_over_short_tls_flows() -> None:
    """Each flow is told before its first bytes: what the last one spoke counts."""
    scene = Scene()
    for _ in range(60):
        flow = scene.connect(500, OUTSIDE, 443)
        scene.recognise(flow, "tls", Alpn="http/1.1")
        scene.move(flow, out=500, in_=900)
        scene.end(flow)
        scene.wait(60)
    assert scene.score("beacon") < 60


def test_neighbours_and_jupyters_heartbeat() -> None:
    scene = Scene()
    near = scene.connect(500, "10.0.0.7", 6000)
    heart = scene.connect(500, "127.0.0.1", 50_003)
    for _ in range(150):
        exchanges(scene, near, 20, 1)
        scene.move(heart, out=10, in_=10)
    assert scene.score("beacon") < 60


@pytest.mark.parametrize("size", [200, 90_000])
def test_large_or_irregular_exchanges_are_none(size: int) -> None:
    scene = Scene()
    flow = scene.connect(500, OUTSIDE, 8443)
    chance = random.Random(3)  # noqa: S311
    for _ in range(60):
        exchanges(scene, flow, 60 if size > 2048 else chance.choice([6, 20, 90, 300]), 1, size=size)
    assert scene.of("beacon") == []


def test_flows_and_peers_are_bounded() -> None:
    scene = Scene()
    for number in range(500):
        scene.connect(500, f"203.0.{number // 200}.{number % 200}", 8443)
    scene.wait(3)
    before = scene.world.reads
    scene.wait(60)
    assert scene.world.reads - before <= 16 * 60 / 5 + 16
    assert scene.detectors.counters["beacon_flows_evicted"] > 0
    assert scene.detectors.counters["beacon_peers_evicted"] > 0


def test_an_implant_stays_read_in_a_flood_of_silent_flows() -> None:
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 8443)
    for number in range(60):
        exchanges(scene, flow, 45, 1)
        scene.connect(500, f"203.0.113.{number + 20}", 443)
    assert scene.score("beacon") >= 60
