"""The ledger's files: whole, ours alone, and what is done with those that are not."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import HostError
from sensor.respond.quarantine import ledger as ledger_module
from sensor.respond.quarantine.ledger import Ledger, encoded
from sensor.respond.quarantine.record import Record, new_record
from tests.respond.quarantine.quarantining import order


def record(path: str = "/box", number: int = 7) -> Record:
    return new_record(order(number, path), "boot", 0, time.time_ns())


def opened(state: Path) -> Ledger:
    ledger = Ledger(str(state))
    assert ledger.open(acting=True)
    return ledger


def test_what_is_saved_is_there_and_nobody_else_reads_it(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    one = record()
    ledger.save(one)
    ledger.close()
    assert ledger.saved(one.id)
    folder = tmp_path / "quarantine"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{one.id}.json").stat().st_mode) == 0o600
    assert sorted(os.listdir(folder)) == sorted(["lock", f"{one.id}.json"])
    assert opened(tmp_path).load() == [one]


def test_a_path_of_bytes_survives(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    one = record(os.fsdecode(b"/box-\xff\xfe"))
    ledger.save(one)
    ledger.close()
    assert opened(tmp_path).load()[0].order.path == one.order.path


def test_one_process_acts_at_a_time(tmp_path: Path) -> None:
    first, second, reader = opened(tmp_path), Ledger(str(tmp_path)), Ledger(str(tmp_path))
    assert not second.open(acting=True)
    assert reader.open(acting=False)
    first.close()
    assert second.open(acting=True)


def test_a_reader_makes_and_changes_nothing(tmp_path: Path) -> None:
    reader = Ledger(str(tmp_path))
    assert reader.open(acting=False)
    assert reader.load() == []
    assert os.listdir(tmp_path) == []
    folder = tmp_path / "quarantine"
    folder.mkdir(mode=0o700)
    (folder / "q1-a.json").write_text("{")
    reader = Ledger(str(tmp_path))
    reader.open(acting=False)
    assert reader.load() == [] and reader.damaged == ["q1-a.json"]
    assert os.listdir(folder) == ["q1-a.json"]


@pytest.mark.parametrize("case", ["symlink", "writable", "file", "owner"])
def test_a_folder_that_somebody_else_made_is_refused(tmp_path: Path, case: str) -> None:
    folder, other = tmp_path / "quarantine", tmp_path / "other"
    other.mkdir(mode=0o700)
    if case == "symlink":
        folder.symlink_to(other)
    elif case == "file":
        folder.touch()
    else:
        folder.mkdir(mode=0o700)
    if case == "writable":
        folder.chmod(0o720)
    if case == "owner":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(folder, 65534, 65534)
    with pytest.raises(HostError, match="quarantine: refused: it "):
        Ledger(str(tmp_path)).open(acting=True)
    assert not os.listdir(other)


def written(tmp_path: Path, one: Record) -> Path:
    ledger = opened(tmp_path)
    ledger.save(one)
    ledger.close()
    return tmp_path / "quarantine" / f"{one.id}.json"


@pytest.mark.parametrize("case", ["torn", "empty", "symlink", "writable", "another", "fifo", "large"])
def test_a_file_that_cannot_be_believed_is_put_aside_for_good(tmp_path: Path, case: str) -> None:
    one = record()
    file = written(tmp_path, one)
    data = file.read_bytes()
    if case == "torn":
        file.write_bytes(data[: len(data) // 2])
    elif case == "empty":
        file.write_bytes(b"")
    elif case == "symlink":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif case == "writable":
        file.chmod(0o620)
    elif case == "another":
        file.rename(file.with_name("q2-b.json"))
        file = file.with_name("q2-b.json")
    elif case == "fifo":
        file.unlink()
        os.mkfifo(file, 0o600)
    else:
        os.truncate(file, ledger_module.MOST_BYTES + 1)
    aside = f"{file.name}.corrupt-1"
    for _ in range(2):  # also for the next start, until somebody removes it
        ledger = opened(tmp_path)
        assert ledger.load() == []
        assert ledger.damaged == [aside]
        ledger.close()
    assert os.path.lexists(file.with_name(aside)) and not os.path.lexists(file)


def test_a_second_corrupt_file_of_that_name_overwrites_nothing(tmp_path: Path) -> None:
    one = record()
    for _ in range(2):
        written(tmp_path, one).write_bytes(b"{")
        ledger = opened(tmp_path)
        ledger.load()
        ledger.close()
    assert ledger.damaged == [f"{one.id}.json.corrupt-1", f"{one.id}.json.corrupt-2"]


@settings(max_examples=200)
@given(data=st.one_of(st.binary(max_size=200), st.integers(0, 10_000)))
def test_no_file_raises(tmp_path_factory: pytest.TempPathFactory, data: bytes | int) -> None:
    """Noise, and one byte of a good file changed."""
    tmp_path = tmp_path_factory.mktemp("ledger")
    one = record()
    folder = tmp_path / "quarantine"
    folder.mkdir(mode=0o700)
    good = bytearray(encoded(one))
    if isinstance(data, int):
        good[data % len(good)] ^= 1 + data % 255
        data = bytes(good)
    file = folder / f"{one.id}.json"
    file.write_bytes(data)
    file.chmod(0o600)
    ledger = opened(tmp_path)
    assert len(ledger.load()) + len(ledger.damaged) == 1
    ledger.close()


def test_deep_nesting_is_damage(tmp_path: Path) -> None:
    file = written(tmp_path, record())
    file.write_bytes(b"[" * 200_000)
    ledger = opened(tmp_path)
    assert ledger.load() == [] and len(ledger.damaged) == 1


def test_what_a_crash_left_whole_but_not_renamed_counts(tmp_path: Path) -> None:
    one = record()
    file = written(tmp_path, one)
    one.state = "held"
    file.with_suffix(".tmp").write_bytes(encoded(one))
    file.with_suffix(".tmp").chmod(0o600)
    ledger = opened(tmp_path)
    assert ledger.load() == [one]
    assert not file.with_suffix(".tmp").exists()


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    one = record()
    file = written(tmp_path, one)
    file.with_suffix(".tmp").write_bytes(b"{")
    ledger = opened(tmp_path)
    assert ledger.load() == [one] and ledger.damaged == []
    assert not file.with_suffix(".tmp").exists()


def test_a_disk_that_takes_nothing_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(tmp_path)
    write = Ledger._write

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    one = record()
    monkeypatch.setattr(Ledger, "_write", full)
    ledger.save(one)
    while not ledger.saved(one.id):
        time.sleep(0.001)
    assert list(ledger.failures()) == [(one.id, "No space left on device")]
    monkeypatch.setattr(Ledger, "_write", write)
    ledger.save(one)
    ledger.close()
    assert list(ledger.failures()) == []
    assert json.loads((tmp_path / "quarantine" / f"{one.id}.json").read_bytes())["id"] == one.id
