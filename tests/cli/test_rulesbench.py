from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensor.cli import main
from tests.cli.rulehome import make

Said = pytest.CaptureFixture[str]


def test_examples_are_measured(here: Path, capsys: Said) -> None:
    make(here)
    assert main(["rules", "bench", "--seconds", "0.01", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (pace,) = told["paces"]
    assert (pace["category"], pace["rules"], pace["events"], pace["matched"]) == ("process_creation", 1, 2, 1)
    assert pace["per_second"] > 0
    (price,) = told["rules"]
    assert (price["title"], price["matched"], price["indexed"]) == ("A tunnel to somewhere", 1, True)
    assert price["ns"] > 0


def test_a_log_is_measured_and_a_rule_without_an_index_named(here: Path, capsys: Said) -> None:
    rule = make(here)
    (rule.parent / "wide.yml").write_text(
        rule.read_text()
        .replace("000000000001", "000000000002")
        .replace("condition: named and words and not", "condition: not")
    )
    assert main(["rules", "bench", "--log", str(here / "log/events.jsonl"), "--seconds", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "process_creation" in out
    assert " no " in out, "the rule of a negation alone has nothing to look up"
    assert max(map(len, out.splitlines())) <= 80


def test_nothing_to_measure(here: Path, tmp_path: Path, capsys: Said) -> None:
    rule = make(here)
    rule.with_suffix(".events.yaml").unlink()
    assert main(["rules", "bench"]) == 2
    assert "no events there" in capsys.readouterr().err
    assert main(["rules", "bench", "--log", str(tmp_path / "none")]) == 1
    assert "no log at" in capsys.readouterr().err


def test_a_broken_rule_is_named_and_the_others_are_measured(here: Path, capsys: Said) -> None:
    rule = make(here)
    (rule.parent / "broken.yml").write_text("title: x\n")
    assert main(["rules", "bench", "--seconds", "0.01", "-o", "compact"]) == 1
    out, err = capsys.readouterr()
    assert "process_creation\t1\t2\t1\t" in out
    assert "broken.yml:" in err
