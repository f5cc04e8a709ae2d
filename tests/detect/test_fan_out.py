"""Scans and sweeps, and how many hosts ordinary work meets."""

from __future__ import annotations

import sys

import pytest

from tests.detect.scene import MS, OUTSIDE, Scene


def sweep(scene: Scene, prefix: str, count: int, *, port: int = 22, seconds: float = 20) -> None:
    for number in range(count):
        scene.attempt(700, f"{prefix}{number // 250}.{number % 250 + 1}", port, "refused" if number % 2 else "allowed")
        scene.at += int(seconds / count * 1000) * MS


def test_a_sweep_of_a_private_network() -> None:
    scene = Scene()
    sweep(scene, "10.7.", 254)
    assert scene.score("fan_out") >= 70
    event = scene.of("fan_out")[0]
    assert event.DestinationIsPrivate and event.DistinctDestinations == 64 and event.DestinationPort == 22
    assert "private=10" in event.ScoreParts


def test_a_scan_of_one_host() -> None:
    """`nmap -p 1-1024 HOST`."""
    scene = Scene()
    for port in range(1, 1025):
        scene.attempt(700, OUTSIDE, port, "allowed")
        scene.at += 2 * MS
    assert [event.Score for event in scene.of("fan_out")] == [60, 75, 90]
    assert scene.of("fan_out")[-1].DistinctPorts == 1024


def test_a_hundred_ports_are_enough() -> None:
    scene = Scene()
    for port in range(8000, 8100):
        scene.attempt(700, "10.0.0.9", port)
    assert scene.score("fan_out") >= 60


def test_datagrams_and_flows_count() -> None:
    scene = Scene()
    for port in range(1, 101):
        scene.connect(700, OUTSIDE, port, protocol="udp")
    assert scene.score("fan_out") >= 60


def test_a_slow_sweep() -> None:
    scene = Scene()
    sweep(scene, "10.7.", 600, seconds=3000)
    assert scene.score("fan_out") >= 60


@pytest.mark.parametrize(
    ("hosts", "minutes"),
    [
        (40, 60),  # a browser
        (90, 5),  # npm and pip with their mirrors
    ],
)
def test_browsers_and_package_managers(hosts: int, minutes: int) -> None:
    scene = Scene()
    for minute in range(minutes):
        for number in range(hosts):
            scene.connect(500, f"203.{minute % 100}.{number // 250}.{number % 250}", 443)
            scene.at += int(60_000 / hosts) * MS
    assert scene.of("fan_out") == []


def test_a_training_job_of_sixty_four_nodes() -> None:
    scene = Scene()
    for rank in range(63):
        for port in range(8):
            scene.attempt(600, f"10.0.1.{rank}", 29_500 + port)
    assert scene.of("fan_out") == []


def test_test_runners_on_loopback() -> None:
    scene = Scene()
    for minute in range(5):
        for port in range(200):
            scene.attempt(600, "127.0.0.1", 40_000 + minute * 200 + port)
            scene.at += 300 * MS
    assert scene.of("fan_out") == []


def test_a_load_test_of_one_service() -> None:
    scene = Scene()
    for _ in range(5000):
        scene.attempt(600, OUTSIDE, 443)
    assert scene.of("fan_out") == []


def test_what_is_remembered_is_bounded() -> None:
    scene = Scene()
    for number in range(40_000):
        scene.attempt(700, f"10.{number // 62500}.{number // 250 % 250}.{number % 250}", number % 60_000)
    sandbox = scene.detectors._fan_out._sandboxes.get(4242)
    assert all(len(window.now) + len(window.old) <= 2048 for window in sandbox.windows)
    assert scene.detectors.counters["fan_out_windows_full"] > 0
    assert scene.score("fan_out") == 100


def test_full_windows_take_little_memory() -> None:
    """Every sandbox may fill its own."""
    scene = Scene()
    for number in range(10_000):
        scene.attempt(700, f"10.{number // 250}.{number % 250}.1", 1 + number)
    windows = scene.detectors._fan_out._sandboxes.get(4242).windows
    assert all(window.full for window in windows)
    assert sum(sys.getsizeof(half) for window in windows for half in (window.now, window.old)) < 40_000


def test_windows_that_were_full_learn_again_when_they_turn() -> None:
    scene = Scene()
    for number in range(10_000):
        scene.attempt(700, f"10.{number // 250}.{number % 250}.1", 1 + number)
    windows = scene.detectors._fan_out._sandboxes.get(4242).windows
    assert all(window.full for window in windows)
    full = scene.detectors.counters["fan_out_windows_full"]
    scene.at += 2 * windows[0].half_ns + MS
    scene.attempt(700, OUTSIDE, 443)
    assert (len(windows[0].now), windows[0].full, windows[1].full) == (1, False, True)
    assert scene.detectors.counters["fan_out_windows_full"] == full + 1


def test_a_pair_that_is_met_again_is_kept_for_another_half() -> None:
    scene = Scene()
    for _ in range(12):
        sweep(scene, "10.7.", 30, seconds=25)
    assert scene.of("fan_out") == []
    window = scene.detectors._fan_out._sandboxes.get(4242).windows[0]
    assert window.hosts == [0, 30]
    assert len(window.now) + len(window.old) == 30
