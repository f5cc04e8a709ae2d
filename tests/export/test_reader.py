from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.export import reader
from sensor.export.reader import Follower, backwards, files, latest_with


def write(path: Path, lines: list[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in lines)


def test_files_come_newest_first_and_strangers_are_left_out(tmp_path: Path) -> None:
    for name in ("e", "e.10", "e.2", "e.1", "e.1.gz", "e.x", "other.1", "e.123456789"):
        (tmp_path / name).touch()
    assert [Path(name).name for name in files(str(tmp_path / "e"))] == ["e", "e.1", "e.2", "e.10"]
    assert files(str(tmp_path / "absent/e")) == []


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=30), st.binary(max_size=9))
def test_backwards_is_the_reverse_without_the_torn_end(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("back") / "e"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + torn.replace(b"\n", b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_CHUNK_BYTES", 7)
        assert list(backwards(str(path))) == lines[::-1]


def test_a_monstrous_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write(path, [b"before", b"x" * (reader.LINE_BYTES + reader._CHUNK_BYTES), b"after"])
    assert list(backwards(str(path))) == [b"after", b"before"]
    follower = Follower(str(path), from_end=False)
    seen: list[bytes] = []
    while follower.behind():
        seen += follower.read()
    assert seen[0] == b"before"
    assert seen[-1] == b"after"


def test_following_over_rotations_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "e"
    follower = Follower(str(path))
    assert follower.read() == []
    write(path, [b"1"])
    assert follower.read() == [b"1"]
    write(path, [b"2"])
    path.rename(tmp_path / "e.1")
    write(path, [b"3"])
    (tmp_path / "e.1").rename(tmp_path / "e.2")
    path.rename(tmp_path / "e.1")
    write(path, [b"4"])
    seen = [line for _ in range(4) for line in follower.read()]
    assert seen == [b"2", b"3", b"4"]
    assert follower.read() == []


def test_following_a_file_that_was_removed_begins_with_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write(tmp_path / "e.1", [b"history"])
    write(path, [b"1"])
    follower = Follower(str(path))
    path.unlink()
    assert follower.read() == []
    write(path, [b"2"])
    assert follower.read() == [b"2"]


def test_a_line_that_is_taken_back_was_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write(path, [b"old"])
    follower = Follower(str(path))
    with path.open("ab") as file:
        file.write(b"torn half")
    assert follower.read() == []
    with path.open("r+b") as file:
        file.truncate(4)
    write(path, [b"new"])
    assert follower.read() == [b"new"]


def test_a_viewer_that_is_behind_can_skip(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write(path, [])
    follower = Follower(str(path))
    write(path, [b"x" * 99] * 5000)
    with path.open("ab") as file:
        file.write(b"half")
    assert follower.behind() == 500004
    assert follower.skip() == 500000
    assert follower.read() == []
    assert follower.skip() == 0


def test_the_latest_lines_with_a_mark_over_rotations_and_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.1").write_bytes(b"a x\nb\nc x\n")
    path.write_bytes(b"d\ne x x\nf\ntorn x")
    assert list(latest_with(str(path), b"x", 1 << 20)) == [b"e x x", b"c x", b"a x"]
    assert list(latest_with(str(path), b"y", 1 << 20)) == []
    # Of a bound in the middle of a line, that line is left out.
    assert list(latest_with(str(path), b"x", path.stat().st_size + 4)) == [b"e x x"]
    assert list(latest_with(str(path), b"x", path.stat().st_size + 5)) == [b"e x x", b"c x"]
    assert list(latest_with(str(path), b"x", 3)) == []
