from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sensor.cli import main
from tests.cli.fake_daemon import STEPS, Api
from tests.cli.terminal import REPOSITORY, Terminal

COMMAND = [sys.executable, "-m", "sensor.cli"]


def test_add_waits_until_it_is_held_and_tells_each_step_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine", "add", "agent-1", "--reason", "a miner", "--ttl", "12h", "--on-expiry", "kill"]) == 0
    (change,) = api.changes
    assert change == (
        "/v1/quarantines",
        {
            "sandbox": "11",
            "reason": "a miner",
            "ttl_seconds": 43200,
            "on_expiry": "kill",
            "freeze": True,
            "loopback": False,
            "evidence": True,
            "dry_run": False,
        },
    )
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in err.splitlines()] == [[name, "done"] for name in STEPS]
    assert err.splitlines()[0] == "  network   done      1.5 ms  of network\\x1b[31m"
    assert out.splitlines()[2].split()[:3] == ["q-1", "held", "agent-1"]


def test_what_is_not_wanted_is_asked_for(api: Api) -> None:
    options = ["--no-freeze", "--loopback", "--no-evidence", "--no-wait"]
    assert main(["quarantine", "add", "11", "--reason", "x", *options]) == 0
    ((_, body),) = api.changes
    assert (body["freeze"], body["loopback"], body["evidence"]) == (False, True, False)
    assert api.quarantines["q-1"]["state"] == "beginning"
    assert api.asked[-1][0] == "POST"  # nobody waited


