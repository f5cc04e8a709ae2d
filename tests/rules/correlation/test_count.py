"""Counts, sums and distinct values: when they fire, when not, and when again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rules.correlation.stream import Stream, correlation, named
from tests.rules.helpers import build

COUNT = correlation("type: event_count\nrules: a\ntimespan: 10s\ncondition: {gte: 3}")


def test_the_third_within_the_timespan_fires_and_the_rule_itself_is_silent() -> None:
    run = Stream(named("a"), COUNT)
    (rule,) = run.engine.rules
    assert run.engine.silent == {rule.id}
    assert run.take("a", 0) == run.take("b", 1) == run.take("a", 5) == []
    (fired,) = run.take("a", 9.9)
    assert (fired.found.count, len(fired.found.items), fired.values) == (3, 3, ())
    assert [item.position for item in fired.found.items] == [8, 24, 32]


def test_an_event_exactly_as_old_as_the_timespan_is_out() -> None:
    run = Stream(named("a"), COUNT)
    assert [run.take("a", at) for at in (0, 5, 10)] == [[], [], []]
    assert run.take("a", 14.999999999) != []


def test_it_fires_once_and_again_when_all_that_it_fired_on_is_out() -> None:
    run = Stream(named("a"), COUNT)
    fired = [at for at in range(0, 40) if run.take("a", at)]
    assert fired == [2, 12, 22, 32]


def test_a_late_event_counts_where_it_belongs() -> None:
    run = Stream(named("a"), COUNT)
    assert run.take("a", 0) == run.take("a", 9) == run.take("a", 11) == []
    (fired,) = run.take("a", 9.5)  # with 0 and 9; with 9 and 11
    assert (fired.found.first_ns, fired.found.last_ns) == (fired.found.items[0].time_ns, fired.found.items[-1].time_ns)
    run = Stream(named("a"), COUNT)
    run.take("a", 100)
    assert run.take("a", 80) == []
    assert run.counted == {"late": 1}


def test_sandboxes_are_apart_unless_the_rule_says_otherwise() -> None:
    run = Stream(named("a"), COUNT)
    assert [run.take("a", at, SandboxId=at) for at in range(5)] == [[]] * 5
    wide = correlation(
        "type: event_count\nrules: a\ntimespan: 10s\ncondition: {gte: 3}", custom={"across_sandboxes": True}
    )
    run = Stream(named("a"), wide)
    assert [bool(run.take("a", at, SandboxId=at)) for at in range(3)] == [False, False, True]


def test_groups_are_apart_and_shown() -> None:
    run = Stream(
        named("a"),
        correlation("type: event_count\nrules: a\ngroup-by: [User, Uid]\ntimespan: 10s\ncondition: {gte: 2}"),
    )
    assert (
        run.take("a", 0, User="x", Uid=1)
        == run.take("a", 1, User="x", Uid=2)
        == run.take("a", 2, User="y", Uid=1)
        == []
    )
    (fired,) = run.take("a", 3, User="y", Uid=1)
    assert fired.values == ("y", 1)


def test_a_long_value_is_cut_and_still_told_apart() -> None:
    run = Stream(
        named("a"), correlation("type: event_count\nrules: a\ngroup-by: User\ntimespan: 10s\ncondition: {gte: 2}")
    )
    assert run.take("a", 0, User="x" * 9000 + "1") == run.take("a", 1, User="x" * 9000 + "2") == []
    (fired,) = run.take("a", 2, User="x" * 9000 + "2")
    assert len(str(fired.values[0])) <= 128


def test_counted_repeats_add_up() -> None:
    run = Stream(
        named("a", "network_connection"),
        correlation("type: event_count\nrules: a\ntimespan: 10s\ncondition: {gt: 100}"),
    )
    assert run.take("a", 0, "network_connection", Count=60) == run.take("a", 1, "network_connection", Count=40) == []
    (fired,) = run.take("a", 2, "network_connection", Count=1)
    assert fired.found.count == 101


def test_a_sum_and_the_sum_of_repeats() -> None:
    rule = "type: value_sum\nrules: a\ntimespan: 10s\ncondition: {gte: 1000, field: BytesOut}"
    run = Stream(named("a", "network_flow"), correlation(rule))
    assert run.take("a", 0, "network_flow", BytesOut=400, Count=1) == []
    (fired,) = run.take("a", 1, "network_flow", BytesOut=300, Count=2)
    assert fired.found.count == 1000
    run = Stream(named("a", "network_flow"), correlation(rule.replace("BytesOut", "Count")))
    (fired,) = run.take("a", 1, "network_flow", Count=1000)
    assert fired.found.count == 1000


def test_distinct_values_count_once_while_they_are_in_the_window() -> None:
    rule = "type: value_count\nrules: a\ntimespan: 10s\ncondition: {gte: 3, field: User}"
    run = Stream(named("a"), correlation(rule))
    assert [run.take("a", at, User=user) for at, user in enumerate("xyxyxy")] == [[]] * 6
    assert run.take("a", 6, User="z") != []
    run = Stream(named("a"), correlation(rule))
    assert [run.take("a", at, User=user) for at, user in ((0, "x"), (1, "y"), (10, "z"))] == [[]] * 3


@pytest.mark.parametrize("kind", ["event_count", "value_count"])
@given(data=st.data())
@settings(max_examples=60)
def test_as_a_plain_reading_of_the_window_has_it(kind: str, data: st.DataObject) -> None:
    """In order, against a reference that keeps everything."""
    field = ", field: Uid" if kind == "value_count" else ""
    ruleset = _built(kind, field)
    run = Stream(ruleset=ruleset)
    steps = data.draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), max_size=60))
    now, seen, quiet, expected, found = 0, list[tuple[int, int]](), -1000, list[int](), list[int]()
    for number, (gap, value) in enumerate(steps):
        now += gap
        seen.append((now, value))
        inside = [each for at, each in seen if at > now - 100]
        size = len(set(inside)) if kind == "value_count" else len(inside)
        if size >= 4 and now >= quiet:
            expected.append(number)
            quiet = now + 100
        if run.take("a", now / 10, Uid=value):
            found.append(number)
    assert found == expected


_MADE: dict[str, object] = {}


def _built(kind: str, field: str):  # type: ignore[no-untyped-def]
    if kind not in _MADE:
        rule = f"type: {kind}\nrules: a\ntimespan: 10s\ncondition: {{gte: 4{field}}}"
        _MADE[kind] = build(named("a"), correlation(rule))
    return _MADE[kind]
