"""Thresholds that could not work are refused, each with its line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from sensor.config import load
from sensor.configdetect import DetectSettings, detect_problems
from tests.test_config import refusal

DIVISORS = ["evaluate_ms", "every_s", "fast_s", "slow_s", "window_s", "slow_window_s", "idle_s"]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: str) -> str:
        path = tmp_path / "pinfold.yaml"
        path.write_text(content)
        return str(path)

    return write


def numbers() -> list[tuple[str, str, float]]:
    """Group, key and default of every number."""
    return [
        (group.name, key.name, key.default)
        for group in msgspec.structs.fields(DetectSettings)
        for key in msgspec.structs.fields(group.type)
        if isinstance(key.default, int | float)
    ]


def text_of(group: str, key: str, value: object) -> str:
    return f"# detectors\ndetect:\n  {group}:\n    {key}: {yaml.safe_dump(value, default_flow_style=True)}"


def test_the_defaults_are_right() -> None:
    assert list(detect_problems(DetectSettings())) == []


@pytest.mark.parametrize(("group", "key", "default"), numbers())
def test_every_number_has_both_bounds(written: Any, group: str, key: str, default: float) -> None:
    """One below zero makes no sense anywhere but in points that take away, which never give."""
    wrong = 1 if default < 0 else -1
    for value in (wrong, -(10**12), 10**12):
        [line] = refusal(written(text_of(group, key, value)))
        assert line.startswith(f"4: detect.{group}.{key}: expected ")
        assert line.endswith(f", found {type(default)(value)}")


@pytest.mark.parametrize(
    ("group", "key", "value", "expected"),
    [
        ("relay", "compressed_percent", 101, "0 to 100"),
        ("beacon", "jitter_percent", -1, "0 to 100"),
        ("relay", "conservation", 101, "0 to 100"),
        ("relay", "request_response", 15, "-100 to 0"),
        ("idle_tunnel", "uncertain", 20, "-100 to 0"),
        ("mining", "uncertain", -60, "0 to 100"),
        ("flows", "per_sandbox", 0, "1 to 1048576"),
        ("relay", "compression", 0, "1 to 1048576"),
        ("fan_out", "hosts", 0, "1 to 1048576"),
        ("reverse_shell", "events_an_hour", 0, "1 to 1048576"),
        ("beacon", "exchanges", 2, "3 to 1048576"),
        ("beacon", "period_min_s", 0.0, "0.01 to 2592000"),
        ("beacon", "period_max_s", float("nan"), "0.01 to 2592000"),
        ("beacon", "period_max_s", float("inf"), "0.01 to 2592000"),
        ("tun_flow", "window_s", 0, "1 to 2592000"),
        ("relay", "dial_ms", 3_600_001, "0 to 3600000"),
        ("mining", "rate_bytes_s", 1 << 31, "0 to 1073741824"),
        ("flows", "floor", 1000, "at most per_sandbox, which is 256"),
        ("beacon", "exchanges", 33, "at most remembered, which is 32"),
        ("beacon", "period_min_s", 8000.0, "at most period_max_s, which is 7200.0"),
        ("relay", "marks", [], "at least one number"),
        ("relay", "marks", [60, 50], "the lower numbers first"),
        ("fan_out", "factors", [4, 1], "the lower numbers first"),
        ("fan_out", "scores", [], "at least one number"),
        ("reverse_shell", "check_ms", [1000, 100], "the lower numbers first"),
        ("dns_tunnel", "names", [5], "two numbers from 0 to 1048576, the lower first"),
        ("dns_tunnel", "names", [], "two numbers from 0 to 1048576, the lower first"),
        ("dns_tunnel", "length", [44, 18], "two numbers from 0 to 1048576, the lower first"),
        ("dns_tunnel", "length", [18, 18], "two numbers from 0 to 1048576, the lower first"),
        ("dns_tunnel", "entropy", [1, 2, 3], "two numbers from 0 to 1048576, the lower first"),
        ("dns_tunnel", "types", [-1, 50], "two numbers from 0 to 1048576, the lower first"),
        ("reverse_shell", "shells", ["sh"] * 257, "at most 256"),
    ],
)
def test_thresholds_out_of_range_are_refused(written: Any, group: str, key: str, value: object, expected: str) -> None:
    [line] = refusal(written(text_of(group, key, value)))
    assert line.startswith(f"4: detect.{group}.{key}: expected {expected}, found ")
    assert line.isprintable()


@pytest.mark.parametrize("key", DIVISORS)
def test_what_happens_again_needs_time_between(written: Any, key: str) -> None:
    groups = [group for group, name, _ in numbers() if name == key]
    assert groups
    for group in groups:
        assert refusal(written(text_of(group, key, 0)))[0].startswith(f"4: detect.{group}.{key}: expected 1 to ")


@pytest.mark.parametrize(
    ("group", "key", "value", "expected"),
    [
        ("relay", "marks", [50, 101], "1 to 100"),
        ("fan_out", "factors", [1, 2_000_000], "1 to 1000000"),
        ("fan_out", "scores", [60, 101], "0 to 100"),
        ("reverse_shell", "check_ms", [0, 3_600_001], "0 to 3600000"),
        ("reverse_shell", "shells", ["sh", "/bin/sh"], "a program's name, without /"),
        ("reverse_shell", "shells", ["sh", ""], "a program's name, without /"),
        ("reverse_shell", "interpreters", ["awk", "\u202eawk"], "a program's name, without /"),
        ("dns_tunnel", "trusted", ["example.net", "Example.net"], "a domain in lower case"),
        ("dns_tunnel", "trusted", ["example.net", "*.example.net"], "a domain in lower case"),
        ("dns_tunnel", "internal", ["local", ".lan"], "a domain in lower case"),
        ("dns_tunnel", "internal", ["local", "lan\n"], "a domain in lower case"),
    ],
)
def test_the_item_that_is_wrong_is_named(written: Any, group: str, key: str, value: object, expected: str) -> None:
    [line] = refusal(written(text_of(group, key, value)))
    assert line.startswith(f"4: detect.{group}.{key}[1]: expected {expected}, found ")
    assert line.isprintable()


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("relay", "dial_ms", 0),
        ("idle_tunnel", "age_s", 0),
        ("beacon", "long_s", 0),
        ("beacon", "period_min_s", 1),
        ("relay", "request_response", 0),
        ("relay", "conservation", 0),
        ("relay", "marks", [50]),
        ("fan_out", "scores", [90, 90, 90]),
        ("dns_tunnel", "trusted", ["reputation.example.net"]),
        ("dns_tunnel", "internal", []),
    ],
)
def test_settings_at_their_edges_are_taken(written: Any, group: str, key: str, value: object) -> None:
    settings = getattr(load(written(text_of(group, key, value))).detect, group)
    assert getattr(settings, key) == (tuple(value) if isinstance(value, list) else value)


def test_several_are_told_at_once(written: Any) -> None:
    text = (
        "detect:\n  relay:\n    dial_ms: -1\n    marks: [0, 200]\n  beacon: {period_min_s: 9000, jitter_percent: 101}\n"
    )
    assert refusal(written(text)) == [
        "3: detect.relay.dial_ms: expected 0 to 3600000, found -1",
        "4: detect.relay.marks[0]: expected 1 to 100, found 0",
        "4: detect.relay.marks[1]: expected 1 to 100, found 200",
        "5: detect.beacon.jitter_percent: expected 0 to 100, found 101",
        "5: detect.beacon.period_min_s: expected at most period_max_s, which is 7200.0, found 9000.0",
    ]
