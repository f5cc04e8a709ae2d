from __future__ import annotations

import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from sensor.errors import HostError
from sensor.export import EventLog
from sensor.export.reader import backwards, files
from tests.export import samples
from tests.export.writer import config, detection_of, event

REPOSITORY = Path(__file__).parents[2]


class Told:
    """What a log said of its losses."""

    def __init__(self) -> None:
        self.lost: Counter[tuple[str, str]] = Counter()
        self.calls: list[tuple[str, str, int]] = []
        self.said: list[str] = []

    def count(self, stage: str, reason: str, lines: int) -> None:
        self.lost[stage, reason] += lines
        self.calls.append((stage, reason, lines))


@pytest.fixture
def told() -> Told:
    return Told()


def open_log(folder: Path, told: Told, **settings: int) -> EventLog:
    return EventLog(config(str(folder), **settings), told.count, told.said.append)


def records(folder: Path) -> list[dict[str, Any]]:
    """All, in the order of writing; a line that is no JSON fails the test."""
    return [orjson.loads(line) for line in backwards(str(folder / "events.jsonl"))][::-1]


def test_lines_wait_for_the_flush_and_keep_their_order(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path / "log", told)
    assert log.recover().last_event is None
    log.add_sandbox(samples.sandbox_change())
    log.add_detection(samples.detection())
    log.add_response(samples.response())
    log.add_activity(samples.process_creation())
    log.add_response(samples.response(outcome="done"))
    log.add_notice("hello", count=1)
    assert (tmp_path / "log/events.jsonl").read_bytes() == b""
    log.flush()
    kinds = [record["kind"] for record in records(tmp_path / "log")]
    assert kinds == ["sandbox", "detection", "response", "event", "response", "notice"]
    assert told.calls == []


