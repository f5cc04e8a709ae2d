"""Stratum by its bytes; without them, by pushes, time and work."""

from __future__ import annotations

import pytest

from tests.detect.scene import OUTSIDE, SECOND, Scene

MINER = 700


@pytest.mark.parametrize(
    ("protocol", "certain", "score"),
    [("stratum", True, 90), ("getblocktemplate", True, 80), ("stratum2", False, 60), ("stratum", False, 60)],
)
def test_a_dialect_is_told_at_once(protocol: str, certain: bool, score: int) -> None:
    scene = Scene()
    flow = scene.connect(MINER, OUTSIDE, 3333)
    (event,) = scene.recognise(flow, protocol, Certain=certain)
    assert (event.Behavior, event.Score, event.ApplicationProtocol) == ("mining_session", score, protocol)
    assert scene.recognise(flow, protocol, Certain=certain, from_sandbox=False) == []


def session(scene: Scene, flow: int, minutes: int, *, cores: float, length: int = 400) -> None:
    """A job each 20 s, a share for it, and CPUs burnt."""
    for _ in range(minutes * 3):
        scene.wait(20)
        assert scene.world.usage_ns is not None
        scene.world.usage_ns += int(20 * cores * SECOND)
        scene.push(flow, length, idle=15)
        scene.move(flow, out=200)


@pytest.mark.parametrize("wire", ["", "tls"])
def test_a_miner_in_tls_or_in_a_dialect_of_its_own(wire: str) -> None:
    scene = Scene()
    flow = scene.connect(MINER, OUTSIDE, 443)
    if wire:
        scene.recognise(flow, wire)
    session(scene, flow, 12, cores=7.5)
    assert scene.score("mining_session") >= 60
    event = scene.of("mining_session")[-1]
    assert event.CpuPercent > 80 and not event.GpuHeld


def test_a_miner_on_gpus() -> None:
    scene = Scene()
    scene.world.gpus.add(MINER)
    flow = scene.connect(MINER, OUTSIDE, 443)
    session(scene, flow, 12, cores=0.3)
    assert scene.score("mining_session") >= 60
    assert scene.of("mining_session")[-1].GpuHeld


def test_training_with_a_dashboard() -> None:
    scene = Scene()
    scene.world.gpus.add(MINER)
    flow = scene.connect(MINER, OUTSIDE, 443)
    scene.recognise(flow, "tls", Alpn="h2")
    session(scene, flow, 60, cores=7.9)
    assert scene.score("mining_session") < 60


@pytest.mark.parametrize(("cores", "length"), [(0.1, 400), (8.0, 60_000)])
def test_idle_chats_and_large_replies(cores: float, length: int) -> None:
    scene = Scene()
    flow = scene.connect(500, OUTSIDE, 443)
    scene.recognise(flow, "tls")
    for _ in range(60):
        session(scene, flow, 1, cores=cores, length=length)
        scene.move(flow, in_=length * 10)
    assert scene.score("mining_session") < 60


def test_a_busy_sandbox_whose_usage_is_unknown() -> None:
    scene = Scene()
    flow = scene.connect(MINER, OUTSIDE, 443)
    session(scene, flow, 5, cores=8)
    scene.world.usage_ns = None
    for _ in range(30):
        scene.wait(20)
        scene.push(flow, 400)
    assert scene.of("mining_session") == []


def test_pushed_flows_are_bounded_and_a_flood_leaves_the_miner() -> None:
    scene = Scene()
    flow = scene.connect(MINER, OUTSIDE, 443)
    for minute in range(14):
        session(scene, flow, 1, cores=8)
        for number in range(30):
            scene.push(scene.connect(800, f"203.0.{minute}.{number}", 80), 100)
    assert scene.score("mining_session") >= 60
    assert scene.detectors.counters["mining_flows_evicted"] > 0
