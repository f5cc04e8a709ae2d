from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from sensor.errors import ActError, NotFoundError
from sensor.export import silences as module
from sensor.export.silences import FILE, Silences, read

HOUR_NS = 3600 * 1_000_000_000


def test_what_was_said_is_there_after_a_restart(tmp_path: Path) -> None:
    said = Silences(str(tmp_path / "state"))
    said.acknowledge("1f-1/r", "looked at", "uid 0")
    now = time.time_ns()
    made = said.add({"rule": "R", "sandbox": 7, "class": "ci"}, now, now + HOUR_NS, "night", "uid 0")
    again = Silences(str(tmp_path / "state"))
    assert again.damage == ""
    assert again.acks()["1f-1/r"] == {
        "time_ns": again.acks()["1f-1/r"]["time_ns"],
        "operator": "uid 0",
        "reason": "looked at",
    }
    assert again.list() == [made]
    assert {name: made[name] for name in ("rule", "sandbox", "class", "reason")} == {
        "rule": "R", "sandbox": 7, "class": "ci", "reason": "night",
    }  # fmt: skip
    assert stat.S_IMODE(os.stat(tmp_path / "state" / FILE).st_mode) == 0o600
    assert again.remove(made["id"]) == made
    assert Silences(str(tmp_path / "state")).list() == []
    with pytest.raises(NotFoundError):
        again.remove(made["id"])


def test_only_what_fits_everything_at_the_time_is_silent(tmp_path: Path) -> None:
    said = Silences(str(tmp_path))
    now = time.time_ns()
    window = said.add({"rule": "Title", "sandbox": 7}, now + HOUR_NS, now + 2 * HOUR_NS, "x", "y")["id"]
    during = now + HOUR_NS
    assert said.silent("id", "Title", 7, "any", during) == window
    for rule, sandbox, at in (
        ("Other", 7, during), ("Title", 8, during), ("Title", 7, during - 1), ("Title", 7, now + 2 * HOUR_NS),
    ):  # fmt: skip
        assert said.silent("id", rule, sandbox, "any", at) == ""
    by_class = said.add({"class": "ci"}, now, now + HOUR_NS, "x", "y")["id"]
    assert said.silent("id", "t", 1, "ci", now) == by_class
    assert said.silent("id", "t", 1, "", now) == ""


def test_nothing_silences_everything(tmp_path: Path) -> None:
    with pytest.raises(ActError):
        Silences(str(tmp_path)).add({}, 0, time.time_ns() + HOUR_NS, "x", "y")
    assert not (tmp_path / FILE).exists()


def test_what_is_over_is_forgotten_and_numbers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ACKS", 3)
    monkeypatch.setattr(module, "MOST_SILENCES", 2)
    said = Silences(str(tmp_path))
    for number in range(5):
        said.acknowledge(str(number), "x", "y")
    assert list(said.acks()) == ["2", "3", "4"]
    now = time.time_ns()
    said.add({"rule": "past"}, 0, now - 1, "x", "y")
    for rule in ("a", "b"):
        said.add({"rule": rule}, now, now + HOUR_NS, "x", "y")
    assert [one["rule"] for one in said.list()] == ["a", "b"]
    with pytest.raises(ActError, match="end some first"):
        said.add({"rule": "c"}, now, now + HOUR_NS, "x", "y")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"acks": 5}', b'{"silences": [{"id": 1}]}', b"\xff"])
def test_a_damaged_file_is_kept_aside_and_silences_nothing(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    said = Silences(str(tmp_path))
    assert FILE in said.damage and "\n" not in said.damage
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == damage
    assert said.list() == [] and said.acks() == {}
    said.acknowledge("1", "x", "y")
    assert list(read(str(tmp_path)).acks) == ["1"]


def test_what_cannot_be_written_is_not_so(tmp_path: Path) -> None:
    said = Silences(str(tmp_path))
    said.acknowledge("1", "x", "y")
    (tmp_path / f"{FILE}.new").mkdir()
    with pytest.raises(ActError, match="nothing was changed"):
        said.acknowledge("2", "x", "y")
    assert list(said.acks()) == ["1"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep")
    (tmp_path / f"{FILE}.new").symlink_to(tmp_path / "target")
    with pytest.raises(ActError):
        Silences(str(tmp_path)).acknowledge("1", "x", "y")
    assert (tmp_path / "target").read_text() == "keep"
