"""Who may ask asks much, who may not asks more: everything that a sandbox runs meanwhile is in the log."""

from __future__ import annotations

from pathlib import Path

from tests.live.asking import ask_again_and_again
from tests.live.running import Running


def test_no_event_is_lost_to_those_who_ask(sensor: Running, workloads: Path) -> None:
    report = ask_again_and_again(sensor, workloads, seconds=3, rate=200, pause_us=5000)
    assert report.lost == {}
    assert (report.missing, report.doubled) == (0, 0)
    assert report.ran > 50 and report.flooded > 50
    assert set(report.asked["statuses"]) == {"200"}, report.asked
    assert any("sandboxed" in name for name in report.refused), report.refused
