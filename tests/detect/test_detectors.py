"""The composition: ids, order, what concerns nobody, settings; and conservation by itself."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.configdetect import DetectSettings, RelaySettings
from sensor.detect.behavior import endpoint
from sensor.detect.bounded import Levels
from sensor.detect.conservation import UNKNOWN, Framing, conserved, direction, worth
from sensor.detect.detectors import Detectors
from sensor.events.activity import NetworkBehavior, NetworkListen
from tests.detect.scene import OUTSIDE, SANDBOX, UTC, Scene, make

SETTINGS = RelaySettings()
FRAMING = Framing(SETTINGS.fixed_bytes, SETTINGS.packet_bytes)


def test_settings_are_read_strictly_and_have_every_threshold() -> None:
    assert msgspec.convert({"relay": {"dial_ms": 50}}, DetectSettings).relay.dial_ms == 50
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"relay": {"dial": "x"}}, DetectSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"relay": {"nothing": 1}}, DetectSettings)


def test_what_concerns_no_detector_passes() -> None:
    scene = Scene()
    assert scene.tell(make(NetworkListen, SandboxId=SANDBOX)) == []
    assert scene.process(1, "/bin/sh", stdin=("null", 0)) == []
    assert scene.attempt(1, OUTSIDE, 443) == []
    assert scene.device(1, "drm") == []
    assert len(scene.detectors._reverse_shell._sandboxes) == 0


def test_ids_follow_the_record_and_ticks_have_their_own() -> None:
    """Scene asserts both for each event of every test; here, that more than fit wait for the tick."""
    scene = Scene()
    detectors = Detectors(DetectSettings(), scene.world)
    behavior = scene.recognise(scene.connect(1, OUTSIDE, 3333), "stratum")[0]
    numbered = detectors._numbered([behavior] * 10, make(NetworkBehavior, generation=3, position=80))
    assert [event.position for event in numbered] == list(range(81, 88))
    assert detectors.busy
    late = detectors.tick(scene.at, UTC)
    assert [(event.generation, event.position) for event in late] == [(0, UTC), (0, UTC + 1), (0, UTC + 2)]
    again = detectors._numbered([behavior] * 200, make(NetworkBehavior))
    assert len(again) == 7
    assert detectors.counters["behaviors_dropped"] == 200 - 7 - 64


def test_the_same_clock_twice_gives_other_ids() -> None:
    scene = Scene()
    detectors = scene.detectors
    behavior = scene.recognise(scene.connect(1, OUTSIDE, 3333), "stratum")[0]
    ids = set()
    for _ in range(3):
        detectors._held = [behavior]
        ids |= {event.position for event in detectors.tick(scene.at, UTC)}
    assert len(ids) == 3


def test_levels_pass_once_a_mark_and_hour() -> None:
    levels, counters, hour = Levels((30, 60), 4, 10), Counter[str](), 3_600_000_000_001
    assert [levels.passes("a", score, 0, counters) for score in (29, 30, 59, 60, 99)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert levels.passes("a", 60, hour, counters)
    assert sum(levels.passes(number, 60, hour, counters) for number in range(40)) == 9
    assert len(levels._passed) <= 4
    assert counters["behaviors_over_hourly_limit"] == 31


def test_addresses_and_ports() -> None:
    assert endpoint("127.0.0.1", 22) == "127.0.0.1:22"
    assert endpoint("::1", 22) == "[::1]:22"


def test_silence_is_unknown_and_framing_is_allowed_for() -> None:
    fixed, packet = SETTINGS.fixed_bytes, SETTINGS.packet_bytes
    assert direction(20, 20, 1, 1, fixed, SETTINGS, packet) == UNKNOWN
    assert direction(5000, 4000, 4, 3, fixed, SETTINGS, packet) < 100
    assert direction(4200, 4000, 4, 3, fixed, SETTINGS, packet) == 100
    # Many small packets of a reply against one request: framing is counted by the request's messages.
    assert direction(9000, 200, 60, 3, fixed, SETTINGS, packet) < 5


def test_compression_and_a_missing_tail() -> None:
    fixed, packet = SETTINGS.fixed_bytes, SETTINGS.packet_bytes
    assert direction(3650, 4000, 4, 3, fixed, SETTINGS, packet) == 100
    assert direction(1500, 4000, 4, 3, fixed, SETTINGS, packet) == SETTINGS.compressed_percent
    assert direction(200, 4000, 4, 3, fixed, SETTINGS, packet) < 20
    assert direction(0, 4000, 0, 3, fixed, SETTINGS, packet) == 0


def test_one_direction_is_worth_half_and_little_data_little() -> None:
    both = conserved((4100, 4100, 4, 4), (4000, 4000, 4, 4), FRAMING, SETTINGS)
    one = conserved((10, 4100, 4, 4), (4000, 0, 4, 4), FRAMING, SETTINGS)
    little = conserved((300, 300, 2, 2), (200, 200, 2, 2), FRAMING, SETTINGS)
    assert (worth(both, SETTINGS), worth(one, SETTINGS)) == (45, 22)
    assert little.percent == SETTINGS.weak_percent and not little.strong


TOTALS = st.tuples(*[st.integers(0, 1 << 64)] * 4)


@given(TOTALS, TOTALS)
def test_any_counters_give_a_percentage(outer: tuple[int, int, int, int], inner: tuple[int, int, int, int]) -> None:
    result = conserved(outer, inner, FRAMING, SETTINGS)
    assert result.percent == UNKNOWN or 0 <= result.percent <= 100
    assert 0 <= worth(result, SETTINGS) <= SETTINGS.conservation


@given(TOTALS)
def test_what_is_carried_exactly_is_conserved(totals: tuple[int, int, int, int]) -> None:
    out, in_, packets_out, packets_in = totals
    result = conserved(totals, (in_, out, packets_in, packets_out), FRAMING, SETTINGS)
    assert result.percent in {UNKNOWN, SETTINGS.weak_percent, 100}
