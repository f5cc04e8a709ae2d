"""What correlations hold survives a crash at any point, and nothing is counted twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from sensor.correlating.state import CHECKPOINT, JOURNAL, Memory
from sensor.rules.correlation.correlator import Correlator
from tests.correlating.test_live import MANY, RULE, engine
from tests.enrich import records
from tests.enrich.records import START
from tests.rules.correlation.stream import correlation
from tests.test_pipeline import BORN, Line, Run

SECOND = 1_000_000_000
FEW = correlation("type: event_count\nrules: connect\ntimespan: 60s\ncondition: {lt: 3}", title="few")
ENGINE = (RULE, MANY)


def stream() -> list[tuple[int, Struct]]:
    born = [BORN, records.exec_(500, START, b"tool\0", "/tmp/tool")]
    connects = [records.connect(500, bytes((203, 0, 113, 7)), port=3333) for _ in range(5)]
    return [(8 * number, record) for number, record in enumerate([*born, *connects], 1)]


def begin(folder: Path, *texts: str) -> Run:
    run = Run(folder, engine(*(texts or ENGINE)))
    run.pipeline.correlating.remember(Memory(str(folder)), run.recovery.last_event, run.log)
    return run


def acquaint(run: Run, known: list[tuple[int, Struct]]) -> None:
    """What the enricher reads from /proc at start."""
    for position, record in known:
        run.pipeline.enricher.apply(record, 0x51, position)


def told(run: Run) -> list[Line]:
    return [line for line in run.lines() if line["kind"] == "detection"]


def plain(lines: list[Line]) -> list[tuple[str, str]]:
    return [(line["id"], line["Correlation"]["count"]) for line in lines]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    run = begin(tmp_path_factory.mktemp("whole"))
    for position, record in stream():
        run.take(position, record)
    found = plain(told(run))
    assert len(found) == 1
    return found


@pytest.mark.parametrize("taken", range(1, 8))
@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("behind", [0, 2])
def test_a_crash_at_any_point(
    tmp_path: Path, expected: list[tuple[str, str]], taken: int, lost: int, behind: int
) -> None:
    """`lost` lines at the log's end were not written, and the ring's reader was `behind` by some records."""
    run = begin(tmp_path)
    for position, record in stream()[:taken]:
        run.take(position, record)
        run.log.flush()
    lines = run.file.read_bytes().splitlines(keepends=True)
    run.file.write_bytes(b"".join(lines[: len(lines) - lost]))
    run = begin(tmp_path)
    last = run.recovery.last_event
    at = 0 if last is None else next(n for n, (position, _) in enumerate(stream(), 1) if position == last[1])
    begun = max(0, at - behind)
    acquaint(run, stream()[: min(begun, 2)])
    for position, record in stream()[begun:]:
        run.take(position, record)
    assert plain(told(run)) == expected


@pytest.mark.parametrize("crash", [4, 5, 6])
def test_a_chain_goes_on_after_a_crash(tmp_path: Path, crash: int) -> None:
    """Two connections in a second are a `pair`; two of those within an hour, `pairs`."""
    pair = "name: pair\n" + MANY.replace("gte: 3", "gte: 2").replace("title: many", "title: pair").replace("60s", "1s")
    pairs = correlation("type: event_count\nrules: pair\ngroup-by: Image\ntimespan: 1h\ncondition: {gte: 2}", "pairs")
    texts = (RULE, pair, pairs)
    records_ = stream()
    later = [replace(records.connect(500, bytes((203, 0, 113, 7)), port=3333), time_ns=20 * SECOND) for _ in range(2)]
    whole = [*records_[:4], *((40 + 8 * n, record) for n, record in enumerate(later))]
    run = begin(tmp_path, *texts)
    for position, record in whole[:crash]:
        run.take(position, record)
        run.log.flush()
    run = begin(tmp_path, *texts)
    acquaint(run, whole[:2])
    for position, record in whole[crash:]:
        run.take(position, record)
    assert [line["rule"]["title"] for line in told(run)] == ["pairs"]


def test_an_orderly_end_leaves_all_in_the_checkpoint(tmp_path: Path) -> None:
    run = begin(tmp_path)
    for position, record in stream()[:4]:
        run.take(position, record)
    run.log.close()
    run.pipeline.correlating.close()
    assert os.stat(tmp_path / CHECKPOINT).st_mode & 0o777 == 0o600
    run = begin(tmp_path)
    states = run.pipeline.correlating.correlator.states.values()
    assert [state.total for state in states] == [1]
    acquaint(run, stream()[:2])
    run.take(*stream()[4])
    assert len(told(run)) == 1


def test_of_another_definition_nothing_is_taken(tmp_path: Path) -> None:
    run = begin(tmp_path)
    for position, record in stream()[:4]:
        run.take(position, record)
    run.log.flush()
    run = begin(tmp_path, RULE, MANY.replace("60s", "61s"))
    assert [state.total for state in run.pipeline.correlating.correlator.states.values()] == [0]


@pytest.mark.parametrize("name", [CHECKPOINT, JOURNAL])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "noise"])
def test_what_is_damaged_is_not_believed_and_stops_nothing(tmp_path: Path, name: str, damage: str) -> None:
    run = begin(tmp_path)
    for position, record in stream()[:4]:
        run.take(position, record)
    run.log.flush()
    path = tmp_path / name
    content = path.read_bytes()
    changed = {
        "cut": content[:-3],
        "flipped": content[:-20] + bytes((content[-20] ^ 0xFF,)) + content[-19:],
        "empty": b"",
        "noise": os.urandom(300),
    }
    path.write_bytes(changed[damage])
    run = begin(tmp_path)
    said = [line for line in run.lines() if line["kind"] == "notice" and "cannot be read" in line["text"]]
    assert bool(said) is (name == CHECKPOINT)
    run.take(*stream()[4])
    run.take(*stream()[5])
    run.take(*stream()[6])
    assert len(told(run)) == 1


@pytest.mark.parametrize("silent", [False, True])
def test_a_window_that_closed_is_told_once(tmp_path: Path, silent: bool) -> None:
    """`silent`: nothing is answered, so that the log is flushed once, and the journal does not have the closing yet."""
    run = begin(tmp_path, RULE, FEW)
    for position, record in stream()[:4]:
        run.take(position, record)
    run.log.flush()
    now = max(state.rule.timespan_ns for state in run.pipeline.correlating.correlator.states.values()) + 10**17
    run.acting.silent = silent
    (found,) = run.pipeline.correlating.tick(now)
    run.pipeline._detected(found)
    run.log.flush()
    again = begin(tmp_path, RULE, FEW)
    found_again = again.pipeline.correlating.tick(now)
    assert bool(found_again) is silent
    for found in found_again:
        again.pipeline._detected(found)
    assert len(told(again)) == 1, "the log's end says that it was told"
    again.log.flush()
    again.take(*stream()[4])
    again.log.flush()
    third = begin(tmp_path, RULE, FEW)
    (state,) = third.pipeline.correlating.correlator.states.values()
    assert state.total == 1
    assert [len(group.items) for groups in state.groups.values() for _, group in groups.values()] == [1]


def test_without_room_nothing_is_left_that_would_be_wrong(tmp_path: Path) -> None:
    run = begin(tmp_path)
    memory = Memory("/proc/nowhere")
    run.pipeline.correlating.remember(memory, None, run.log)
    assert run.counted("pinfold_correlation_state_failures_total") == 1
    for position, record in stream():
        run.take(position, record)
    assert len(told(run)) == 1


def test_partial_until_a_timespan_was_seen_also_over_a_restart(tmp_path: Path) -> None:
    rules = engine(*ENGINE).correlations
    first = Correlator(rules, 1000 * SECOND)
    memory = Memory(str(tmp_path))
    memory.checkpoint(first)
    second = Correlator(rules, 2000 * SECOND)
    assert Memory(str(tmp_path)).restore(second, None)
    assert [state.since_ns for state in second.states.values()] == [1000 * SECOND]
