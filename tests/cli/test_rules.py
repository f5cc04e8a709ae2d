from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from sensor.cli import main

RULE = """\
title: A miner\x20
id: 5a1cbe10-1111-4111-8111-000000000001
status: experimental
description: d
level: high
logsource: {category: process_creation, product: linux}
detection:
  selection: {Image|endswith: /xmrig}
  condition: selection
falsepositives: [none]
tags: [attack.t1496]
"""
EXAMPLES = """\
match:
- {name: plain, event: {Image: /tmp/xmrig}}
no_match:
- {name: other, event: {Image: /usr/bin/%s}}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(f"rules: {{paths: [{tmp_path}/rules]}}\n")
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/miner.yml").write_text(RULE)
    (tmp_path / "rules/miner.events.yaml").write_text(EXAMPLES % "true")
    return str(path)


def test_rules_are_listed_in_80_columns_and_in_json(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["rules", "list", "--config", config]) == 0
    out = capsys.readouterr().out
    assert "A miner" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["rules", "list", "--config", config, "-o", "json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["id"] == "5a1cbe10-1111-4111-8111-000000000001"


def test_rules_that_hold_are_checked(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "check", "--config", config]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("1 rules, 2 examples, 0 failed\n", "")


def test_an_example_that_fails_is_named_and_1(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules/miner.events.yaml").write_text(EXAMPLES % "xmrig")
    assert main(["rules", "check", "--config", config, str(tmp_path / "rules")]) == 1
    err = capsys.readouterr().err
    assert err == f"{tmp_path}/rules/miner.yml: other: matches, and must not\n"


@pytest.mark.parametrize("command", ["list", "check"])
def test_a_broken_rule_is_named_with_file_and_line(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "rules/broken.yml").write_text(RULE.replace("condition: selection", "condition: nothing"))
    assert main(["rules", command, "--config", config]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"{tmp_path}/rules/broken.yml:")
    assert err.split(":")[1].isdigit()
    assert ("A miner" in out) is (command == "list")


def test_no_rules_is_one_line_and_1(tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["rules", "check", "--config", config, str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err == f"pinfold: {tmp_path}/empty:1: no rule files there\n"
