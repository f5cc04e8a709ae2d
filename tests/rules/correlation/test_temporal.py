"""Several rules within a timespan: together, in order, by a boolean condition, and correlations of correlations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.rules.ruleset import Ruleset
from tests.rules.correlation.stream import Stream, correlation, named
from tests.rules.helpers import build

ABC = (named("a"), named("b"), named("c"))
TOGETHER = correlation("type: temporal\nrules: [a, b, c]\ntimespan: 10s")
ORDERED = correlation("type: temporal_ordered\nrules: [a, b, c]\ntimespan: 10s")


def fires(run: Stream, steps: Sequence[tuple[float, str]]) -> list[float]:
    return [at for at, name in steps if run.take(name, at)]


def condition(text: str, kind: str = "temporal") -> Stream:
    return Stream(*ABC, correlation(f"type: {kind}\ntimespan: 10s\ncondition: {text}"))


def test_all_rules_in_any_order() -> None:
    assert fires(Stream(*ABC, TOGETHER), [(0, "c"), (1, "c"), (3, "a"), (9, "b")]) == [9]
    assert fires(Stream(*ABC, TOGETHER), [(0, "c"), (3, "a"), (10, "b")]) == []
    assert fires(Stream(*ABC, TOGETHER), [(0, "c"), (3, "a"), (10, "b"), (12, "c")]) == [12]


def test_a_number_of_rules_will_do() -> None:
    two = correlation("type: temporal\nrules: [a, b, c]\ntimespan: 10s\ncondition: {gte: 2}")
    assert fires(Stream(*ABC, two), [(0, "c"), (1, "c"), (3, "a"), (4, "b")]) == [3]
    two = two.replace("temporal", "temporal_ordered")
    assert fires(Stream(*ABC, two), [(0, "c"), (1, "b"), (2, "a"), (3, "c")]) == [3]


def test_in_order_and_from_its_latest_beginning() -> None:
    assert fires(Stream(*ABC, ORDERED), [(0, "b"), (1, "a"), (2, "c"), (3, "b"), (4, "c")]) == [4]
    assert fires(Stream(*ABC, ORDERED), [(0, "a"), (5, "a"), (6, "b"), (12, "c")]) == [12]
    assert fires(Stream(*ABC, ORDERED), [(0, "a"), (1, "b"), (10, "c")]) == []
    assert fires(Stream(*ABC, ORDERED), [(0, "a"), (5, "b"), (6, "a"), (12, "c")]) == []


def test_a_sequence_whose_events_arrive_in_disorder() -> None:
    assert fires(Stream(*ABC, ORDERED), [(2, "c"), (1, "b"), (0.5, "a")]) == [0.5]
    assert fires(Stream(*ABC, ORDERED), [(0, "a"), (2, "c"), (1, "b")]) == [1]


def test_the_same_rule_twice_in_a_sequence_wants_two_events() -> None:
    twice = correlation("type: temporal_ordered\nrules: [a, a, b]\ntimespan: 10s")
    assert fires(Stream(*ABC, twice), [(0, "a"), (1, "b"), (2, "a"), (3, "b")]) == [3]


def test_boolean_conditions() -> None:
    assert fires(condition("a and (b or c)"), [(0, "b"), (1, "c"), (2, "a")]) == [2]
    assert fires(condition("(a or b) and c", "temporal_ordered"), [(0, "c"), (1, "b"), (2, "c")]) == [2]


def test_what_must_not_happen_is_asked_when_the_window_has_closed() -> None:
    run = condition("a and not b")
    assert fires(run, [(0, "a"), (3, "c")]) == []
    assert run.tick(11.9) == []
    (fired,) = run.tick(12)
    assert fired.activity is not None
    assert (fired.activity.CommandLine, fired.activity.position) == ("a", 8)
    assert run.tick(100) == []
    run = condition("a and not b")
    fires(run, [(0, "a"), (9.9, "b")])
    assert run.tick(12) == []


def test_not_then_in_a_sequence() -> None:
    run = condition("a and c and not b", "temporal_ordered")
    fires(run, [(0, "a"), (1, "c")])
    assert len(run.tick(12)) == 1
    fires(run, [(20, "c"), (21, "a")])
    assert run.tick(40) == []


def test_a_correlation_of_correlations_by_the_group_of_the_inner() -> None:
    inner = "name: {0}\n" + correlation(
        "type: event_count\nrules: {1}\ngroup-by: User\ntimespan: 10s\ncondition: {{gte: 2}}"
    )
    texts = [inner.format(f"many_{each}", each).replace("a correlation", f"many {each}") for each in "ab"]
    texts = [
        text.replace(text.split("id: ")[1][:36], f"00000000-0000-4000-8000-00000000000{n}")
        for n, text in enumerate(texts)
    ]
    outer = correlation("type: temporal_ordered\nrules: [many_a, many_b]\ngroup-by: User\ntimespan: 60s", title="outer")
    run = Stream(*ABC, outer, *texts)
    assert len(run.engine.silent) == 4
    assert [len(run.take(*each, User="x")) for each in (("a", 0), ("a", 1), ("b", 2))] == [0, 1, 0]
    assert [fired.correlation.title for fired in run.take("b", 3, User="x")] == ["many b", "outer"]
    run = Stream(*ABC, outer, *texts)
    titles = [
        fired.correlation.title
        for name, at, user in (("a", 0, "x"), ("a", 1, "x"), ("b", 2, "y"), ("b", 3, "y"))
        for fired in run.take(name, at, User=user)
    ]
    assert titles == ["many a", "many b"]


def test_aliases_join_fields_of_different_names() -> None:
    rule = correlation(
        "type: temporal\nrules: [a, b]\ntimespan: 10s\ngroup-by: who\n"
        "aliases:\n  who: {a: ProcessId, b: ParentProcessId}"
    )
    run = Stream(*ABC[:2], rule)
    assert run.take("a", 0, ProcessId=5, ParentProcessId=1) == run.take("b", 1, ProcessId=5, ParentProcessId=1) == []
    (fired,) = run.take("b", 2, ProcessId=6, ParentProcessId=5)
    assert fired.values == (5,)


_MADE: dict[str, Ruleset] = {}


def _ruleset(kind: str) -> Ruleset:
    if kind not in _MADE:
        _MADE[kind] = build(*ABC, TOGETHER if kind == "temporal" else ORDERED)
    return _MADE[kind]


def _sequence(seen: list[tuple[int, str]], now: int) -> bool:
    """Whether `abc` ends now, by trying every beginning."""
    for first, _ in (each for each in seen if each[1] == "a"):
        if now - first < 100:
            seconds = [at for at, name in seen if name == "b" and at >= first]
            if any(at <= now for at in seconds):
                return True
    return False


@pytest.mark.parametrize("kind", ["temporal", "temporal_ordered"])
@given(steps=st.lists(st.tuples(st.integers(1, 45), st.sampled_from("abc")), max_size=40))
@settings(max_examples=60)
def test_as_a_plain_reading_has_it(kind: str, steps: list[tuple[int, str]]) -> None:
    run = Stream(ruleset=_ruleset(kind))
    now, quiet, seen, expected, found = 0, -1000, list[tuple[int, str]](), list[int](), list[int]()
    for number, (gap, name) in enumerate(steps):
        now += gap
        seen.append((now, name))
        inside = {each for at, each in seen if at > now - 100}
        whole = len(inside) == 3 if kind == "temporal" else name == "c" and _sequence(seen, now)
        if whole and now >= quiet:
            expected.append(number)
            quiet = now + 100
        if run.take(name, now / 10):
            found.append(number)
    assert found == expected
