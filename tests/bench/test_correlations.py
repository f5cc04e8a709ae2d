"""The reference against which expiry is judged, on a short stream; and that what is filled is what is measured."""

from __future__ import annotations

import pytest

from tests.bench import correlations
from tests.bench.correlations import expiry, fill


def test_a_short_stream_fires_and_expires_as_the_reference_has_it() -> None:
    fired, wrong, left = expiry(5000, 7)
    assert fired > 50
    assert (wrong, left) == (0, 0)


@pytest.mark.parametrize("kind", ["event_count", "value_count", "temporal_ordered", "closing"])
def test_every_group_is_held(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(correlations, "GROUPS", 200)
    evicted: list[str] = []
    correlator = fill(kind, lambda what, _: evicted.append(what))
    assert [state.total for state in correlator.states.values()] == [200]
    assert evicted == []
