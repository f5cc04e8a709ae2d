"""Filters narrow the rules they name, in every category; collections share what they say once."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from sensor.rules.engine import Engine
from sensor.rules.ruleset import Ruleset
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

ID = "6f3e2987-db24-4c78-a860-b4f4095a7095"
RULE = rule_text("s:\n  Image|endswith: /curl\ncondition: s", rule_id=ID)
NAMED = RULE.replace("title: a rule", "title: a rule\nname: a_curl")
FILTER = """\
title: not ours
id: 2f7ed1b0-2ec3-4a8c-a7d0-64a6d0b2f7a1
logsource:
  category: process_creation
  product: linux
filter:
  rules: [%s]
  sel_user:
    User: ci
  sel_folder:
    CurrentDirectory|startswith: /srv/ci/
  condition: not 1 of sel_*
"""
ANY = FILTER.replace("[%s]", "any")
CURL = {"Image": "/usr/bin/curl"}


def matched(ruleset: Ruleset, event: dict[str, Any], category: str = "process_creation") -> bool:
    assert ruleset.refused == ()
    engines = [Engine(ruleset), Engine(ruleset, prefilter=False)]
    indexed, plain = (bool(engine.match(activity(category, event))) for engine in engines)
    assert indexed == plain
    return indexed


@pytest.mark.parametrize(
    ("rule", "rules"),
    [(RULE, ID), (RULE, ID.upper()), (NAMED, "a_curl"), (NAMED, "other, a_curl"), (RULE, "")],
)
def test_a_filter_narrows_the_rules_it_names(rule: str, rules: str) -> None:
    for texts in ((rule, FILTER % rules), (FILTER % rules, rule), (f"{rule}---\n{FILTER % rules}",)):
        ruleset = build(*texts)
        assert ruleset.warnings == ()
        assert matched(ruleset, CURL)
        assert not matched(ruleset, CURL | {"User": "ci"})
        assert not matched(ruleset, CURL | {"CurrentDirectory": "/srv/ci/a"})


def test_any_may_stand_alone() -> None:
    assert not matched(build(RULE, ANY), CURL | {"User": "ci"})


@pytest.mark.parametrize(
    ("old", "new"),
    [("[%s]", "[another]"), ("  category: process_creation\n", "  category: dns_query\n"), ("[%s]", "x")],
)
def test_a_filter_that_narrows_nothing_is_a_warning(old: str, new: str) -> None:
    ruleset = build(RULE, FILTER.replace(old, new).replace("[%s]", "any"))
    assert matched(ruleset, CURL | {"User": "ci"})
    (warning,) = ruleset.warnings
    assert warning.endswith("r001.yml:1: the filter narrows no rule")


def test_several_filters_all_hold() -> None:
    other = (FILTER % ID).replace("sel_user:\n    User: ci", "sel_user:\n    User: bob")
    ruleset = build(RULE, FILTER % ID, other)
    assert [matched(ruleset, CURL | {"User": user}) for user in ("ann", "ci", "bob")] == [True, False, False]


def test_a_filter_of_a_service_narrows_every_category_that_a_rule_stands_for() -> None:
    rule = RULE.replace("category: process_creation", "service: auditd").replace("Image|endswith: /curl", "name: /x")
    one = (FILTER % ID).replace("category: process_creation", "service: auditd")
    ruleset = build(rule, one)
    for category, event in (("file_event", {"TargetFilename": "/x"}), ("file_delete", {"TargetFilename": "/x"})):
        assert matched(ruleset, event, category)
        assert not matched(ruleset, event | {"User": "ci"}, category)


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("  rules: any\n", "", 6, "rules are ids or names of rules, or any"),
        ("any", "[5]", 7, "rules are ids or names of rules, or any"),
        ("filter:", "filter: x\nignored:", 6, "filter is not a mapping"),
        ("condition: not 1 of sel_*", "condition: not sel_x", 12, "Detection 'sel_x' not defined"),
        ("condition: not 1 of sel_*", "condition: [sel_user, sel_folder]", 12, "a filter has one condition"),
        ("  condition: not 1 of sel_*\n", "", 6, "has no condition"),
        ("title: not ours\n", "", 1, "title is missing"),
        ("product: linux", "product: windows", 5, "product 'windows' is not linux"),
        ("User: ci", "User|odd: ci", 9, "Unknown modifier 'odd'"),
    ],
)
def test_a_broken_filter_is_refused_and_the_rule_goes_on(old: str, new: str, line: int, reason: str) -> None:
    text = ANY
    assert old in text
    ruleset = build(RULE, text.replace(old, new))
    (said,) = ruleset.refused
    place, _, why = said.partition("r001.yml:")[2].partition(": ")
    assert reason in why
    assert int(place) == line
    assert len(ruleset.rules) == 1


def test_what_a_filter_cannot_be_in_a_category_refuses_the_rule_and_names_both() -> None:
    ruleset = build(RULE, (ANY).replace("User: ci", "User|lt: 5"))
    (said,) = ruleset.refused
    assert "r001.yml:9: User is not a number" in said
    assert "r000.yml:" in said


COLLECTION = """\
action: global
title: a family
level: high
logsource: {category: process_creation, product: linux}
detection:
  common: {User: root}
---
id: 6f3e2987-db24-4c78-a860-b4f4095a7095
detection:
  s: {Image|endswith: /curl}
  condition: s and common
---
id: 6f3e2987-db24-4c78-a860-b4f4095a7096
detection:
  s: {Image|endswith: /wget}
  condition: s and common
---
action: repeat
id: 6f3e2987-db24-4c78-a860-b4f4095a7097
level: low
detection:
  s: {Image|endswith: /aria2c}
---
action: reset
---
title: alone
id: 6f3e2987-db24-4c78-a860-b4f4095a7098
level: low
logsource: {category: process_creation, product: linux}
detection:
  s: {Image|endswith: /axel}
  condition: s
"""


def test_a_collection_shares_what_its_global_document_says() -> None:
    ruleset = build(COLLECTION)
    assert ruleset.refused == ()
    assert [rule.title for rule in ruleset.rules] == ["a family"] * 3 + ["alone"]
    engine = Engine(ruleset)
    for name, of_root, of_ann in (("curl", 1, 0), ("wget", 1, 0), ("axel", 1, 1)):
        for user, count in (("root", of_root), ("ann", of_ann)):
            found = engine.match(activity("process_creation", {"Image": f"/bin/{name}", "User": user}))
            assert len(found) == count, (name, user)


def test_repeat_changes_what_it_names() -> None:
    ruleset = build(COLLECTION)
    (rule,) = Engine(ruleset).match(activity("process_creation", {"Image": "/aria2c", "User": "root"}))
    assert (rule.id[-1], rule.level) == ("7", "low")


def test_faults_of_a_collection_have_the_lines_of_who_made_them() -> None:
    said, repeated = build(COLLECTION.replace("Image|endswith: /wget", "Image|odd: /wget")).refused
    assert "Unknown modifier 'odd'" in repeated
    assert said.partition("r000.yml:")[2].startswith("15: Unknown modifier 'odd'")
    said = build(COLLECTION.replace("User: root", "User|odd: root")).refused[0]
    assert said.partition("r000.yml:")[2].startswith("6: Unknown modifier 'odd'")


def test_a_filter_beside_a_collection_takes_nothing_from_it() -> None:
    text = COLLECTION + "---\n" + textwrap.dedent(ANY)
    ruleset = build(text)
    assert len(ruleset.rules) == 4
    assert not matched(ruleset, {"Image": "/axel", "User": "ci"})
