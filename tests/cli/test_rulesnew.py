"""`rules new`, from a log's event to a rule that is checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sensor.cli import main
from tests.cli.rulehome import DETECTION, EVENT, ID, make

Said = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("event", "tag"), [(ID, "attack.t1059"), (DETECTION["id"], "attack.t1572")])
def test_a_rule_is_made_and_checked(here: Path, capsys: Said, event: str, tag: str) -> None:
    make(here)
    file = here / "mine" / "edge.yml"
    file.parent.mkdir()
    assert main(["rules", "new", "--from", event, "--title", "An edge", "-o", str(file)]) == 0
    assert f"pinfold rules test {file}" in capsys.readouterr().out
    document = yaml.safe_load(file.read_text())
    assert (document["title"], document["tags"][0]) == ("An edge", tag)
    assert document["detection"]["words"] == {"CommandLine|contains|all": [" tunnel", " --url"]}
    assert main(["rules", "check", str(file.parent)]) == 0
    assert main(["rules", "explain", str(file), ID]) == 0
    assert any(line.startswith("yes  An edge") for line in capsys.readouterr().out.splitlines())


def test_secrets_do_not_go_into_examples(here: Path, capsys: Said) -> None:
    line = "edge login --password hunter2secret --url http://u:hunter3secret@x"
    event = here / "event.json"
    event.write_text(json.dumps({**EVENT, "CommandLine": line, "Argv": line.split()}))
    make(here)
    assert main(["rules", "new", "--from", str(event), "-o", str(here / "a.yml")]) == 0
    assert "secret" not in (here / "a.yml").read_text() + (here / "a.events.yaml").read_text()
    assert main(["rules", "explain", "tunnel", str(event)]) == 0
    out = capsys.readouterr().out
    assert "hunter" not in out and "***" in out


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("a.txt", "not a rule's file name"),
        ("a.events.yaml", "not a rule's file name"),
        ("none/a.yml", "no such folder"),
    ],
)
def test_where_it_cannot_go(here: Path, capsys: Said, file: str, said: str) -> None:
    make(here)
    assert main(["rules", "new", "--from", ID, "-o", str(here / file)]) == 2
    assert said in capsys.readouterr().err


def test_nothing_is_overwritten(here: Path, capsys: Said) -> None:
    rule = make(here)
    before = rule.read_text()
    assert main(["rules", "new", "--from", ID, "-o", str(rule)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert rule.read_text() == before