def test_the_files_are_root_s_alone(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path / "log", told)
    log.recover()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "log/events.jsonl").stat().st_mode) == 0o600
    (tmp_path / "log/events.jsonl").chmod(0o644)
    open_log(tmp_path / "log", told).recover()
    assert stat.S_IMODE((tmp_path / "log/events.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_what_is_no_file_of_ours_is_refused_at_start(tmp_path: Path, told: Told, kind: str) -> None:
    path = tmp_path / "events.jsonl"
    if kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(HostError, match=r"events\.jsonl' cannot be used: .*see paths\.log"):
        open_log(tmp_path, told).recover()
    assert not (tmp_path / "elsewhere").exists()


def test_rotation_keeps_so_many_files_and_loses_nothing_within_them(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told, max_bytes=4096, keep=3)
    log.recover()
    for position in range(1, 40):
        log.add_activity(samples.process_creation(position=position))
        log.flush()
    names = [os.path.basename(name) for name in files(log.path)]
    assert names == ["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3"]
    assert all((tmp_path / name).stat().st_size <= 4096 for name in names)
    positions = [int(record["id"].split("-")[1], 16) for record in records(tmp_path)]
    assert positions == list(range(positions[0], 40))
    assert len(positions) > 6


def test_a_rotation_that_fails_is_counted_and_the_file_goes_on(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told, max_bytes=4096, keep=2)
    log.recover()
    (tmp_path / "events.jsonl.1").mkdir()
    (tmp_path / "events.jsonl.1/in the way").touch()
    (tmp_path / "events.jsonl.2").mkdir()
    (tmp_path / "events.jsonl.2/too").touch()
    for position in range(1, 20):
        log.add_activity(samples.process_creation(position=position))
        log.flush()
    assert (tmp_path / "events.jsonl").read_bytes().count(b"\n") == 19
    assert set(told.calls) == {("log", "rotate", 0)}
    assert len(told.said) == 1
    assert "cannot be rotated" in told.said[0]


def test_a_gap_in_the_numbers_is_filled_not_shifted(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told, max_bytes=4096, keep=4)
    log.recover()
    (tmp_path / "events.jsonl.3").write_text("old\n")
    log.add_activity(samples.process_creation(argv=b"x\0" * 2000))
    log.flush()
    log.add_activity(samples.process_creation())
    log.flush()
    assert [os.path.basename(name) for name in files(log.path)] == ["events.jsonl", "events.jsonl.1", "events.jsonl.3"]
    assert (tmp_path / "events.jsonl.3").read_text() == "old\n"


def test_a_removed_file_is_made_again(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told)
    log.recover()
    (tmp_path / "events.jsonl").unlink()
    log.add_notice("still here")
    log.flush()
    assert [record["text"] for record in records(tmp_path)] == ["still here"]


def test_a_response_names_the_sandbox_of_its_detection(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told)
    log.recover()
    for number in range(5000):
        log.add_detection(samples.detection(id=str(number)))
    log.add_response(samples.response(detection_id="4999", outcome="done"))
    log.add_response(samples.response(detection_id="0", outcome="done"))
    log.close()
    known, forgotten = records(tmp_path)[-2:]
    assert (known["SandboxId"], known["SandboxName"]) == (4242, "agent-1")
    assert "SandboxName" not in forgotten


def test_a_large_batch_does_not_wait_for_the_flush(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told, max_bytes=1 << 30)
    log.recover()
    for _ in range(300):
        log.add_notice("x" * 16384)
    assert (tmp_path / "events.jsonl").stat().st_size > 4 * 1024 * 1024


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond `size` are cut short by the kernel, then fail with EFBIG: a disk filling up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_line_cut_by_a_full_disk_is_taken_back_and_later_lines_stand_alone(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told)
    log.recover()
    for position in range(1, 5):
        log.add_activity(samples.process_creation(position=position))
    line = len(b"".join(log._batch)) // 4
    with file_size_limit(2 * line + 100):
        log.flush()
        assert (tmp_path / "events.jsonl").read_bytes().endswith(b"}\n")
        log.add_notice("lost too" * 50)
        log.flush()
    log.add_notice("room again")
    log.flush()
    assert [record.get("id") or record["text"] for record in records(tmp_path)] == ["1f-1", "1f-2", "room again"]
    assert told.calls == [("log", "EFBIG", 2), ("log", "EFBIG", 1)]
    assert len(told.said) == 1
    assert "cannot be written, lines are lost" in told.said[0]


@pytest.mark.parametrize("torn", [b'{"v":1,"kind":"ev', b"\x00" * 9000, b'{"v":1,"kind":"event","id":"1f-ffff"}'])
def test_a_torn_last_line_is_removed_and_told(tmp_path: Path, told: Told, torn: bytes) -> None:
    log = open_log(tmp_path, told)
    log.recover()
    log.add_activity(samples.process_creation(position=7))
    log.close()
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(torn)
    log = open_log(tmp_path, told)
    recovery = log.recover()
    log.flush()
    assert (recovery.torn_bytes, recovery.last_event) == (len(torn), (0x1F, 7))
    notice = records(tmp_path)[-1]
    assert (notice["kind"], notice["fields"]) == ("notice", {"torn_bytes": len(torn)})


def test_recovery_finds_the_commit_and_what_stands_behind_it(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told)
    log.recover()
    log.add_detection(samples.detection(id="a"))
    log.add_response(samples.response(detection_id="a"))
    log.add_response(samples.response(detection_id="a", outcome="done"))
    log.add_detection(samples.detection(id="b"))
    log.add_response(samples.response(detection_id="b", action="kill-sandbox"))
    log.add_activity(samples.process_creation(generation=2, position=0xFF))
    log.add_activity(samples.process_creation(generation=0, position=3, Existing=True))
    log.add_sandbox(samples.sandbox_change(generation=0, position=0, change="found"))
    log.add_detection(samples.detection(id="c"))
    log.add_response(samples.response(detection_id="c"))
    log.add_detection(samples.detection(id="d"))
    log.add_response(samples.response(detection_id="d"))
    log.add_response(samples.response(detection_id="d", outcome="gone"))
    log.add_notice("unrelated")
    log.close()
    recovery = open_log(tmp_path, told).recover()
    assert recovery.last_event == (2, 0xFF)
    assert recovery.pending_detections == {"c", "d"}
    assert recovery.pending_intents == {"b": "kill-sandbox", "c": "kill"}
    assert recovery.settled == {"d"}
    assert (recovery.torn_bytes, recovery.unreadable) == (0, 0)


def test_what_no_record_told_is_no_place_in_the_ring(tmp_path: Path, told: Told) -> None:
    """A file event, or a behaviour that came of time: the ring's records after the last of its own come again."""
    log = open_log(tmp_path, told)
    log.recover()
    log.add_activity(samples.process_creation(generation=2, position=0xFF))
    log.add_detection(samples.detection(id="pending"))
    log.add_activity(samples.file_event(generation=0, position=1 << 60))
    log.close()
    recovery = open_log(tmp_path, told).recover()
    assert recovery.last_event == (2, 0xFF)
    assert recovery.pending_detections == {"pending"}


def test_recovery_looks_into_rotated_files_and_over_damage(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told)
    log.recover()
    log.add_sandbox(samples.sandbox_change(generation=3, position=9))
    log.add_detection(samples.detection(id="rotated"))
    log.close()
    (tmp_path / "events.jsonl").rename(tmp_path / "events.jsonl.2")
    (tmp_path / "events.jsonl.1").write_bytes(b'not json\n{"v":1}\n[1]\n{"v":2,"kind":"event","id":"f-f"}\n\n')
    log = open_log(tmp_path, told)
    recovery = log.recover()
    log.flush()
    assert recovery.last_event == (3, 9)
    assert recovery.pending_detections == {"rotated"}
    assert recovery.unreadable == 4
    assert records_text(tmp_path / "events.jsonl") == ["lines of the log cannot be read"]


def records_text(path: Path) -> list[str]:
    return [orjson.loads(line)["text"] for line in path.read_bytes().splitlines()]


def test_recovery_of_a_long_log_reads_its_end_only(tmp_path: Path, told: Told) -> None:
    log = open_log(tmp_path, told, max_bytes=1 << 30)
    log.recover()
    log.add_response(samples.response(detection_id="history"))
    for position in range(1, 4000):
        log.add_activity(samples.process_creation(position=position))
    log.close()
    recovery = open_log(tmp_path, told).recover()
    assert recovery.last_event == (0x1F, 3999)
    assert recovery.pending_intents == {}


def test_kill_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random()  # noqa: S311
    command = [sys.executable, "-m", "tests.export.writer", str(tmp_path)]
    for _ in range(12):
        with subprocess.Popen([*command, "1000000"], cwd=REPOSITORY, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(chance.random() * 0.1)
            writer.kill()
        assert writer.returncode == -signal.SIGKILL
    subprocess.run([*command, "100"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    lines = records(tmp_path)
    events = [int(line["id"].split("-")[1], 16) for line in lines if line["kind"] == "event"]
    assert events == list(range(1, len(events) + 1))
    expected = [found for position in events if (found := detection_of(position))]
    assert [line["id"] for line in lines if line["kind"] == "detection"] == expected
    responses = [line for line in lines if line["kind"] == "response"]
    assert [line["detection"] for line in responses if line["outcome"] == "intent"] == expected
    assert sorted(line["detection"] for line in responses if line["outcome"] != "intent") == sorted(expected)
    assert all(line["Argv"] == ["x"] * event(position).argv.count(b"x") for line, position in
               zip((line for line in lines if line["kind"] == "event"), events, strict=True))  # fmt: skip
