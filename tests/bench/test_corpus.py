"""What counts of a baseline, and that one without an end counts for nothing."""

from __future__ import annotations

from sensor.cli.rulesbaseline import Baseline, Fired
from tests.bench.corpus import figure

LOW, HIGH = Fired("a", "A", "low", 7, {}), Fired("b", "B", "high", 2, {})


def test_only_medium_and_above_count() -> None:
    quiet = figure(Baseline([LOW], 100, whole=True), 1.0)
    assert (quiet.value, quiet.met) == (0, True)
    assert quiet.note.endswith("none at medium or above; 7 below")
    loud = figure(Baseline([HIGH, LOW], 100, whole=True), 1.0)
    assert (loud.value, loud.met) == (2, False)
    assert "B (high, 2)" in loud.note


def test_a_recording_that_is_cut_or_empty_shows_nothing() -> None:
    for found in (Baseline([], 100, whole=False), Baseline([], 0, whole=True)):
        assert (figure(found, 1.0).value, figure(found, 1.0).met) == (None, False)
