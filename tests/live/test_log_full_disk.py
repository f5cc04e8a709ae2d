"""The log on a disk that is really full: a tmpfs of a few pages."""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from sensor.config import Config, Log, Paths
from sensor.export import EventLog
from sensor.export.reader import backwards
from tests.export import samples

_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=64k,mode=700") != 0:
        pytest.fail(f"no tmpfs can be mounted (root is needed): {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        _libc.umount2(os.fsencode(folder), _MNT_DETACH)


def test_a_full_disk_is_counted_and_said_and_later_lines_stand_alone(tiny_disk: Path) -> None:
    lost: Counter[str] = Counter()
    said: list[str] = []

    def count(stage: str, reason: str, lines: int) -> None:
        assert stage == "log"
        lost[reason] += lines

    settings = Config(paths=Paths(log=str(tiny_disk)), log=Log(max_bytes=1 << 20))
    log = EventLog(settings, count, said.append)
    log.recover()
    for position in range(1, 101):
        log.add_detection(samples.detection(samples.process_creation(position=position)))
        log.add_activity(samples.process_creation(position=position, argv=b"x\0" * position))
        log.flush()
    path = tiny_disk / "events.jsonl"
    kept = [orjson.loads(line) for line in backwards(str(path))]
    assert path.read_bytes().endswith(b"}\n")
    assert lost["ENOSPC"] == 200 - len(kept) > 0
    assert len(said) == 1
    assert "No space left on device" in said[0]

    os.truncate(path, 0)  # somebody made room
    log.add_notice("room again")
    log.close()
    assert [orjson.loads(line)["text"] for line in backwards(str(path))] == ["room again"]


def test_a_disk_that_is_full_at_start_does_not_stop_the_start(tiny_disk: Path) -> None:
    (tiny_disk / "ballast").write_bytes(b"x" * 65536)
    lost: Counter[str] = Counter()
    said: list[str] = []
    log = EventLog(
        Config(paths=Paths(log=str(tiny_disk))),
        lambda _stage, reason, lines: lost.update({reason: lines}),
        said.append,
    )
    assert log.recover().last_event is None
    log.add_activity(samples.process_creation())
    log.flush()
    assert lost == {"ENOSPC": 1}
    (tiny_disk / "ballast").unlink()
    log.add_activity(samples.process_creation())
    log.close()
    assert (tiny_disk / "events.jsonl").read_bytes().count(b"\n") == 1
