"""What is wrong with a correlation is refused with its line and the reason, and the rest is loaded."""

from __future__ import annotations

import pytest

from tests.rules.correlation.stream import correlation, named, refusal
from tests.rules.helpers import build

COUNT = "type: event_count\nrules: a\ntimespan: 10s\ncondition: {gte: 3}"
SUM = "type: value_sum\nrules: a\ntimespan: 10s\ncondition: {gte: 3, field: Uid}"


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        (COUNT.replace("rules: a", "rules: z"), 6, "refers to 'z', which no loaded rule has as its id or name"),
        (COUNT.replace("10s", "10"), 7, "Timespan '10' is invalid."),
        (COUNT.replace("10s", "0m"), 7, "Timespan '0m' must be greater than zero."),
        (COUNT.replace("10s", "2M"), 7, "timespan '2M' is longer than 30 days"),
        (COUNT.replace("timespan: 10s\n", ""), 4, "Sigma correlation rule without timespan"),
        (COUNT.replace("event_count", "event_cuont"), 5, "'event_cuont' is no valid Sigma correlation type"),
        (COUNT.replace("{gte: 3}", "{gte: x}"), 8, "'x' is no valid Sigma correlation condition count"),
        (COUNT.replace("{gte: 3}", "{gte: true}"), 8, "gte is no number"),
        (
            COUNT.replace("{gte: 3}", "{around: 3}"),
            8,
            "Sigma correlation condition must have exactly one condition item",
        ),
        (COUNT.replace("{gte: 3}", "{lt: 0}"), 8, "lt 0 can never hold"),
        (COUNT + "\ngroup-by: Usre", 9, "process_creation has no field 'Usre'; did you mean 'User'?"),
        (COUNT + "\nfield: x", 9, "correlation has no 'field'"),
        (COUNT + "\ngenerate: perhaps", 9, "Sigma correlation generate definition must be a boolean"),
        (COUNT + "\naliases: {who: {z: User}}", 9, "alias 'who' names 'z', which is not among its rules"),
        (SUM.replace("Uid", "User"), 8, "User of process_creation is text, not a number"),
        (SUM.replace(", field: Uid", ""), 8, "Value sum correlation rule without field reference"),
        (SUM.replace("sum", "percentile"), 8, "value_percentile needs a percentile from 1 to 100"),
        (SUM.replace("sum", "count").replace("3", "5000"), 8, "gte 5000: no more than 4096 values are told apart"),
        ("type: temporal\nrules: a\ntimespan: 10s\ncondition: {gte: 2}", 8, "gte 2: there are 1 rules only"),
        ("type: temporal\ntimespan: 10s\ncondition: a and (b", 7, "Failed to parse extended condition expression"),
        ("type: temporal\ntimespan: 10s\ncondition: not a", 7, "the condition holds where nothing happens, or never"),
        ("type: temporal\ntimespan: 10s\nrules: [a]\ncondition: a and b", 8, "Rules referenced in extended condition"),
        ("type: event_count\nrules: [{}]\ntimespan: 10s\ncondition: {gte: 3}", 6, "rules are names or ids of rules"),
    ],
)
def test_refused(body: str, line: int, reason: str) -> None:
    place, _, said = refusal(named("a"), correlation(body)).partition(": ")
    assert said.startswith(reason)
    assert place == f"001:{line}"


def test_a_circle_is_refused_and_whoever_refers_to_it() -> None:
    texts = [
        f"name: {name}\n" + correlation(COUNT.replace("rules: a", f"rules: {other}"), title=name)
        for name, other in (("x", "y"), ("y", "z"), ("z", "x"), ("w", "x"))
    ]
    ruleset = build(named("a"), *texts)
    assert len(ruleset.rules) == 1
    assert ruleset.correlations == ()
    said = [line.partition(": ")[2] for line in ruleset.refused]
    assert said[0] == "refers to itself: x → y → z → x"
    assert said[1:] == [
        "refers to 'z', which is refused",
        "refers to 'y', which is refused",
        "refers to 'x', which is refused",
    ]


def test_what_a_refused_correlation_refers_to_detects_by_itself() -> None:
    ruleset = build(named("a"), correlation(COUNT + "\ngroup-by: nothing"))
    assert len(ruleset.refused) == 1
    assert ruleset.silent == ()


def test_generate_lets_the_rules_detect_too() -> None:
    ruleset = build(named("a"), correlation(COUNT + "\ngenerate: true"))
    assert ruleset.silent == ()
    assert [each.generate for each in ruleset.correlations] == [True]


def test_one_id_or_name_for_two_is_refused() -> None:
    text = correlation(COUNT)
    (line,) = build(named("a"), text, text.replace("a correlation", "again")).refused
    assert "is also that of" in line
    (line,) = build(named("a"), "name: a\n" + text).refused
    assert "name 'a' is also that of" in line


def test_a_condition_that_stands_for_too_much_is_refused() -> None:
    names = [f"r{n}" for n in range(16)]
    text = " and ".join(f"({a} or {b})" for a, b in zip(names[::2], names[1::2], strict=True))
    body = f"type: temporal\ntimespan: 10s\ncondition: {text}"
    (line,) = build(*map(named, names), correlation(body)).refused
    assert "stands for more than 64 alternatives" in line


def test_the_digest_is_that_of_all_that_decides() -> None:
    def digest(*texts: str) -> str:
        (found,) = build(*texts).correlations
        return found.digest

    text, rule = correlation(COUNT), named("a")
    assert digest(rule, text) == digest(rule, text.replace("a correlation", "another title"))
    assert digest(rule, text) != digest(rule, text.replace("gte: 3", "gte: 4"))
    assert digest(rule, text) != digest(rule.replace("CommandLine: a", "CommandLine: ab"), text)
