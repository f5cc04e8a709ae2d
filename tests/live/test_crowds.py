"""A crowd with connections, held by the operator's command; packaging/bench has five hundred, and a clock."""

from __future__ import annotations

from tests.live.crowds import hold
from tests.live.running import Running


def test_a_crowd_is_cut_off_frozen_and_examined(sensor: Running) -> None:
    held = hold(sensor, 60)
    assert held.wrong == ()
    assert held.destroyed.startswith("60 destroyed, 0 gone already"), held.destroyed
    assert held.resets == 60
    assert held.evidence.startswith("60 processes"), held.evidence
