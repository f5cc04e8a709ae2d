"""State is bounded whatever a sandbox does: oldest first, its own first, and counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.rules.correlation import correlator as limits
from sensor.rules.correlation import subject
from sensor.rules.correlation.correlator import State
from tests.export import samples
from tests.rules.correlation.stream import SECOND, START, Stream, correlation, named

BY_USER = "type: event_count\nrules: a\ngroup-by: User\ntimespan: 10s\ncondition: {gte: 2}"


def state(run: Stream) -> State:
    (found,) = run.correlator.states.values()
    return found


def test_one_sandbox_does_not_push_out_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_GROUPS", 80)
    run = Stream(named("a"), correlation(BY_USER))
    run.take("a", 0, User="quiet", SandboxId=1)
    for number in range(1000):
        run.take("a", 1 + number / 1000, User=f"u{number}", SandboxId=2)
    assert {sandbox: len(groups) for sandbox, groups in state(run).groups.items()} == {1: 1, 2: 10}
    assert run.counted == {"groups": 990}
    assert run.take("a", 3, User="quiet", SandboxId=1) != []
    assert run.take("a", 3, User="u999", SandboxId=2) != []
    assert run.take("a", 3, User="u0", SandboxId=2) == []


def test_many_sandboxes_push_out_the_oldest_of_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_GROUPS", 80)
    run = Stream(named("a"), correlation(BY_USER))
    for number in range(1000):
        run.take("a", number / 1000, User=f"u{number}", SandboxId=number % 50)
    assert state(run).total == 80
    assert run.counted == {"groups": 920}
    assert run.take("a", 1, User="u999", SandboxId=49) != []


def test_the_whole_is_bounded_by_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_COST", 300)
    many = BY_USER.replace("gte: 2", "gte: 100")
    run = Stream(named("a"), correlation(many))
    for number in range(400):
        run.take("a", number / 100, User=f"u{number % 20}")
        assert state(run).cost <= 300
    assert run.counted["groups"] > 0
    for key in list(state(run).groups):
        held = state(run).groups[key]
        assert state(run).cost == sum(limits.cost(group) for _, group in held.values())


def test_a_group_is_bounded_and_counts_on() -> None:
    run = Stream(named("a"), correlation("type: event_count\nrules: a\ntimespan: 10m\ncondition: {gte: 5000}"))
    fired = [number for number in range(6000) if run.take("a", number / 100)]
    assert fired == [4999]
    ((_, group),) = state(run).groups[7].values()
    assert len(group.items) <= 1024


def test_groups_go_when_nothing_can_come_of_them() -> None:
    run = Stream(named("a"), correlation(BY_USER))
    for number in range(50):
        run.take("a", number / 10, User=f"u{number}")
    run.tick(11)
    assert state(run).total == 50
    run.tick(30)
    assert (state(run).total, state(run).cost, state(run).groups) == (0, 0, {})


names = st.sampled_from("ab")
numbers = st.integers(-(1 << 63), (1 << 64) - 1)
HOSTILE = (
    "type: event_count\nrules: [a, b]\ngroup-by: [User, Uid]\ntimespan: 5s\ncondition: {gte: 2}",
    "type: value_count\nrules: [a, b]\ntimespan: 5s\ncondition: {gte: 2, field: [User, Uid]}",
    "type: value_sum\nrules: [a, b]\ntimespan: 5s\ncondition: {gte: 2, field: Uid}",
    "type: value_avg\nrules: [a, b]\ntimespan: 5s\ncondition: {gte: 2, field: Uid}",
    "type: value_percentile\nrules: [a, b]\ntimespan: 5s\ncondition: {lt: 9, field: Uid, percentile: 99}",
    "type: temporal_ordered\nrules: [a, b]\ngroup-by: User\ntimespan: 5s",
    "type: temporal\ngroup-by: User\ntimespan: 5s\ncondition: a and not b",
)
_RUNS: dict[str, Any] = {}


@pytest.mark.parametrize("body", HOSTILE)
@given(events=st.lists(st.tuples(names, st.integers(-20, 200), st.text(max_size=5), numbers), max_size=30))
@settings(max_examples=20)
def test_nothing_that_a_sandbox_writes_raises(body: str, events: list[tuple[str, int, str, int]]) -> None:
    if body not in _RUNS:
        _RUNS[body] = Stream(named("a"), named("b"), correlation(body))
    run = _RUNS[body]
    run.correlator.newest_ns = state(run).sweep_ns = 0
    for name, at, text, number in events:
        run.take(name, at / 10, User=text, Uid=number)
    run.tick(100)
    run.tick(200)
    assert state(run).total == 0


@pytest.mark.parametrize("make", samples.EVERY_ACTIVITY)
def test_a_subject_says_who_it_was(make: Any) -> None:
    made = make(CommandLine="x" * 9000, raw={"Image": b"\xff"})
    packed = subject.pack(made)
    again = subject.unpack(packed)
    assert again is not None
    assert type(again) is type(made)
    assert (again.ProcessGuid, again.monotonic_ns, again.CommandLine, again.raw) == (
        made.ProcessGuid,
        made.monotonic_ns,
        "x" * 256,
        None,
    )
    assert subject.unpack(packed[:-1]) is None
    assert subject.unpack(b"") is None


def test_times_of_the_stream_are_what_they_seem() -> None:
    run = Stream(named("a"), correlation(BY_USER))
    assert run.event("a", 1.5).monotonic_ns == START + 1.5 * SECOND
