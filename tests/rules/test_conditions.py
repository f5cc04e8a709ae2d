"""Conditions: and, or, not, quantifiers, lists of maps, nulls."""

from __future__ import annotations

import pytest

from sensor.rules.engine import Engine
from sensor.rules.fields import CATEGORIES
from sensor.rules.testing import activity
from tests.rules.helpers import build, matches, rule_text

THREE = """
sel_a:
  CommandLine|contains: aa
sel_b:
  CommandLine|contains: bb
other:
  CommandLine|contains: cc
"""


@pytest.mark.parametrize(
    ("condition", "hits", "misses"),
    [
        ("sel_a and sel_b", ["aa bb"], ["aa", "bb", "cc"]),
        ("sel_a or sel_b", ["aa", "bb"], ["cc", ""]),
        ("sel_a and not sel_b", ["aa", "aa cc"], ["aa bb", "cc"]),
        ("not sel_a", ["", "bb"], ["aa"]),
        ("not (sel_a or sel_b)", ["cc", ""], ["aa", "bb"]),
        ("not (sel_a and sel_b)", ["aa", "bb", ""], ["aa bb"]),
        ("not not sel_a", ["aa"], ["bb"]),
        ("sel_a or sel_b and other", ["aa", "bb cc"], ["bb", "cc"]),
        ("(sel_a or sel_b) and other", ["aa cc", "bb cc"], ["aa", "aa bb", "cc"]),
        ("1 of sel_*", ["aa", "bb"], ["cc"]),
        ("any of sel_*", ["aa", "bb"], ["cc"]),
        ("all of sel_*", ["aa bb"], ["aa", "aa cc"]),
        ("1 of them", ["aa", "bb", "cc"], ["dd"]),
        ("all of them", ["aa bb cc"], ["aa bb"]),
        ("other and not 1 of sel_*", ["cc"], ["cc aa", "aa"]),
        ("other and 1 of sel_a*", ["cc aa"], ["cc bb"]),
        ("not all of sel_*", ["aa", ""], ["aa bb"]),
        ("[sel_a, sel_b and other]", ["aa", "bb cc"], ["bb", "cc"]),
    ],
)
def test_condition(condition: str, hits: list[str], misses: list[str]) -> None:
    for text in hits:
        assert matches(f"{THREE}condition: {condition}", {"CommandLine": text}), text
    for text in misses:
        assert not matches(f"{THREE}condition: {condition}", {"CommandLine": text}), text


def test_fields_of_one_map_are_all_needed_and_maps_of_a_list_are_alternatives() -> None:
    detection = """
    s:
      - Image|endswith: /ssh
        CommandLine|contains: ' -R'
      - Image|endswith: /chisel
        CommandLine|contains: [' client', ' server']
      - User: root
    condition: s
    """
    assert matches(detection, {"Image": "/usr/bin/ssh", "CommandLine": "ssh -R 1"})
    assert matches(detection, {"Image": "/opt/chisel", "CommandLine": "chisel server"})
    assert matches(detection, {"User": "root"})
    assert not matches(detection, {"Image": "/usr/bin/ssh", "CommandLine": "ssh client"})
    assert not matches(detection, {"Image": "/opt/chisel", "CommandLine": "chisel -R"})


def test_a_list_may_mix_keywords_and_maps() -> None:
    detection = "s:\n  - needle\n  - User: root\ncondition: s"
    assert matches(detection, {"CommandLine": "needle"})
    assert matches(detection, {"User": "root"})
    assert not matches(detection, {"User": "needle"})


@pytest.mark.parametrize(("parent", "matched"), [("", True), ("/bin/sh", True), ("/bin/bash", False)])
def test_null_is_empty_text(parent: str, matched: bool) -> None:
    assert matches("s:\n  ParentImage: [null, /bin/sh]\ncondition: s", {"ParentImage": parent}) == matched


def test_empty_text_and_null_are_the_same() -> None:
    for value in ("''", "null", ""):
        assert matches(f"s:\n  User: {value}\ncondition: s", {"User": ""})
        assert not matches(f"s:\n  User: {value}\ncondition: s", {"User": "u"})


def test_many_conditions_on_flags_and_their_negations() -> None:
    detection = "s:\n  ImageMemfd: true\nf:\n  ImageDeleted: true\n  ImageTmpfs: true\ncondition: s and not f"
    assert matches(detection, {"ImageMemfd": True, "ImageDeleted": True})
    assert not matches(detection, {"ImageMemfd": True, "ImageDeleted": True, "ImageTmpfs": True})
    assert not matches(detection, {"ImageDeleted": True})


@pytest.mark.parametrize("category", list(CATEGORIES))
def test_every_category_is_matched_by_its_own_rules_only(category: str) -> None:
    engine = Engine(build(rule_text("s:\n  Image: /x\ncondition: s", category)))
    matched = {name for name in CATEGORIES if engine.match(activity(name, {"Image": "/x"}))}
    assert matched == {category}


def test_an_alias_reads_the_same_attribute() -> None:
    assert matches("s:\n  SourceIsIpv6: 'true'\ncondition: s", {"DestinationIsIpv6": True}, "network_connection")


def test_a_sigmahq_shaped_rule_with_strings_for_booleans_and_ports() -> None:
    detection = """
    selection:
      Initiated: 'true'
      DestinationPort: '4444'
      Image|endswith: '/bash'
    filter_main_local:
      DestinationIp|cidr:
        - '127.0.0.0/8'
        - '10.0.0.0/8'
    filter_optional_none:
      DestinationIp: null
    condition: selection and not 1 of filter_main_* and not 1 of filter_optional_*
    """
    event = {"Initiated": True, "DestinationPort": 4444, "Image": "/bin/bash", "DestinationIp": "203.0.113.9"}
    assert matches(detection, event, "network_connection")
    for change in ({"Initiated": False}, {"DestinationIp": "10.1.1.1"}, {"DestinationIp": ""}, {"Image": "/bin/sh"}):
        assert not matches(detection, event | change, "network_connection")
