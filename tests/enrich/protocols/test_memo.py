"""What is remembered of a stranger's bytes has bounds, and changes no answer."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols.memo import SEEN, Memo, Seen
from sensor.enrich.protocols.recognise import recognise
from sensor.enrich.protocols.repeats import Repeats
from tests.bench.flows import Recorded
from tests.enrich.protocols.checks import mutated
from tests.fuzz.samples import ALL


def memos() -> list[Memo[Any, Any]]:
    """All of the dissectors'."""
    found: list[Memo[Any, Any]] = []
    for name, module in sys.modules.items():
        if name.startswith("sensor.enrich.protocols."):
            values = [value.known if type(value) is Repeats else value for value in vars(module).values()]
            found += [value for value in values if type(value) is Memo]
    return found


def test_entries_and_bytes_are_bounded() -> None:
    few: Memo[int, str] = Memo(10, 1 << 20)
    short: Memo[int, str] = Memo(1000, 160)
    for number in range(100):
        few.keep(number, "", 1)
        short.keep(number, "", 9)
        assert few[number] == short[number] == ""
        assert len(few) <= 10 and len(short) <= 160 // 9
    short.keep(-1, "", 10)  # one of a sixteenth
    assert -1 not in short


def test_what_came_once_is_remembered_for_a_while() -> None:
    seen = Seen()
    assert [seen.again(key) for key in (b"a", b"b", b"a", b"a")] == [False, False, True, True]
    for number in range(2 * SEEN):
        seen.again(number)
    assert len(seen._marks) <= SEEN


def test_a_flood_through_the_dissectors_stays_within_bounds() -> None:
    for number in range(3000):
        for start in (b"GET / HTTP/1.1\r\nHost: %d\r\nUser-Agent: %d\r\n", b"CONNECT %d:1%d HTTP/1.1\r\nHost: x\r\n"):
            recognise(start % (number, number) + b"\r\n", False)
        recognise(b"HTTP/1.1 200 OK\r\nServer: %d\r\n\r\n" % number, False)
    assert len(memos()) >= 10
    assert all(len(memo) <= memo._entries and memo._held <= memo._most for memo in memos())


@pytest.mark.parametrize("udp", [False, True])
def test_recorded_flows_are_told_alike_with_and_without_memory(udp: bool) -> None:
    sides = [side for flow in Recorded(8).take(600) if flow.udp == udp for side in (flow.client, flow.server)] * 3
    remembered = [recognise(side, udp) for side in sides]
    for side, found in zip(sides, remembered, strict=True):
        for memo in memos():
            memo.clear()
        assert recognise(side, udp) == found


@given(st.lists(mutated([sample.data for sample in ALL]), min_size=2, max_size=2), st.booleans(), st.integers(0, 400))
def test_what_came_before_changes_nothing(pair: list[bytes], udp: bool, cut: int) -> None:
    first, second = pair
    told = [recognise(data, udp) for data in (second, second[:cut])]
    for data in (first, first[:cut], second[:cut], second) * 3:
        recognise(data, udp)
    assert [recognise(data, udp) for data in (second, second[:cut])] == told
