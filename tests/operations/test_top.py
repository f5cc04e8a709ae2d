"""Rates of the last second, counted while somebody looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.bpf.state import FlowState
from sensor.enrich.flowtable import Flow
from sensor.operations import top
from tests.operations.core import READER, Core

SECOND = 1_000_000_000


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return Core(tmp_path)


def flow(core: Core, number: int, sandbox_id: int, family: int = 2) -> Flow:
    remote = bytes((192, 0, 2, number)) + bytes(12) if family == 2 else bytes(15) + bytes((number,))
    made = Flow(number, 1, number, sandbox_id, 50, 1, 1, 0, 6, family, True, bytes(16), remote, 1000, 22)
    core.enricher.flows.table.add((number, 1), made)
    return made


def carried(core: Core, number: int, out: int, in_: int) -> None:
    core.flows[number] = FlowState(cookie=number, bytes_out=out, bytes_in=in_)


def test_rates_are_of_the_last_second_and_the_busiest_first(core: Core) -> None:
    quiet, busy = core.sandbox("quiet"), core.sandbox("busy")
    flow(core, 1, busy.id)
    flow(core, 2, quiet.id, family=10)
    carried(core, 1, 100, 0)
    carried(core, 2, 0, 0)
    core.call("top", READER)
    start = core.operations._top._asked_ns
    core.operations.each_second(start)
    core.pipeline.tally = {(busy.id, "process_creation"): 30, (busy.id, "network_flow"): 2, (999, "dns_query"): 5}
    carried(core, 1, 4100, 500)
    core.operations.each_second(start + 2 * SECOND)
    assert core.pipeline.tally == {}, "whoever reads it empties it"
    found = core.call("top", READER)
    assert [row["name"] for row in found["sandboxes"]] == ["busy", "quiet"]
    row = found["sandboxes"][0]
    assert row["events"] == {"process_creation": 15.0, "network_flow": 1.0}
    assert (row["events_per_s"], row["out_per_s"], row["in_per_s"]) == (16.0, 2000.0, 250.0)
    (talker,) = found["talkers"]
    assert (talker["remote"], talker["sandbox"], talker["bytes_out"]) == ("192.0.2.1:22", "busy", 4100)
    assert found["sandboxes"][1]["events"] == {}


def test_nothing_is_counted_while_nobody_looks(core: Core) -> None:
    box = core.sandbox("a")
    flow(core, 1, box.id)
    asked: list[int] = []
    core.parts.flow = asked.append
    core.pipeline.tally = {(box.id, "dns_query"): 5}
    core.operations.each_second(5 * SECOND)
    assert (asked, core.pipeline.tally) == ([], {})
    core.call("top")
    start = core.operations._top._asked_ns
    core.operations.each_second(start + SECOND)
    assert asked == [1]
    core.operations.each_second(start + SECOND + top.LOOKED_NS)
    assert asked == [1]


def test_many_flows_are_looked_at_in_turns(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "FLOWS_AT_ONCE", 4)
    box = core.sandbox("a")
    for number in range(1, 11):
        flow(core, number, box.id)
        carried(core, number, number, 0)
    core.call("top")
    start = core.operations._top._asked_ns
    for second in range(3):
        core.operations.each_second(start + second * SECOND)
    assert len(core.operations._top._rates) == 10
    carried(core, 3, 0, 0)
    core.flows[5] = FlowState(cookie=77)  # its slot is another's by now
    for second in range(3, 6):
        core.operations.each_second(start + second * SECOND // 2)
    assert (5, 1) not in core.operations._top._rates


def test_a_crowd_is_told_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "MOST_SANDBOXES", 3)
    for number in range(5):
        core.sandbox(f"box-{number}")
    found = core.call("top")
    assert (len(found["sandboxes"]), found["more"]) == (3, 2)
