"""What the guard makes of time, and of sandboxes' states."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from sensor.guard import guard
from sensor.guard.guard import Guard
from sensor.guard.tampering import Told
from sensor.metrics import Metrics
from sensor.reports import _state


@pytest.mark.parametrize(
    ("detections", "lost", "tamperable", "state"),
    [
        (0, {}, False, "clean"),
        (0, {}, True, "tamperable"),
        (0, {"ring_full": 1}, True, "unknown"),
        (2, {"ring_full": 1}, True, "detected"),
    ],
)
def test_a_privileged_sandbox_is_never_clean(
    detections: int, lost: dict[str, int], tamperable: bool, state: str
) -> None:
    assert _state(detections, lost, tamperable) == state


def test_a_core_that_did_not_run_says_so() -> None:
    """Stopped by a signal, say: what was sent to it waits with it, and this is what it can tell afterwards."""
    told: list[str] = []
    metrics = Metrics()
    notices = Told(metrics, lambda text, **_: told.append(text))
    idle = SimpleNamespace(_last_ns=0, _metrics=metrics, _told=notices)
    for now, count in ((10**12, 0), (10**12 + 10**9, 0), (10**12 + 10**9 + guard.LATE_NS + 1, 1)):
        Guard._late(cast(Any, idle), now)
        assert metrics.value("pinfold_tampering_total", ("stopped",)) == count
        idle._last_ns = now
    assert told == ["critical: the core did not run for 5.0 s: it was stopped by a signal, or starved"]
