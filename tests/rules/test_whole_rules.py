"""What a rule says besides its detection, and what rule sets as a whole may not do."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from sensor.rules import sigma
from sensor.rules.document import MAX_NODES
from sensor.rules.engine import Engine
from sensor.rules.fields import CATEGORIES
from sensor.rules.files import MAX_FILE_BYTES
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

TOP = Path(__file__).resolve().parents[2]
DETECTION = "s:\n  Image: /x\ncondition: s"
EVERYTHING = """\
title: A rule that says all
name: says_all
id: 6f3e2987-db24-4c78-a860-b4f4095a7095
related:
  - {id: 6f3e2987-db24-4c78-a860-b4f4095a7096, type: similar}
  - {id: 6f3e2987-db24-4c78-a860-b4f4095a7097, type: obsolete}
taxonomy: sigma
status: stable
description: |
  Two
  lines.
license: Apache-2.0
author: somebody
references: [https://example.test/]
date: 2026-11-30
modified: 2026-12-01
logsource: {category: process_creation, product: linux, definition: 'As it comes'}
detection:
  s: {Image: /x}
  condition: s
fields: [Image]
falsepositives: [none]
level: critical
tags: [attack.execution, attack.t1059.004, cve.2021-44228, detection.threat-hunting]
scope: [server, workstation]
simulation: [{type: atomic-red-team, name: x}]
custom: {anything: [1, 2]}
"""


def test_all_attributes_of_the_specification_are_taken() -> None:
    ruleset = build(EVERYTHING)
    assert (ruleset.refused, ruleset.warnings, ruleset.dormant) == ((), (), ())
    (rule,) = ruleset.rules
    assert (rule.title, rule.level, rule.status) == ("A rule that says all", "critical", "stable")
    assert rule.tags[1] == "attack.t1059.004"
    assert rule.description.split() == ["Two", "lines."]


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("name: says_all", "name: [a]", 1, "name"),
        ("type: similar", "type: cousin", 4, "cousin"),
        ("related:\n", "related: x\nother:\n", 4, "related"),
        ("taxonomy: sigma", "taxonomy: 5", 7, "taxonomy"),
        ("license: Apache-2.0", "license: [x]", 12, "license"),
        ("scope: [server, workstation]", "scope: server", 25, "scope"),
        ("category: process_creation, product", "category: [a], product", 17, "category is not text"),
        ("product: linux", "product: 5", 17, "product is not text"),
        (
            "logsource: {category: process_creation, product: linux, definition: 'As it comes'}",
            "logsource: {}",
            17,
            "no",
        ),
        ("detection:\n  s: {Image: /x}", "detection:\n  s: {Image: {a: 1}}", 19, "values are text"),
        ("detection:\n  s: {Image: /x}", "detection:\n  s: [[]]", 19, "is empty, or neither"),
    ],
)
def test_an_attribute_of_the_wrong_type_is_refused(old: str, new: str, line: int, reason: str) -> None:
    assert old in EVERYTHING
    (said,) = build(EVERYTHING.replace(old, new)).refused
    place, _, why = said.partition("r000.yml:")[2].partition(": ")
    assert reason in why.lower()
    assert int(place) == line


def test_one_id_for_two_rules_is_refused_also_where_one_is_dormant() -> None:
    dormant = EVERYTHING.replace("Image: /x", "Nope: /x")
    for pair in ((EVERYTHING, dormant), (dormant, EVERYTHING), (dormant, dormant)):
        ruleset = build(*pair)
        assert len(ruleset.refused) == 1
        assert "r001.yml:1: id 6f3e2987-db24-4c78-a860-b4f4095a7095 is also that of" in ruleset.refused[0]


def test_a_list_of_thousands_is_one_look_up_and_one_that_is_too_long_is_refused() -> None:
    values = [f"/opt/{i:05}/tool" for i in range(20_000)]
    ruleset = build(rule_text(f"s:\n  Image: [{', '.join(values)}]\ncondition: s"))
    assert ruleset.refused == ()
    for engine in (Engine(ruleset), Engine(ruleset, prefilter=False)):
        assert engine.match(activity("process_creation", {"Image": values[-1]}))
        assert not engine.match(activity("process_creation", {"Image": "/opt/tool"}))
    many = "\n".join(["s:", "  ProcessId:", *(f"  - {i}" for i in range(MAX_NODES)), "condition: s"])
    assert len(many) < MAX_FILE_BYTES
    (said,) = build(rule_text(many)).refused
    assert "too large or too deep" in said


def test_a_rule_too_deep_for_python_is_refused_and_the_others_go_on() -> None:
    nested = "(" * 90 + "s" + " or s)" * 90
    ruleset = build(rule_text(f"s:\n  Image: /x\ncondition: {nested}"), rule_text(DETECTION))
    assert len(ruleset.rules) + len(ruleset.refused) == 2
    assert any("r001.yml" in rule.file for rule in ruleset.rules)


@pytest.mark.parametrize("category", list(CATEGORIES))
def test_events_that_lack_everything_or_hold_odd_text_raise_nothing(category: str) -> None:
    ruleset = sigma.build([TOP / "tests/data/foreign", TOP / "rules/escape"])
    kind = CATEGORIES[category]
    neutral = activity(category, {})
    texts = [f.name for f in structs.fields(kind) if isinstance(getattr(neutral, f.name), str)]
    for engine in (Engine(ruleset), Engine(ruleset, prefilter=False)):
        for odd in ("", "\0", "\ud800", "\N{COMBINING ACUTE ACCENT}" * 99, "%s{}\n\r\x1b[0m", "ŉﬃ" * 50):
            changes = dict.fromkeys(texts, odd)
            if category == "process_creation":
                changes["argv"] = odd.encode("utf-8", "surrogatepass") * 3  # type: ignore[assignment]
            engine.match(structs.replace(neutral, **changes))
        assert engine.errors == {}
        assert engine.index_errors == 0
