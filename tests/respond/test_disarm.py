from __future__ import annotations

from pathlib import Path

import pytest

from sensor.errors import ActError
from sensor.respond.disarm import Arming


def test_disarm_and_arm_are_idempotent_and_survive_their_maker(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert not Arming(state).disarmed()  # not even the folder is there
    for _ in range(2):
        Arming(state).disarm()
        assert Arming(state).disarmed()
    assert (state / "disarmed").stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        Arming(state).arm()
        assert not Arming(state).disarmed()


def test_what_cannot_be_told_counts_as_disarmed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert Arming(tmp_path / "loop").disarmed()  # ELOOP


def test_a_marker_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ActError, match="disarmed: cannot be written"):
        Arming(tmp_path / "file").disarm()


def test_a_marker_that_cannot_be_removed_is_said(tmp_path: Path) -> None:
    (tmp_path / "disarmed").mkdir()
    with pytest.raises(ActError, match="disarmed: cannot be removed"):
        Arming(tmp_path).arm()
