"""What comes of time: behaviours that no record stands before have ids of their own, by the one clock that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.events.activity import NetworkBehavior
from tests.export import samples
from tests.test_pipeline import BORN, Run

AT = 1_700_000_000_000_000_000


def behavior(utc_ns: int, position: int) -> NetworkBehavior:
    return samples.network_behavior(generation=0, position=position, time_ns=utc_ns, Behavior="beacon")


def test_behaviours_of_two_ticks_never_share_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An acknowledgement, or a restart, would take one detection for the other."""
    run = Run(tmp_path)
    run.take(0, BORN)
    clock = iter((AT, AT + 10**9))
    monkeypatch.setattr(run.pipeline, "_now", lambda: next(clock))
    made = run.pipeline.detectors
    monkeypatch.setattr(made, "tick", lambda _, utc_ns: [behavior(utc_ns, utc_ns), behavior(utc_ns, utc_ns + 1)])
    run.pipeline.tick(1)
    run.pipeline.tick(2)
    told = [line["id"] for line in run.lines() if line.get("category") == "network_behavior"]
    assert told == [f"0-{AT + each:x}" for each in (0, 1, 10**9, 10**9 + 1)]
    assert run.pipeline.utc_ns == AT + 10**9
