"""`rules explain`, `rules show` and `rules test`, as an operator types them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from sensor.cli import main
from tests.cli.rulehome import DETECTION, EVENT, ID, make
from tests.rules.correlation.stream import correlation, named
from tests.rules.helpers import rule_text

Said = pytest.CaptureFixture[str]


@pytest.fixture
def rule(here: Path) -> Path:
    return make(here)


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("event", [ID, DETECTION["id"], "file", "-"])
def test_an_event_is_named_in_every_way(
    rule: Path, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    line = json.dumps(EVENT).encode()
    (tmp_path / "event.json").write_bytes(line)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
    assert main(["rules", "explain", "tunnel", str(tmp_path / "event.json") if event == "file" else event]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["yes  A tunnel to somewhere", "yes    and"]
    assert "yes Image|endswith: one of 2 is '/opt/edge'" in squeezed(out)
    assert "yes '/edge'" in squeezed(out) and "'/tunneld'" not in out
    assert "no CommandLine|contains: ' --help'" in squeezed(out)
    assert "\x1b" not in out


def test_what_did_not_match_is_no(rule: Path, capsys: Said) -> None:
    assert main(["rules", "explain", str(rule), "18ecb4e76d1de7b9-14e0"]) == 0
    out = squeezed(capsys.readouterr().out)
    assert out.startswith("no A tunnel to somewhere")
    assert "no CommandLine|contains|all: all of 2 is 'true' no ' tunnel' no ' --url'" in out


def test_json_has_the_tree(rule: Path, capsys: Said) -> None:
    assert main(["rules", "explain", "5A1CBE10-1111-4111-8111-000000000001", ID, "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["matched"] is True
    assert [part["text"] for part in told["tree"]["parts"]] == ["named", "words", "not"]


@pytest.mark.parametrize(
    ("rule_word", "event", "status", "said"),
    [
        ("nothing", ID, 3, "no rule 'nothing'"),
        ("tunnel", "1-1", 3, "no event '1-1'"),
        ("tunnel", "empty", 2, "holds no JSON object"),
        ("tunnel", "wrong", 2, "not an event"),
    ],
)
def test_what_is_not_there_is_one_line(
    rule: Path, tmp_path: Path, capsys: Said, rule_word: str, event: str, status: int, said: str
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "wrong").write_text('{"kind": "notice"}')
    word = str(tmp_path / event) if event in {"empty", "wrong"} else event
    assert main(["rules", "explain", rule_word, word]) == status
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_name_that_several_have(rule: Path, here: Path, capsys: Said) -> None:
    other = here / "rules/other"
    other.mkdir()
    (other / "tunnel.yml").write_text(rule.read_text().replace("000000000001", "000000000002"))
    assert main(["rules", "show", "tunnel"]) == 2
    assert "means 2 rules" in capsys.readouterr().err
    assert main(["rules", "show", "other/tunnel"]) == 0


def test_a_rule_is_shown_with_examples_and_document(rule: Path, capsys: Said) -> None:
    assert main(["rules", "show", "A tunnel to somewhere"]) == 0
    out = capsys.readouterr().out
    for text in ("5a1cbe10-1111", "match: plain", "no_match: no url", "condition: named and words"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["rules", "show", "tunnel", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["document"] == rule.read_text()


def test_the_compiled_source_is_python_that_decides(rule: Path, capsys: Said) -> None:
    assert main(["rules", "show", "tunnel", "--compiled"]) == 0
    out = capsys.readouterr().out
    compile(out, "shown", "exec")
    assert "endswith(('/edge', '/tunneld'))" in out
    assert "A tunnel to somewhere" in out


def test_examples_that_hold(rule: Path, capsys: Said) -> None:
    assert main(["rules", "test"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("2 examples of 1 rules, 0 failed\n", "every example holds\n")


def test_an_example_that_fails_says_why(rule: Path, capsys: Said) -> None:
    examples = rule.with_suffix(".events.yaml")
    examples.write_text(examples.read_text().replace("--url x", "--url"))
    assert main(["rules", "test", str(rule)]) == 1
    out = capsys.readouterr().out
    assert "does not match, and must" in out
    assert f"{rule}: plain" in out
    assert "no CommandLine|re: '--url[= ]\\\\S+'" in squeezed(out)
    assert main(["rules", "test", str(rule), "-o", "json"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["result"], second["result"]) == ("failed", "ok")


def test_a_broken_rule_is_named(rule: Path, capsys: Said) -> None:
    rule.write_text(rule.read_text().replace("condition: named", "condition: unnamed"))
    assert main(["rules", "test"]) == 1
    assert capsys.readouterr().err.startswith(f"{rule}:")


@pytest.mark.parametrize(
    ("category", "detection", "said"),
    [
        ("device_access", "{DeviceClass: [nvidia, fuse]}", "granted opens of nvidia, fuse are sent for it"),
        ("device_access", "{Granted: false}", "no granted open is sent for it"),
        ("network_connection", "{DestinationPort: 22}", "connects elsewhere are sent for it: ports 22"),
        ("network_connection", "{DestinationIsLoopback: false}", "to this host itself are sent for it: none"),
    ],
)
def test_what_the_kernel_sends_for_a_rule_is_told(
    here: Path, tmp_path: Path, capsys: Said, category: str, detection: str, said: str
) -> None:
    make(here)
    rule = tmp_path / "pushed.yml"
    rule.write_text(rule_text(f"sel: {detection}\ncondition: sel", category))
    assert main(["rules", "explain", str(rule), ID]) == 0
    assert "With log.unmatched: false, " in capsys.readouterr().out
    assert main(["rules", "explain", str(rule), ID, "-o", "json"]) == 0
    assert any(said in line for line in json.loads(capsys.readouterr().out)["kernel"])


def test_a_correlation_is_shown_and_explained_by_its_rules(here: Path, capsys: Said) -> None:
    make(here)
    (here / "rules/a.yml").write_text(named("a"))
    text = correlation("type: event_count\nrules: a\ntimespan: 1m\ncondition: {gte: 3}", title="Counted")
    (here / "rules/counted.yml").write_text(text)
    assert main(["rules", "show", "Counted"]) == 0
    assert "type: event_count" in capsys.readouterr().out
    assert main(["rules", "explain", "Counted", ID]) == 1
    assert "a correlation: explain the rules that it names" in capsys.readouterr().err
