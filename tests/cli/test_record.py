"""`pinfold record` with a daemon that plays: what it asks for, and where the file ends up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.cli import main, record
from tests.cli.fake_daemon import Api

HELD = b"what was recorded"


@pytest.fixture
def recording(api: Api, here: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The daemon's answers: two questions later it is over."""
    monkeypatch.setattr(record, "_POLL_S", 0.01)
    path = here / "state.pfr"
    path.write_bytes(HELD)
    answer: dict[str, Any] = {"running": True, "path": str(path), "records": 7, "bytes": 17, "seconds": 1, "reason": ""}
    left = [3]

    def asked(_: Any) -> tuple[int, Any]:
        left[0] -= 1
        if left[0] <= 0:
            answer.update(running=False, reason="its time is over")
        return 200, answer

    api.answers = {"/v1/recording": asked, "/v1/recording/end": lambda _: (200, answer | {"reason": "asked"})}
    return answer


def test_it_asks_waits_and_fetches_the_file(
    api: Api, here: Path, recording: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    file = here / "mine.pfr"
    assert main(["record", str(file), "--seconds", "9", "--mib", "2", "--sandbox", "agent-1"]) == 0
    ((path, body),) = api.changes
    assert path == "/v1/recording"
    assert body == {
        "reason": "recorded by `pinfold record`", "seconds": 9, "bytes": 2 << 20, "sandbox": "agent-1",
    }  # fmt: skip
    assert file.read_bytes() == HELD
    assert file.stat().st_mode & 0o777 == 0o600
    assert not Path(recording["path"]).exists()
    assert capfd.readouterr().err.endswith("mine.pfr: 7 records, 17 bytes: its time is over\n")


def test_ctrl_c_ends_it_and_keeps_what_there_is(
    api: Api, here: Path, recording: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "_wait", interrupted)
    assert main(["record", str(here / "mine.pfr")]) == 0
    assert [path for path, _ in api.changes] == ["/v1/recording", "/v1/recording/end"]
    assert (here / "mine.pfr").read_bytes() == HELD


def test_nothing_is_overwritten_and_nothing_left_where_it_is_refused(
    api: Api, here: Path, recording: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    file = here / "mine.pfr"
    file.write_bytes(b"dear")
    assert main(["record", str(file)]) == 1
    assert (file.read_bytes(), api.asked) == (b"dear", [])
    api.answers["/v1/recording"] = lambda _: (403, {"error": "uid 7 may not record", "code": "denied"})
    assert main(["record", str(here / "other")]) == 4
    assert not (here / "other").exists()
    assert "uid 7 may not record" in capfd.readouterr().err


def test_anothers_recording_is_not_taken(
    api: Api, here: Path, recording: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    first = dict(recording)
    answers = iter([first])
    api.answers["/v1/recording"] = lambda _: (200, next(answers, {**first, "path": "/other", "running": False}))
    assert main(["record", str(here / "mine.pfr")]) == 1
    assert "the recording is another's by now" in capfd.readouterr().err
    assert Path(first["path"]).read_bytes() == HELD
    assert not (here / "mine.pfr").exists()
