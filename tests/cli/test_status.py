from __future__ import annotations

import json

import pytest

from sensor.cli import main
from tests.cli.fake_daemon import Api, sandbox


def findings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["status", "-o", "json"]) == 0
    found: list[str] = json.loads(capsys.readouterr().out)["findings"]
    return found


def test_nothing_to_find_is_0(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--check"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split() for line in out.splitlines()] == [
        ["Version", "0.2"],
        ["Enforcement", "armed"],
        ["Sandboxes", "4"],
        ["Lost", "none"],
        ["Findings", "none"],
    ]


@pytest.mark.parametrize(
    ("status", "finding"),
    [
        ({"armed": False}, "disarmed: nothing is refused, nobody is killed"),
        ({"lost": {"budget": 2, "full": 3}}, "5 events lost"),
        ({"ledger": "1 file cannot be believed"}, "the ledger is damaged: 1 file cannot be believed"),
        ({"dear": ["R: it takes 3 µs"]}, "a rule is too dear: R: it takes 3 µs"),
        ({"tamperable": 1}, "1 sandbox that can reach the sensor"),
        ({"unacknowledged": 1}, "1 detection that nobody acknowledged"),
    ],
)
def test_what_the_sensor_says_of_itself(
    api: Api, status: dict[str, object], finding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers["/v1/status"] = lambda _: (200, {"version": "0.2", "armed": True, "lost": {}} | status)
    assert findings(capsys) == [finding]
    assert main(["status", "--check"]) == 10


def test_quarantines_and_detections_are_found(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.quarantined(11)
    api.quarantined(12, "released")
    api.sandboxes.append(sandbox(31, "seen", detections=2))
    assert findings(capsys) == ["1 quarantine in force", "2 detections that nobody acknowledged"]


def test_quarantines_that_are_not_known_are_no_all_clear(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/quarantines"] = lambda _: (503, {"error": "busy", "code": "busy"})
    (found,) = findings(capsys)
    assert found.startswith("which quarantines are in force is not known: ")
    assert "busy" in found
