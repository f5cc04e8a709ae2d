"""Programs denied by content: the file is read by a child, and what is denied is told with its hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from sensor.events.activity import ProcessCreation
from sensor.respond.hashes import MOST_WAITING, Hashes
from tests.export import samples

OLD_S = 1_000_000_000


class Told:
    def __init__(self, *denied: str) -> None:
        self.denied: list[tuple[int, str, int]] = []
        self.lost: list[str] = []
        self.hashes = Hashes(lambda name: frozenset(denied if name == "agents" else ()), self._denied, self.lost.append)

    def _denied(self, execed: ProcessCreation, digest: str, changed: int) -> None:
        self.denied.append((execed.ProcessId, digest, changed))

    def settle(self) -> None:
        until = time.monotonic() + 20
        while self.hashes.busy:
            self.hashes.poll(time.monotonic_ns())
            assert time.monotonic() < until
            time.sleep(0.001)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    copy = tmp_path / "sleep"
    shutil.copy("/bin/sleep", copy)
    running = subprocess.Popen([str(copy), "60"])
    yield running
    running.kill()
    running.wait()


def execed(program: subprocess.Popen[bytes], *, old: bool = True, class_: str = "agents") -> ProcessCreation:
    path = Path(f"/proc/{program.pid}/exe")
    # The exec has happened when the link is the program's.
    until = time.monotonic() + 20
    while path.resolve().name != "sleep":
        assert time.monotonic() < until
    ticks = int(Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[19])
    found = path.stat()
    made = samples.process_creation(
        ProcessId=program.pid,
        ProcessGuid=f"{program.pid}-{ticks * 10_000_000}",
        ImageDevice=os.major(found.st_dev) << 20 | os.minor(found.st_dev),
        ImageInode=found.st_ino,
        ImageChanged=int(found.st_ctime),
        SandboxClass=class_,
        Killed=False,
    )
    return replace(made, time_ns=int((found.st_ctime + (1000 if old else 0)) * 1e9))


DIGEST = hashlib.sha256(Path("/bin/sleep").read_bytes()).hexdigest()


def test_a_denied_content_is_told_and_another_is_not(program: subprocess.Popen[bytes]) -> None:
    told = Told(DIGEST)
    told.hashes.observe(execed(program, class_="other"))
    assert not told.hashes.busy
    one = execed(program)
    told.hashes.observe(one)
    told.settle()
    assert told.denied == [(program.pid, DIGEST, one.ImageChanged)]
    told.hashes.observe(one)  # known by now: no child is asked
    assert told.denied == [(program.pid, DIGEST, one.ImageChanged)] * 2
    assert not told.hashes.busy
    harmless = Told("0" * 64)
    harmless.hashes.observe(one)
    harmless.settle()
    assert harmless.denied == []
    for each in (told, harmless):
        each.hashes.close()


def test_what_was_changed_a_moment_ago_is_read_again(program: subprocess.Popen[bytes]) -> None:
    told = Told("0" * 64)
    told.hashes.observe(execed(program, old=False))
    told.settle()
    told.hashes.observe(execed(program, old=False))
    assert told.hashes.busy
    told.settle()
    told.hashes.close()


def test_another_inode_than_was_run_is_not_remembered(program: subprocess.Popen[bytes]) -> None:
    told = Told(DIGEST)
    told.hashes.observe(replace(execed(program), ImageInode=1))
    told.settle()
    assert told.denied == [(program.pid, DIGEST, 0)]
    told.hashes.close()


def test_one_that_is_gone_or_lost_its_number_is_nobody(program: subprocess.Popen[bytes]) -> None:
    told = Told(DIGEST)
    one = execed(program)
    told.hashes.observe(replace(one, ProcessGuid=f"{program.pid}-10000000"))
    told.hashes.observe(replace(one, ProcessId=2**22 + 1, ImageInode=7))
    told.settle()
    assert told.denied == [] and told.lost == []
    told.hashes.close()


def test_a_flood_is_bounded_and_counted() -> None:
    told = Told(DIGEST)
    for number in range(MOST_WAITING + 5):
        told.hashes.observe(samples.process_creation(SandboxClass="agents", Killed=False, ImageInode=number))
    assert told.lost == ["waiting"] * 5
    told.hashes.close()


def test_a_child_that_hangs_is_given_up(program: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hang = Path(f"/proc/{program.pid}/exe").resolve().parent / "hang.py"
    hang.write_text("import time\nwhile True: time.sleep(60)\n")
    monkeypatch.setattr("sensor.respond.hashes.PROGRAM", str(hang))
    told = Told(DIGEST)
    told.hashes.observe(execed(program))
    now = time.monotonic_ns()
    told.hashes.poll(now)
    told.hashes.poll(now + 6_000_000_000)
    assert told.lost == ["late"] and not told.hashes.busy
