"""Reads that hang are left behind, and not for long all together."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sensor.respond.evidence.bounded import LIMITS, Notes
from sensor.respond.evidence.files import Files, NotReadError
from sensor.respond.evidence.memory import Memory
from sensor.respond.evidence.processes import Process
from sensor.respond.evidence.worker import StalledError, Worker


def test_what_comes_back_is_given_and_what_fails_is_raised() -> None:
    worker = Worker()
    assert [worker.do(lambda n=n: n * 2, 10) for n in range(100)] == list(range(0, 200, 2))  # type: ignore[misc]
    with pytest.raises(FileNotFoundError):
        worker.do(lambda: os.stat("/nonexistent"), 10)
    assert worker.do(lambda: 5, 10) == 5
    assert worker.stalls == 0


def test_one_that_hangs_is_left_and_the_next_is_done() -> None:
    worker = Worker()
    reading, writing = os.pipe()
    with pytest.raises(StalledError):
        worker.do(lambda: os.read(reading, 1), 0.1)
    assert worker.do(lambda: 5, 60) == 5
    assert worker.stalls == 1
    os.write(writing, b"x")  # the thread that was left ends its read, and nobody hears of it
    assert worker.do(lambda: 6, 60) == 6
    os.close(writing)


def test_too_many_that_hang_end_it() -> None:
    worker = Worker()
    reading, writing = os.pipe()
    for _ in range(LIMITS["stalls"]):
        with pytest.raises(StalledError):
            worker.do(lambda: os.read(reading, 1), 0.01)
    with pytest.raises(StalledError):
        worker.do(lambda: pytest.fail("not asked any more"), 60)
    os.close(writing)


class Stalling(Worker):
    """Its reads come, and then it is told that they did not."""

    def do(self, job, seconds):  # type: ignore[no-untyped-def]
        job()
        raise StalledError


def this_process() -> Process:
    folder = os.open("/proc/self", os.O_PATH)
    stat = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return Process(os.getpid(), folder, folder, stat, {"tgid": os.getpid()})


def test_what_came_before_a_read_hung_counts() -> None:
    notes = Notes()
    process = this_process()
    Memory(Stalling(), notes).describe(process)
    assert process.record["memory_stalled"] is True
    assert process.record["maps"] and process.record["argv"] and process.record["environment"]
    assert (notes.partial and "do not come" in notes.lines[0]) or "did not come" in notes.lines[0]
    os.close(process.folder)


@pytest.mark.parametrize(
    ("raised", "told"),
    [(StalledError(), "in time"), (OSError(errno.EIO, "x"), "Input/output error"), (NotReadError("so"), "so")],
)
def test_why_a_file_was_not_read_is_told(raised: Exception, told: str) -> None:
    class Raising(Worker):
        def do(self, job, seconds):  # type: ignore[no-untyped-def]
            raise raised

    notes = Notes()
    process = this_process()
    process.exe = b"/bin/true"
    files = Files(Raising(), notes, float("inf"), 10, 10)
    assert files.hashes([process, process]) == []
    assert notes.partial
    assert [line.startswith("executables of 2 processes were not hashed: ") for line in notes.lines] == [True]
    assert told in notes.lines[0]
    os.close(process.folder)
