"""What holds for every command alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sensor.cli import main
from sensor.cli.app import cli
from tests.cli.fake_daemon import Api

# Every command that changes something, with arguments that name something.
MUTATIONS = {
    "quarantine add": ["agent-1"],
    "quarantine release": ["q-1"],
    "quarantine kill": ["q-1"],
    "kill": ["agent-1"],
    "policy reload": [],
    "disarm": [],
    "arm": [],
}
DESTROYING = {"quarantine release", "quarantine kill", "kill"}
DATA = {
    "status": [],
    "sandbox list": [],
    "sandbox describe": ["agent-1"],
    "sandbox tree": ["agent-1"],
    "quarantine list": [],
    "quarantine describe": ["q-1"],
    "policy show": [],
}


def commands(group: click.Group = cli, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield " ".join((*before, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_explains_itself_in_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*name.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"Usage: pinfold {name}")
    assert len(out.splitlines()) > 4
    assert max(map(len, out.splitlines())) <= 80


def test_every_mutation_has_a_reason_and_a_dry_run() -> None:
    known = dict(commands())
    wanted = {"--reason", "--dry-run"}
    assert {name for name, command in known.items() if wanted & options(command)} >= set(MUTATIONS)
    for name in MUTATIONS:
        assert wanted <= options(known[name]), name
        assert ("--yes" in options(known[name])) == (name in DESTROYING), name


def test_everything_that_prints_data_prints_it_in_three_ways() -> None:
    known = dict(commands())
    for name in (*DATA, "policy check", "policy explain", "policy test", "rules list"):
        (output,) = (parameter for parameter in known[name].params if "-o" in parameter.opts)
        assert isinstance(output.type, click.Choice)
        assert set(output.type.choices) >= {"table", "json", "compact"}, name


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("reason", [[], ["--reason", " "], ["--reason", "x" * 513], ["--reason", "a\x1b[2J"]])
def test_no_good_reason_is_2_and_nothing_is_asked(
    api: Api, name: str, reason: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    yes = ["--yes"] if name in DESTROYING else []
    assert main([*name.split(), *MUTATIONS[name], *yes, *reason]) == 2
    assert "reason" in capsys.readouterr().err
    assert api.asked == []


@pytest.mark.parametrize("name", sorted(DESTROYING))
def test_what_destroys_asks_and_without_a_terminal_needs_a_yes(
    api: Api, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api.quarantined(11)
    assert main([*name.split(), *MUTATIONS[name], "--reason", "x"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert api.asked == []
    assert main([*name.split(), *MUTATIONS[name], "--reason", "x", "--yes"]) == 0
    assert [body for _, body in api.changes] == [{"reason": "x"}]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_dry_run_needs_no_reason_and_changes_nothing(
    api: Api, name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.quarantined(11)
    before = str(api.quarantines)
    assert main([*name.split(), *MUTATIONS[name], "--dry-run"]) == 0
    assert "dry run: " in capsys.readouterr().err
    assert all(body["dry_run"] is True for _, body in api.changes)
    assert str(api.quarantines) == before
    assert not (here / "state").exists()


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("output", ["table", "json", "compact"])
def test_data_is_on_stdout_and_safe_for_a_terminal(
    api: Api, name: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api.quarantined(11, reason="\x1b]0;owned\x07 [red]")
    api.sandboxes[0]["class"] = "\x1b[2J\u202e"
    assert main([*name.split(), *DATA[name], "-o", output]) == 0
    out, err = capsys.readouterr()
    assert err == ("… 2 more processes are not told\n" if name == "sandbox tree" and output != "json" else "")
    assert out
    for line in out.splitlines():
        assert line.replace("\t", "").isprintable()
        assert output != "table" or len(line) <= 80


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["sandbox", "describe", "agent-1"], 0),
        (["sandbox", "describe", "11"], 0),
        (["sandbox", "describe", "/pinfold/11"], 0),
        (["sandbox", "describe", "agent"], 3),
        (["sandbox", "tree", "agent"], 3),
        (["sandbox", "describe", "twin"], 2),
        (["kill", "twin", "--reason", "x", "--yes"], 2),
        (["kill", "nobody", "--reason", "x", "--yes"], 3),
        (["quarantine", "add", "nobody", "--reason", "x"], 3),
        (["quarantine", "add", "agent-1", "--reason", "x", "--ttl", "soon"], 2),
        (["quarantine", "add", "agent-1", "--reason", "x", "--on-expiry", "kill"], 2),
        (["quarantine", "describe", "q-9"], 3),
        (["quarantine", "list", "--check"], 10),
        (["quarantine", "list"], 0),
        (["status", "--check"], 10),
        (["status"], 0),
        (["policy", "explain", "--sandbox", "agent-1"], 2),
        (["policy", "explain", "--connect", "1.2.3.4:5"], 2),
        (["policy", "explain", "--sandbox", "agent-1", "--connect", "1.2.3.4:5"], 0),
        (["policy", "explain", "--class", "nobody", "--connect", "1.2.3.4:5"], 2),
        (["policy", "check", "/nonexistent"], 2),
    ],
)
def test_exit_statuses(api: Api, arguments: list[str], status: int) -> None:
    api.quarantined(11)
    assert main(arguments) == status


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((400, {"error": "no such thing", "code": "usage"}), 2),
        ((403, {"error": "uid 7 may not", "code": "denied"}), 4),
        ((404, {"error": "gone", "code": "not_found"}), 3),
        ((409, {"error": "gone", "code": "conflict"}), 1),
        ((503, {"error": "busy", "code": "busy"}), 1),
        ((200, [1]), 1),
    ],
)
@pytest.mark.parametrize("path", ["/v1/sandboxes/11/kill", "/v1/status", "/v1/sandboxes"])
def test_what_the_daemon_refuses_is_one_line_and_its_status(
    api: Api, path: str, answer: tuple[int, object], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[path] = lambda _: answer
    assert main(["kill", "agent-1", "--reason", "x", "--yes"]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("pinfold: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["sandbox", "list"],
        ["sandbox", "describe", "a"],
        ["sandbox", "tree", "a"],
        ["quarantine", "add", "a", "--reason", "x"],
        ["policy", "reload", "--reason", "x"],
        ["policy", "explain", "--sandbox", "a", "--exec", "/bin/sh"],
    ],
)
def test_what_needs_the_daemon_is_5_without(
    here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 5
    assert "no daemon runs here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["quarantine", "list"],
        ["quarantine", "describe", "q"],
        ["quarantine", "release", "q", "--reason", "x", "--yes"],
        ["kill", "a", "--reason", "x", "--yes"],
    ],
)
def test_alone_only_root_goes_on(here: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(arguments) == 4
