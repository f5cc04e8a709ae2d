"""`|expand`: what a placeholder stands for comes from the configuration, wherever in a value it stands."""

from __future__ import annotations

import pytest

from sensor.rules.engine import Engine
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

VALUES = {"tools": ["nc", "so*t"], "dir": ["/opt", "/srv"], "none": [], "re": ["a+", "b|c"], "star": [r"\*"]}


def matched(item: str, text: str) -> bool:
    ruleset = build(rule_text(f"s:\n  {item}\ncondition: s"), placeholders=VALUES)
    assert ruleset.refused == ()
    event = activity("process_creation", {"CommandLine": text})
    found = {bool(Engine(ruleset, prefilter=way).match(event)) for way in (True, False)}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("item", "hit", "miss"),
    [
        ("CommandLine|expand: '%tools%'", "NC", "nc x"),
        ("CommandLine|expand: '%tools%'", "socat", "nosocat"),
        ("CommandLine|expand|contains: '%tools%'", "x nc x", "x n x"),
        ("CommandLine|contains|expand: '%tools%'", "x nc x", "x n x"),
        ("CommandLine|expand|endswith: '%dir%/%tools%'", "exec /srv/nc", "exec /srv/x/nc"),
        ("CommandLine|expand|contains|all: ['%dir%', ' -l']", "/opt/x -l", "-l"),
        ("CommandLine|expand|cased: '%tools%'", "nc", "NC"),
        ("CommandLine|expand|windash|startswith: '%tools% -l'", "nc /l", "nc l"),
        ("CommandLine|expand: ['%tools%', other, '100%']", "100%", "100"),
        ("CommandLine|re|expand: 'x(%re%)y'", "xaay", "xy"),
        ("CommandLine|re|expand: 'x(%re%)*y'", "xccy", "xdy"),
        ("CommandLine|expand: '%star%x'", "*x", "ax"),
        ("CommandLine|expand|neq: '%tools%'", "x", "nc"),
        ("'|expand': '%dir%'", "ls /opt/x", "ls /"),
    ],
)
def test_a_placeholder_is_any_of_its_values(item: str, hit: str, miss: str) -> None:
    assert matched(item, hit)
    assert not matched(item, miss)


def test_one_without_values_matches_nothing() -> None:
    ruleset = build(rule_text("s:\n  Image|expand: '%none%'\ncondition: s"), placeholders=VALUES)
    assert (ruleset.refused, ruleset.rules, len(ruleset.dormant)) == ((), (), 1)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("Image|expand: '%nobody%'", "placeholder %nobody% has no value: give it one under rules, placeholders"),
        ("Nowhere|re|expand: 'a%nobody%'", "placeholder %nobody% has no value"),
        ("Image|expand|base64: '%tools%'", "a placeholder cannot be encoded"),
        ("Image|expand: '" + "%many%" * 4 + "'", "the placeholders stand for more than 10000 texts"),
        ("Image|re|expand: 'a[%tools%'", "Regular expression 'a[%tools%' is invalid"),
    ],
)
def test_what_cannot_be_filled_is_refused(item: str, reason: str) -> None:
    many = {**VALUES, "many": [str(i) for i in range(20)]}
    (said,) = build(rule_text(f"s:\n  {item}\ncondition: s"), placeholders=many).refused
    assert "r000.yml:9: " in said
    assert reason in said
