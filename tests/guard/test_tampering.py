"""What was tampered with is told loudly, and the same thing not each second."""

from __future__ import annotations

import pytest

from sensor.guard import tampering
from sensor.guard.tampering import Told
from sensor.guard.written import Difference, digest
from sensor.metrics import Metrics


@pytest.fixture
def notices() -> list[tuple[str, dict[str, object]]]:
    return []


@pytest.fixture
def told(notices: list[tuple[str, dict[str, object]]]) -> Told:
    return Told(Metrics(), lambda text, **fields: notices.append((text, fields)))


def test_repaired_or_not_is_said(told: Told, notices: list[tuple[str, dict[str, object]]]) -> None:
    told.tampered("link", "the link x was detached", "", key="ab")
    told.tampered("pin", "the pin y was removed", "no BPF filesystem")
    assert notices == [
        ("critical: the link x was detached, which was repaired", {"what": "link", "key": "ab"}),
        ("critical: the pin y was removed, which could not be repaired: no BPF filesystem", {"what": "pin"}),
    ]


def test_the_same_is_told_once_a_minute_and_counted_each_time(
    notices: list[tuple[str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Metrics()
    told = Told(store, lambda text, **fields: notices.append((text, fields)))
    now = [10**12]
    monkeypatch.setattr("time.monotonic_ns", lambda: now[0])
    for _ in range(5):
        told.tampered("map", "the map z has an entry that was changed", "")
    assert (len(notices), store.value("pinfold_tampering_total", ("map",))) == (1, 5)
    now[0] += tampering.SAY_AGAIN_NS
    told.tampered("map", "the map z has an entry that was changed", "")
    assert len(notices) == 2


def test_digests_tell_contents_apart_and_absence_from_emptiness() -> None:
    difference = Difference("classes", b"\0\0\0\0", b"\1", None)
    assert difference.digests == (digest(b"\1"), "none")
    assert digest(b"\1") != digest(b"\0")
    assert digest(b"") != "none"
