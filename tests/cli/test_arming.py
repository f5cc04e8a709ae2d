from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sensor.cli import main
from sensor.respond.disarm import Arming
from tests.cli.fake_daemon import Api

WHY = ["--reason", "a wave of false alarms"]


def audit(home: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (home / "state/audit.jsonl").read_text().splitlines()]


def test_disarm_and_arm_without_a_sensor(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arming = Arming(here / "state")
    for _ in range(2):
        assert main(["disarm", *WHY]) == 0
        assert arming.disarmed()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[0] == "no probes are pinned for the instance cli-test"
        assert "nothing is refused and nobody is killed" in err
    assert main(["arm", *WHY]) == 0
    assert not arming.disarmed()
    assert [(line["operation"], line["reason"], line["outcome"]) for line in audit(here)] == [
        ("disarm", WHY[1], "done"),
        ("disarm", WHY[1], "done"),
        ("arm", WHY[1], "done"),
    ]
    assert all(line["uid"] == 0 and line["tgid"] and line["executable"] for line in audit(here))
    assert (here / "state/audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_marker_that_cannot_be_written_is_1_and_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "state").write_text("a file in the way")
    assert main(["disarm", *WHY]) == 1
    assert "pinfold: " in capsys.readouterr().err


def test_the_daemon_writes_the_audit_where_it_lives(api: Api, here: Path) -> None:
    assert main(["disarm", *WHY]) == 0
    assert Arming(here / "state").disarmed()  # whatever the daemon makes of it
    assert main(["arm", *WHY]) == 0
    assert api.changes == [("/v1/disarm", {"reason": WHY[1]}), ("/v1/arm", {"reason": WHY[1]})]
    assert not (here / "state/audit.jsonl").exists()


def test_where_the_daemon_fails_it_is_done_and_audited_here(api: Api, here: Path) -> None:
    api.answers["/v1/disarm"] = lambda _: (503, {"error": "busy", "code": "busy"})
    assert main(["disarm", *WHY]) == 0
    assert Arming(here / "state").disarmed()
    assert audit(here)[0]["outcome"] == "done"


def test_who_may_not_write_the_marker_may_still_ask_the_daemon(api: Api, here: Path) -> None:
    (here / "state").write_text("a file in the way")
    assert main(["disarm", *WHY]) == 0
    assert api.changes == [("/v1/disarm", {"reason": WHY[1]})]


def test_a_link_in_the_place_of_the_audit_is_not_followed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "state").mkdir()
    (here / "target").write_text("keep")
    (here / "state/audit.jsonl").symlink_to(here / "target")
    assert main(["disarm", *WHY]) == 0
    assert (here / "target").read_text() == "keep"
    assert "the audit cannot be written" in capsys.readouterr().err


def test_who_may_neither_write_nor_ask_is_denied(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = os.open

    def refuse(path: str, flags: int, *rest: int, **named: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied")
        return ours(path, flags, *rest, **named)

    monkeypatch.setattr("os.open", refuse)
    assert main(["disarm", *WHY]) == 4
    assert capsys.readouterr().err.splitlines()[-1].endswith("cannot be written: Permission denied: be root")


@pytest.mark.parametrize("command", ["disarm", "arm"])
def test_a_dry_run_changes_nothing(api: Api, here: Path, command: str) -> None:
    Arming(here / "state").disarm()
    assert main([command, "--dry-run"]) == 0
    assert api.changes == []
    assert Arming(here / "state").disarmed()
