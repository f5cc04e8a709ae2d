from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import ActError, NotFoundError, UsageError
from sensor.respond import silences
from sensor.respond.silences import MOST_SECONDS, SECOND_NS, Silence, Silences
from tests.respond.host import Record
from tests.respond.test_following import detection

FOUND = detection(Record(7, 5))
NOW = 10**18


class Kept:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notices: list[str] = []
        self.clock = NOW

    def open(self) -> Silences:
        return Silences(str(self.folder), lambda text, **_: self.notices.append(text), lambda: self.clock)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "state")


def silence(**changed: Any) -> Silence:
    given: dict[str, Any] = {
        "id": "",
        "reason": "why",
        "operator": "uid 0",
        "from_ns": 0,
        "until_ns": NOW + 60 * SECOND_NS,
        "class_": "*",
    }
    return Silence(**(given | changed))


@pytest.mark.parametrize(
    ("changed", "fits"),
    [
        ({}, True),
        ({"class_": "a"}, True),
        ({"class_": "b"}, False),
        ({"rule": "rule"}, True),
        ({"rule": "A rule"}, True),
        ({"rule": "other"}, False),
        ({"sandbox": "4711"}, True),
        ({"sandbox": "box"}, True),
        ({"sandbox": "bo"}, False),
        ({"rule": "rule", "sandbox": "other"}, False),
        ({"from_ns": NOW + SECOND_NS}, False),
        ({"from_ns": NOW}, True),
    ],
)
def test_all_that_is_given_must_fit(kept: Kept, changed: dict[str, Any], fits: bool) -> None:
    one = kept.open()
    one.add(silence(**changed))
    assert bool(one.matches(FOUND)) is fits


def test_silences_end_by_themselves(kept: Kept) -> None:
    one = kept.open()
    made = one.add(silence())
    assert one.listed() == [made]
    kept.clock = made.until_ns
    assert one.matches(FOUND) == ""
    assert one.listed() == []
    assert kept.open().listed() == []


def test_they_outlive_a_restart_and_are_root_s_alone(kept: Kept) -> None:
    one = kept.open()
    made = one.add(silence())
    one.acknowledge(FOUND.id, "known", "uid 0")
    again = kept.open()
    assert again.listed() == [made]
    assert again.acknowledged(FOUND) == "acknowledged by uid 0: known"
    assert again.acknowledgement(FOUND.id) is not None
    assert stat.S_IMODE((kept.folder / "silences.json").stat().st_mode) == 0o600
    assert [path.name for path in kept.folder.iterdir()] == ["silences.json"], "nothing is left beside it"


def test_what_is_taken_back_is_in_force_no_more(kept: Kept) -> None:
    one = kept.open()
    made = one.add(silence())
    assert one.remove(made.id) == made
    assert one.matches(FOUND) == kept.open().matches(FOUND) == ""
    with pytest.raises(NotFoundError):
        one.remove(made.id)


@pytest.mark.parametrize(
    "changed",
    [
        {"reason": " "}, {"reason": "a\nb"}, {"reason": "x" * 501}, {"operator": ""}, {"class_": ""}, {"until_ns": NOW},
        {"until_ns": NOW + (MOST_SECONDS + 1) * SECOND_NS}, {"rule": "\x1b[2J"}, {"sandbox": "x" * 501},
        {"from_ns": NOW + 60 * SECOND_NS},
    ],
)  # fmt: skip
def test_what_is_no_silence_is_refused(kept: Kept, changed: dict[str, Any]) -> None:
    one = kept.open()
    with pytest.raises(UsageError):
        one.add(silence(**changed))
    assert one.listed() == []


def test_they_are_bounded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silences, "MOST_SILENCES", 2)
    monkeypatch.setattr(silences, "MOST_ACKNOWLEDGED", 2)
    one = kept.open()
    one.add(silence(until_ns=NOW + SECOND_NS))
    one.add(silence())
    with pytest.raises(UsageError, match="in force already"):
        one.add(silence())
    kept.clock += 2 * SECOND_NS
    one.add(silence())  # the first has ended
    for number in range(3):
        one.acknowledge(f"1-{number}/r", "known", "uid 0")
    assert [one.acknowledgement(f"1-{number}/r") is not None for number in range(3)] == [False, True, True]


def test_what_cannot_be_written_is_not_in_force(kept: Kept) -> None:
    one = kept.open()
    kept.folder.write_text("a file in the place of the folder")
    with pytest.raises(ActError, match=r"silences\.json: cannot be written"):
        one.add(silence())
    with pytest.raises(ActError):
        one.acknowledge(FOUND.id, "known", "uid 0")
    assert one.matches(FOUND) == one.acknowledged(FOUND) == ""


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 2}', b'{"silences": [{}]}', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_file_is_put_aside_and_silences_nothing(kept: Kept, content: bytes) -> None:
    kept.open().add(silence())
    path = kept.folder / "silences.json"
    path.write_bytes(content)
    one = kept.open()
    assert one.matches(FOUND) == ""
    (notice,) = kept.notices
    assert "none is in force" in notice
    (aside,) = kept.folder.iterdir()
    assert aside.name.startswith("silences.json.damaged-") and aside.read_bytes() == content
    one.add(silence())
    assert kept.open().matches(FOUND) != ""


@pytest.mark.parametrize("how", ["link", "writable", "owner", "fifo"])
def test_a_file_that_somebody_else_made_is_not_believed(kept: Kept, how: str) -> None:
    kept.open().add(silence())
    path = kept.folder / "silences.json"
    if how == "link":
        path.rename(kept.folder / "elsewhere")
        path.symlink_to(kept.folder / "elsewhere")
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif how == "writable":
        path.chmod(0o666)
    else:
        os.chown(path, 12345, -1)
    assert kept.open().matches(FOUND) == ""
    assert len(kept.notices) == 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_sandbox_is_called_it_fits_only_itself(named: str, other: str) -> None:
    found = detection(Record(7, 5), SandboxName=named)
    assert silence(sandbox=other).fits(found, NOW) == (other in ("", named, "4711"))
