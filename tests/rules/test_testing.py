"""The examples' runner: what it accepts, and everything it must not let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.errors import RuleError
from sensor.rules.testing import activity, run_examples
from tests.rules.helpers import rule_text

RULE = rule_text("s:\n  Image|endswith: /ssh\n  CommandLine|contains: ' -R'\ncondition: s")
EXAMPLES = """\
match:
  - name: openssh client with -R
    event: {Image: /usr/bin/ssh, CommandLine: ssh -N -R 2222:localhost:22 u@203.0.113.9}
no_match:
  - name: plain git over ssh
    description: an everyday thing
    event: {Image: /usr/bin/ssh, CommandLine: ssh git@example.org git-upload-pack x}
  - name: another category
    category: network_connection
    event: {Image: /usr/bin/ssh, CommandLine: ssh -R 1:b:2 c, DestinationPort: 22, SourceIsIpv6: true}
"""


def faults(folder: Path, examples: str | None, rule: str = RULE) -> list[str]:
    (folder / "r.yml").write_text(rule)
    if examples is not None:
        (folder / "r.events.yaml").write_text(examples)
    return [result.reason for result in run_examples([folder])]


def test_examples_that_hold(tmp_path: Path) -> None:
    assert faults(tmp_path, EXAMPLES) == ["", "", ""]
    results = run_examples([tmp_path])
    assert [(r.example, r.expected, r.ok) for r in results] == [
        ("openssh client with -R", True, True),
        ("plain git over ssh", False, True),
        ("another category", False, True),
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("-R 2222", "-L 2222", "does not match, and must"),
        ("git-upload-pack", "-R", "matches, and must not"),
        ("{Image: /usr/bin/ssh, Comm", "{Imag: /usr/bin/ssh, Comm", "no field 'Imag'; did you mean 'Image'?"),
        ("Image: /usr/bin/ssh, Comm", "Image: 5, Comm", "Image is text, not 5"),
        ("DestinationPort: 22", "DestinationPort: true", "DestinationPort is number, not True"),
        ("category: network_connection", "category: nothing", "'nothing' is no category"),
        ("    description: an everyday thing\n", "    descripton: x\n", "unknown field `descripton`"),
        ("  - name: another", "  - nam: another", "unknown field `nam`"),
        ("match:\n", "matches:\n", "unknown field `matches`"),
        ("match:\n", "match: [\n", "r.events.yaml:"),
    ],
)
def test_examples_that_do_not_hold(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert any(reason in fault for fault in faults(tmp_path, EXAMPLES.replace(old, new, 1)))


def test_a_rule_needs_examples_of_both_sorts(tmp_path: Path) -> None:
    assert "has no examples in r.events.yaml" in faults(tmp_path, None)[0]
    assert faults(tmp_path, "match: []\n") == ["needs an example under match", "needs an example under no_match"]
    only = EXAMPLES.partition("no_match:")[0]
    assert faults(tmp_path, only) == ["", "needs an example under no_match"]


def test_rules_that_share_a_file_are_told_apart(tmp_path: Path) -> None:
    both = RULE + "---\n" + rule_text("s:\n  Image: /x\ncondition: s")
    assert {fault.partition(":")[0] for fault in faults(tmp_path, EXAMPLES, both)} == {
        "several rules in one file cannot have examples"
    }


def test_a_broken_rule_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"r\.yml:9: "):
        faults(tmp_path, EXAMPLES, RULE.replace("Image", "Image|nope"))


def test_the_other_suffix_is_found(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RULE)
    (tmp_path / "r.events.yml").write_text(EXAMPLES)
    assert all(result.ok for result in run_examples([tmp_path / "r.yaml"]))


def test_fields_that_are_not_given_are_neutral() -> None:
    event = activity("network_connection", {})
    assert (event.Image, event.Existing, event.ProcessId, event.raw) == ("", False, 0, None)


CORRELATION = """\
title: three
id: 11111111-2222-4333-8444-555555555555
level: high
correlation:
  type: event_count
  rules: base
  timespan: 10s
  condition: {gte: 3}
"""
SEQUENCES = """\
match:
  - name: three times
    sequence:
      - {at: 0, category: process_creation, event: {CommandLine: ssh -R, Image: /usr/bin/ssh}, times: 3, every: 2}
no_match:
  - name: too slow
    sequence:
      - {at: 0, category: process_creation, event: {CommandLine: ssh -R, Image: /usr/bin/ssh}, times: 3, every: 5}
"""


def sequence_faults(folder: Path, examples: str) -> list[str]:
    (folder / "base.yml").write_text("name: base\n" + RULE)
    (folder / "base.events.yaml").write_text(EXAMPLES)
    (folder / "r.yml").write_text(CORRELATION)
    (folder / "r.events.yaml").write_text(examples)
    return [result.reason for result in run_examples([folder]) if result.rule_title == "three"]


def test_sequences_are_run_through_correlations(tmp_path: Path) -> None:
    assert sequence_faults(tmp_path, SEQUENCES) == ["", ""]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("times: 3, every: 2", "times: 2, every: 2", "is not told, and must be"),
        ("times: 3, every: 5", "times: 3, every: 4", "is told, and must not be"),
        ("times: 3, every: 2", "times: 0", "times: 1 to 100000, not 0"),
        ("category: process_creation", "category: x", "'x' is no category"),
        ("event: {CommandLine", "event: {CommandLime", "no field 'CommandLime'; did you mean"),
        ("times: 3", "time: 3", "unknown field `time`"),
        ("    sequence:\n", "    event: {Image: x}\n    sequence:\n", "a rule's example has an event, a correlation's"),
    ],
)
def test_sequences_that_do_not_hold(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in SEQUENCES
    assert any(reason in fault for fault in sequence_faults(tmp_path, SEQUENCES.replace(old, new, 1)))