def test_a_step_that_failed_is_1_and_said(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.fails = "evidence"
    assert main(["quarantine", "add", "agent-1", "--reason", "x", "-o", "compact"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("q-1\theld\tagent-1\t")
    assert err.splitlines()[-1] == (
        "pinfold: q-1 is held, but not all of it was done: failed: evidence (of evidence\\x1b[31m)"
    )


def test_one_that_ends_meanwhile_is_1(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/quarantines/q-1"] = lambda _: (200, api.quarantines["q-1"] | {"state": "ended"})
    assert main(["quarantine", "add", "agent-1", "--reason", "x"]) == 1
    assert "q-1 is ended" in capsys.readouterr().err


def test_one_that_is_in_quarantine_already_is_told(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.quarantined(11)
    api.answers["/v1/quarantines"] = lambda _: (202, api.quarantines["q-1"])
    assert main(["quarantine", "add", "agent-1", "--reason", "another"]) == 0
    assert "in quarantine already: q-1" in capsys.readouterr().err


def test_the_list_has_what_is_in_force(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine", "list"]) == 0
    assert capsys.readouterr() == ("", "no quarantines in force\n")
    assert main(["quarantine", "list", "--check"]) == 0
    api.quarantined(11, "released")
    api.quarantined(12, expires="x", operator="policy: class agents, detection 1f-a0/x")
    capsys.readouterr()
    assert main(["quarantine", "list", "-o", "compact"]) == 0
    assert capsys.readouterr().out.split("\t")[:3] == ["q-2", "held", "agent-2"]
    assert main(["quarantine", "list", "-o", "json", "--all"]) == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["q-1", "q-2"]


def test_when_it_expires_and_what_then(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    record = api.quarantines[api.quarantined(11, on_expiry="release")]
    record["expires_ns"] = record["created_ns"] + 3600_000_000_000
    assert main(["quarantine", "list"]) == 0
    assert "release in 59 min" in capsys.readouterr().out
    assert main(["quarantine", "describe", "q-1"]) == 0
    out = capsys.readouterr().out
    assert "Expires  20" in out
    assert out.count("done") == len(STEPS)


@pytest.mark.parametrize(("verb", "state"), [("release", "released"), ("kill", "killed")])
@pytest.mark.parametrize("which", ["q-1", "agent-1", "11", "/pinfold/11"])
def test_it_is_ended_by_its_id_or_its_sandbox(api: Api, verb: str, state: str, which: str) -> None:
    api.quarantined(11)
    assert main(["quarantine", verb, which, "--reason", "done with it", "--yes"]) == 0
    assert api.changes == [(f"/v1/quarantines/q-1/{verb}", {"reason": "done with it"})]
    assert api.quarantines["q-1"]["state"] == state


def test_old_steps_are_not_told_again_but_those_of_the_end(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    record = api.quarantines[api.quarantined(11)]
    record["undone"] = [{"name": "thaw", "state": "done"}, {"name": "lift", "state": "failed", "detail": "EBUSY"}]
    assert main(["quarantine", "release", "q-1", "--reason", "x", "--yes"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in told[:2]] == [["thaw", "done"], ["lift", "failed"]]
    assert told[2] == "pinfold: q-1 is released, but not all of it was done: failed: lift (EBUSY)"


def test_one_that_is_over_is_not_ended_again(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.quarantined(11, "released")
    assert main(["quarantine", "release", "q-1", "--reason", "x", "--yes"]) == 0
    assert main(["quarantine", "kill", "q-1", "--reason", "x", "--yes"]) == 1
    assert api.changes == []


def test_two_of_one_name_must_be_told_apart(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.quarantined(21)
    api.quarantined(22)
    assert main(["quarantine", "release", "twin", "--reason", "x", "--yes"]) == 2
    assert "q-1 pinfold/21; q-2 pinfold/22" in capsys.readouterr().err
    assert main(["quarantine", "release", "q1", "--reason", "x", "--yes"]) == 3
    assert "nearest: q-1\n" in capsys.readouterr().err


def test_on_a_terminal_the_reason_and_the_consent_are_asked_for(api: Api, here: Path) -> None:
    api.quarantined(11)
    environment = {"PINFOLD_CONFIG": str(here / "c.yaml"), "NO_COLOR": "1"}
    terminal = Terminal([*COMMAND, "quarantine", "release", "agent-1"], environment)
    terminal.until(b"Reason: ")
    terminal.type(b"a false alarm\n")
    terminal.until(b"Release agent-1 (quarantine q-1, held)? [y/N]: ")
    assert api.changes == []
    terminal.type(b"y\n")
    assert terminal.status() == 0
    assert api.changes == [("/v1/quarantines/q-1/release", {"reason": "a false alarm"})]
    assert b"\x1b[3" not in terminal.seen


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_that_want_them(api: Api, here: Path, no_color: str, coloured: bool) -> None:
    api.quarantined(11)
    environment = {"PINFOLD_CONFIG": str(here / "c.yaml"), "NO_COLOR": no_color, "TERM": "xterm"}
    terminal = Terminal([*COMMAND, "quarantine", "list"], environment)
    assert terminal.status() == 0
    assert (b"\x1b[33mheld" in terminal.seen) is coloured


@pytest.mark.parametrize(("keys", "status"), [(b"\n", 1), (b"n\n", 1), (b"\x03", 130)])
def test_who_does_not_consent_changes_nothing(api: Api, here: Path, keys: bytes, status: int) -> None:
    environment = {"PINFOLD_CONFIG": str(here / "c.yaml")}
    terminal = Terminal([*COMMAND, "kill", "agent-1", "--reason", "x"], environment)
    terminal.until(b"Kill agent-1 (3 processes)? [y/N]: ")
    terminal.asleep()
    terminal.type(keys)
    assert terminal.status() == status
    assert api.changes == []


def test_who_stops_waiting_is_told_that_it_goes_on(api: Api, here: Path) -> None:
    def beginning(_: object) -> tuple[int, object]:
        return 200, api.quarantines["q-1"]

    api.answers["/v1/quarantines/q-1"] = beginning
    with subprocess.Popen(
        [*COMMAND, "quarantine", "add", "agent-1", "--reason", "x"],
        cwd=REPOSITORY,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        while not any(path == "/v1/quarantines/q-1" for _, path, _ in list(api.asked)):
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "it goes on; see pinfold quarantine describe q-1" in err
