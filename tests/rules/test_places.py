"""What rules about files speak of, and what of it can be watched."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.rules.places import READ, WRITE, Place
from sensor.rules.sigma import build

RULE = """
title: A rule
id: 6c4b7f0a-3a51-4f0e-8f0f-5a4a52a8d1c7
status: test
level: high
logsource: {{product: linux, category: {category}}}
detection:
{detection}
  condition: {condition}
"""


def places(
    tmp_path: Path, detection: str, condition: str = "a", category: str = "file_event"
) -> tuple[set[Place], bool]:
    """The places, and whether the rule can match elsewhere."""
    file = tmp_path / "rule.yml"
    lines = "\n".join(f"  {line}" for line in detection.splitlines())
    file.write_text(RULE.format(category=category, detection=lines, condition=condition))
    ruleset = build([file])
    assert not ruleset.refused
    return set(ruleset.places), bool(ruleset.beyond)


@pytest.mark.parametrize(
    ("item", "place"),
    [
        ("TargetFilename: /etc/crontab", Place("exact", "/etc/crontab", WRITE)),
        ("TargetFilename|startswith: /etc/cron.", Place("prefix", "/etc/cron.", WRITE)),
        ("TargetFilename|endswith: /release_agent", Place("suffix", "/release_agent", WRITE)),
        ("TargetFilename|contains: /.ssh/", Place("contains", "/.ssh/", WRITE)),
        ("TargetFilename: /home/*/.xinitrc", Place("suffix", "/.xinitrc", WRITE)),
        ("TargetFilename: /etc/*.conf", Place("prefix", "/etc/", WRITE)),
        (r"TargetFilename|re: '^/home/[^/]+/\.config/auto/.*\.sh$'", Place("contains", "/.config/auto/", WRITE)),
        ("SourceFilename: /etc/shadow", Place("exact", "/etc/shadow", WRITE)),
    ],
)  # fmt: skip
def test_a_place(tmp_path: Path, item: str, place: Place) -> None:
    assert places(tmp_path, f"a: {{{item}}}") == ({place}, False)


def test_what_is_read(tmp_path: Path) -> None:
    found = places(tmp_path, "a: {TargetFilename|endswith: /.netrc}", category="file_access")
    assert found == ({Place("suffix", "/.netrc", READ)}, False)


def test_one_condition_that_tells_where_is_enough(tmp_path: Path) -> None:
    detection = "a:\n  TargetFilename|startswith: /home/\n  TargetFilename|endswith: /.bashrc\n  Image|endswith: /vi"
    assert places(tmp_path, detection) == ({Place("suffix", "/.bashrc", WRITE)}, False)


def test_alternatives_are_all_watched(tmp_path: Path) -> None:
    detection = "a: {TargetFilename: [/etc/one, /etc/two]}\nb: {TargetFilename|endswith: /three}"
    wanted = {Place("exact", "/etc/one", WRITE), Place("exact", "/etc/two", WRITE), Place("suffix", "/three", WRITE)}
    assert places(tmp_path, detection, "a or b") == (wanted, False)


@pytest.mark.parametrize(
    ("detection", "condition"),
    [
        ("a: {Image|endswith: /tar}", "a"),
        ("a: {TargetFilename|endswith: .so}", "a"),
        ("a: {TargetFilename|contains: secret}", "a"),
        ("a: {TargetFilename|contains: /home/}", "a"),
        ("a: {TargetFilename: /etc/passwd}\nb: {Image|endswith: /tar}", "a or b"),
        ("a: {TargetFilename: /etc/passwd}", "not a"),
        ("a: ['*word*']", "a"),
    ],
)
def test_a_rule_that_does_not_say_where_is_named(tmp_path: Path, detection: str, condition: str) -> None:
    assert places(tmp_path, detection, condition)[1]


def test_a_filter_is_no_place(tmp_path: Path) -> None:
    detection = "a: {TargetFilename|startswith: /etc/cron.d/}\nb: {TargetFilename: /etc/cron.d/anacron}"
    assert places(tmp_path, detection, "a and not b") == ({Place("prefix", "/etc/cron.d/", WRITE)}, False)


def test_other_categories_name_none(tmp_path: Path) -> None:
    assert places(tmp_path, "a: {CommandLine|contains: /etc/passwd}", category="process_creation") == (set(), False)
