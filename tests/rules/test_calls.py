"""Which system calls rules are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.events.callnames import CALLS_OF_ACTION, NUMBERS
from sensor.rules.sigma import build

RULE = """
title: A call
id: 5b0c0c5e-3f1c-4f0b-9a55-0d4c8b1f7a10
level: low
logsource: {{product: linux, category: {category}}}
detection:
{detection}
"""


def calls(tmp_path: Path, detection: str, category: str = "system_call") -> set[str]:
    file = tmp_path / "rule.yml"
    file.write_text(RULE.format(category=category, detection=detection))
    built = build([file])
    assert built.refused == ()
    names = {number: name for name, number in NUMBERS.items()}
    return {names[number] for number in built.calls}


@pytest.mark.parametrize(
    ("detection", "wanted"),
    [
        ("  a: {SystemCall: mount}\n  condition: a", {"mount"}),
        ("  a: {SystemCall: [mount, Setns]}\n  condition: a", {"mount", "setns"}),
        ("  a: {Action: packet_socket}\n  condition: a", {"socket"}),
        ("  a: {Action: mount, SystemCall: mount}\n  condition: a", {"mount"}),
        ("  a: {Action: namespace}\n  condition: a", set(CALLS_OF_ACTION["namespace"])),
        ("  a: {SystemCall: mount}\n  b: {SystemCall: bpf}\n  condition: a or b", {"mount", "bpf"}),
        ("  a: {SystemCall: mount}\n  b: {SystemCall: bpf}\n  condition: a and not b", {"mount"}),
        ("  a: {SystemCall: nosuchcall}\n  condition: a", set()),
        ("  a: {Capability: CAP_SYSLOG}\n  condition: a", set()),
    ],
)
def test_a_rules_calls(tmp_path: Path, detection: str, wanted: set[str]) -> None:
    assert calls(tmp_path, detection) == wanted


@pytest.mark.parametrize(
    "detection",
    [
        "  a: {Image: /x}\n  condition: a",
        "  a: {SystemCall: mount}\n  condition: not a",
        "  a: {SystemCall: mount}\n  b: {Image: /x}\n  condition: a or b",
        "  a: {SystemCall|startswith: mo}\n  condition: a",
    ],
)
def test_a_rule_that_names_none_is_about_all_that_have_an_action(tmp_path: Path, detection: str) -> None:
    assert calls(tmp_path, detection) == {"socket"}.union(*CALLS_OF_ACTION.values())


def test_rules_of_other_categories_ask_for_none(tmp_path: Path) -> None:
    assert calls(tmp_path, "  a: {Image: /x}\n  condition: a", "process_creation") == set()
