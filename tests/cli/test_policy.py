from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sensor.cli import main
from sensor.config import load
from sensor.export.log import EventLog
from tests.cli.fake_daemon import Api
from tests.export import samples

BAD = 'instance: A\nclasses:\n  a:\n    mode: enforced\n    when_unrecorded: "\\e[2J"\n'


def test_findings_of_a_check_are_data_and_10(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(BAD)
    assert main(["policy", "check", str(file)]) == 10
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split(": ")[:2] for line in out.splitlines()] == [
        [f"{file}:4", "classes.a.mode"],
        [f"{file}:5", "classes.a.when_unrecorded"],
    ]
    assert main(["policy", "check", str(file), "-o", "json"]) == 10
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["file"], first["line"], first["key"]) == (str(file), 4, "classes.a.mode")
    assert "'\\x1b[2J'" in second["reason"]
    assert main(["policy", "check", str(file), "-o", "compact"]) == 10
    assert capsys.readouterr().out.splitlines()[0].split("\t")[:3] == [str(file), "4", "classes.a.mode"]


def test_warnings_of_a_policy_that_loads_are_findings_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = here / "warned.yaml"
    file.write_text("classes:\n  a:\n    mode: monitor\n    responses: {high: kill}\n")
    assert main(["policy", "check", str(file)]) == 10
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{file}:") and "classes.a" in line and ": warning: " in line


def test_no_findings_is_0_and_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pinfold: {here}/c.yaml: no findings in 1 classes")


def test_what_is_in_force_comes_from_the_daemon(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "-o", "compact"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    responses = "high quarantine, critical kill-sandbox"
    assert out == f"agents\tenforce\tfuse, other\tdeny, 1 allowed\tstratum, /bin/nc, memfd\t{responses}\n"


def test_without_a_daemon_the_configuration_is_shown_and_said_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "show", "-o", "compact"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("default\tmonitor\tfuse, other\tallow\t\tlog")
    assert f"what follows is the configuration, {here}/c.yaml" in err


def test_a_reload_is_asked_of_the_daemon(api: Api) -> None:
    assert main(["policy", "reload", "--reason", "new grants"]) == 0
    assert api.changes == [("/v1/policy/reload", {"reason": "new grants"})]


@pytest.mark.parametrize(("outcome", "status"), [("done", 0), ("failed", 1)])
def test_a_reload_is_waited_for(api: Api, outcome: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = {"done": 4, "failed": 2}
    api.reloads = [before, before, before | {outcome: before[outcome] + 1}]
    assert main(["policy", "reload", "--reason", "new grants"]) == status
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert ("in force stays" in said[1]) == bool(status)
    assert [method for method, *_ in api.asked] == ["GET", "POST", "GET", "GET"]
    api.reloads = [before]
    assert main(["policy", "reload", "--reason", "new grants", "--no-wait"]) == 0


def test_a_dry_reload_finds_what_is_wrong(api: Api, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "c.yaml").write_text(BAD)
    assert main(["policy", "reload", "--dry-run"]) == 2
    assert "classes.a.mode" in capsys.readouterr().err
    assert api.asked == []


@pytest.mark.parametrize(("option", "value"), [("connect", "1.2.3.4:22/tcp"), ("device", "nvidia0"), ("exec", "/x")])
def test_the_daemon_explains_by_the_id(api: Api, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "explain", "--sandbox", "agent-1", f"--{option}", value]) == 0
    assert api.changes == [("/v1/policy/explain", {"sandbox": "11", option: value})]
    assert capsys.readouterr().out.split("\n")[0].split() == ["Verdict", "refused"]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    monkeypatch.setitem(sys.modules, f"sensor.respond.{name}", SimpleNamespace(**members))


def test_a_class_is_explained_without_the_daemon(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / "asked.yaml"
    file.write_text("classes:\n  a:\n    mode: enforce\n    egress: {default: deny}\n")
    question = ["policy", "explain", "--config", str(file), "--class", "a", "--connect", "1.2.3.4:5"]
    assert main([*question, "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["line"]) == ("refused", 4)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(question) == 0
    shown = dict(line.strip().split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:3])
    assert shown["Verdict"] == "refused" and shown["Where"].startswith(f"{file}:4: classes.a.egress")


def test_examples_that_fail_are_10(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [
        SimpleNamespace(
            index=0, line=3, question="a: connect 1.2.3.4:5", expected="refused", found="refused", why="egress"
        ),
        SimpleNamespace(index=1, line=4, question="a: device kvm", expected="refused", found="allowed", why="\x1b[2J"),
    ]
    for one in results:
        one.passed = one.found == one.expected
    stand_in(monkeypatch, "policytest", run=lambda _config, _file: results)
    assert main(["policy", "test", str(here / "c.yaml")]) == 10
    out, err = capsys.readouterr()
    assert "device kvm" in out
    assert "1.2.3.4" not in out
    assert "1 of 2 examples" in err
    assert main(["policy", "test", str(here / "c.yaml"), "-o", "compact"]) == 10
    assert len(capsys.readouterr().out.splitlines()) == 2
    del results[1]
    assert main(["policy", "test", str(here / "c.yaml")]) == 0


def test_a_policy_is_suggested_from_the_lines_of_one_sandbox(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = EventLog(load(str(here / "c.yaml")), lambda *_: None)
    log.recover()
    for position in range(3):
        log.add_activity(samples.process_creation(position=position, SandboxName="agent-1", SandboxId=11))
        log.add_activity(samples.process_creation(position=100 + position, SandboxName="agent-2", SandboxId=12))
    log.flush()
    log.close()
    for word in ("agent-1", "11"):
        assert main(["policy", "suggest", "--sandbox", word, "--class", "mine"]) == 0
        out = capsys.readouterr().out
        assert "from 3 lines" in out and '\n  "mine":\n' in out
    assert main(["policy", "suggest", "--sandbox", "agent-1", "--class", "a b"]) == 2
    assert "class: expected" in capsys.readouterr().err
    assert main(["policy", "suggest", "--sandbox", "agent1"]) == 3
    assert capsys.readouterr() == ("", "pinfold: no sandbox 'agent1'; nearest: agent-1, agent-2\n")


def test_nothing_to_suggest_from_is_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "suggest", "--sandbox", "agent-1"]) == 1
    assert "no log at" in capsys.readouterr().err
