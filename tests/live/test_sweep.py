"""The sweep of repeats that went quiet, over maps of this kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.bpf import libbpf, tables
from sensor.bpf.libbpf import MapType
from sensor.bpf.objects import Generation
from sensor.bpf.state import SIZES, Repeat, RepeatKey
from sensor.bpf.tables import FORGET_AFTER_NS, Tables

NOW = 10 * FORGET_AFTER_NS
MOST = 8


@pytest.fixture
def repeats() -> Iterator[int]:
    descriptor = libbpf.map_create(MapType.HASH, "repeats", (SIZES["pf_repeat_key"], SIZES["pf_repeat"]), 64)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("forgotten", [False, True])
def test_every_key_has_its_turn(repeats: int, monkeypatch: pytest.MonkeyPatch, forgotten: bool) -> None:
    """More keys than one sweep looks at, most of them kept alive: all quiet ones are sent within a few sweeps."""
    monkeypatch.setattr(tables, "SWEEP_MOST", MOST)
    sent: list[int] = []

    def run(_self: Tables, _name: str, arguments: bytes) -> None:
        sent.append(RepeatKey.unpack(arguments[: SIZES["pf_repeat_key"]]).tgid)
        if forgotten:
            libbpf.delete(repeats, arguments[: SIZES["pf_repeat_key"]])

    monkeypatch.setattr(Tables, "_run", run)
    quiet = set(range(3, 40, 4))
    for tgid in range(40):
        last = NOW - FORGET_AFTER_NS // 2 if tgid in quiet else NOW
        libbpf.update(repeats, RepeatKey(tgid=tgid).pack(), Repeat(count=1, last_ns=last).pack())
    swept = Tables(Generation(Path(), 1, 1, "", {"repeats": repeats}, {}))
    for _ in range(40 // MOST + 1):
        swept.sweep_repeats(NOW, 1_000_000_000)
    assert set(sent) == quiet
