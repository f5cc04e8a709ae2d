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
    said = "1 rules, 2 examples, 0 failed\nloaded 1 of 1 (100 %), 1 can match\n"
    assert (out, err) == (said, "")


def test_rules_that_cannot_match_here_are_counted_by_what_is_missing_and_0(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RULE.replace("category: process_creation", "service: sudo").replace("{Image", "{USER")
    texts = [log, log, RULE.replace("{Image", "{Imago"), RULE.replace("/xmrig}", "/xmrig, LogonId: 1}")]
    texts.append(RULE.replace("{Image|endswith: /xmrig}", "[{Image|endswith: /x}, {Hashes: x}]"))
    for number, text in enumerate(texts):
        (tmp_path / f"rules/r{number}.yml").write_text(text.replace("0001\n", f"1{number:03}\n"))
    assert main(["rules", "check", "--config", config]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "2 rules, 2 examples, 0 failed, 1 rules without examples\n"
        "loaded 6 of 6 (100 %), 2 can match\n"
        "dormant 4, for want of:\n"
        "     2  service sudo (its log is not read)\n"
        "     1  field Imago\n"
        "     1  field LogonId\n"
    )
    assert f"{tmp_path}/rules/r2.yml:8: warning: process_creation has no field 'Imago'; did you mean 'Image'?" in err
    assert len(err.splitlines()) == 3


def test_refused_rules_count_against_the_coverage_and_1(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules/b.yml").write_text(RULE.replace("|endswith", "|ends"))
    assert main(["rules", "check", "--config", config]) == 1
    out, err = capsys.readouterr()
    assert out == "loaded 1 of 2 (50 %), 1 can match\nrefused 1, each named above\n"
    assert err == f"{tmp_path}/rules/b.yml:8: Unknown modifier 'ends'\n"


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
