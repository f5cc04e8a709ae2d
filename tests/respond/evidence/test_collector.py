"""The core's side, with children that do not do as they should."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sensor.respond.evidence import collector as module
from sensor.respond.evidence.collector import FINISH_NS, MOST_AT_WORK, MOST_LEFT, WAIT_NS, Collector, Wanted
from sensor.respond.evidence.verify import manifest, verify
from tests.respond.evidence.boxes import FILE, SECONDS, TOTAL, Archive, empty_cgroup, identity, running, until

SECONDS_NS = SECONDS * 10**9
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to read other processes")


def script(path: Path, code: str) -> tuple[str, ...]:
    path.write_text(code)
    return (sys.executable, "-I", "-S", str(path))


def make(tmp_path: Path, command: tuple[str, ...]) -> Collector:
    return Collector(str(tmp_path / "evidence"), str(tmp_path / "mount"), TOTAL, FILE, SECONDS, command=command)


def wanted(tmp_path: Path, name: str = "q", *tgids: int) -> Wanted:
    return Wanted(name, empty_cgroup(tmp_path)[1], "/box", tuple(map(identity, tgids)))


def left(collector: Collector, many: int) -> None:
    """Others that have answered are gone soon."""
    deadline = time.monotonic() + 30
    while collector.left != many:
        assert collector.poll(time.monotonic_ns()) == []
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert collector.idle


# The real child, but for one part that tells us that it has begun, and hangs.
HANGING = """
import os, sys, time
sys.path.insert(0, {top!r})
import sensor.respond.evidence.collect as collect
def hang(self, processes):
    os.close(os.open({fifo!r}, os.O_WRONLY))
    time.sleep(600)
collect.Files.hashes = hang
from sensor.respond.evidence import child
child.main()
os._exit(0)
"""


def hanging(tmp_path: Path) -> tuple[Collector, Path]:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    top = str(Path(module.__file__).parents[3])
    return make(tmp_path, script(tmp_path / "hang.py", HANGING.format(top=top, fifo=str(fifo)))), fifo


@root
@pytest.mark.parametrize("by", ["time", "somebody"])
def test_a_killed_child_leaves_an_archive_that_says_so(tmp_path: Path, by: str) -> None:
    collector, fifo = hanging(tmp_path)
    with running("") as tgid:
        now = time.monotonic_ns()
        assert collector.start(wanted(tmp_path, "q", tgid), now)
        fifo.read_bytes()
        assert collector.poll(now + SECONDS_NS - 1) == []
        if by == "time":
            [collected] = until(collector, now + SECONDS_NS)
        else:
            os.kill(collector._children["q"].pid, signal.SIGKILL)
            [collected] = until(collector, now)
    assert not collected.ok
    assert collected.detail.startswith("partial, 4 members, 0 files; missing: ")
    assert ("its time was over" if by == "time" else "the child ended") in collected.detail
    assert verify(collected.archive) == []
    archive = Archive(collected.archive)
    assert archive.manifest["complete"] is False and archive.manifest["missing"]
    assert archive.processes[tgid]["argv"][0] == sys.executable
    assert os.listdir(tmp_path / "evidence") == ["q.tar.gz"], "nothing else is left"
    assert Path(collected.archive).stat().st_mode & 0o777 == 0o600
    left(collector, 0)


@root
def test_a_torn_member_is_left_out(tmp_path: Path) -> None:
    collector, fifo = hanging(tmp_path)
    with running("") as tgid:
        now = time.monotonic_ns()
        assert collector.start(wanted(tmp_path, "q", tgid), now)
        fifo.read_bytes()
        [left] = (tmp_path / "evidence").glob(".q.*.part")
        with left.open("ab") as file:
            file.write(b"half a member")
        [collected] = until(collector, now + SECONDS_NS)
    assert verify(collected.archive) == []


FUSE_INIT = 26
Stalled = tuple[Path, threading.Event]


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[Stalled]:
    """A FUSE file system that answers INIT and nothing else: a look-up waits, killed or not. The event: one does."""
    libc = ctypes.CDLL(None, use_errno=True)
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    at = tmp_path / "stalled"
    at.mkdir()
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fuse
    assert libc.mount(b"stall", bytes(at), b"fuse.stall", 0, options) == 0, os.strerror(ctypes.get_errno())

    waits = threading.Event()

    def serve() -> None:
        while True:
            try:
                request = os.read(fuse, 1 << 20)
            except OSError:  # ENODEV: it is no longer mounted
                return
            _, opcode, unique = struct.unpack_from("=IIQ", request)
            if opcode == FUSE_INIT:
                head = (80, 0, unique, 7, 31, 0, 0, 9, 9, 4096, 1, 1, 0, 0)
                os.write(fuse, struct.pack("=IiQ IIIIHHIIHHI", *head) + bytes(28))
            else:
                waits.set()

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield at, waits
    finally:
        assert libc.umount2(bytes(at), 1 | 2) == 0  # MNT_FORCE, which fails what waits, and MNT_DETACH
        server.join()
        os.close(fuse)


@root
def test_a_child_that_no_signal_ends_is_left_and_reported(
    tmp_path: Path, stalled: tuple[Path, threading.Event]
) -> None:
    mount, cgroup_id = empty_cgroup(tmp_path)
    folder, waits = stalled
    collector = Collector(str(folder / "evidence"), mount, TOTAL, FILE, SECONDS)
    now = time.monotonic_ns()
    assert collector.start(Wanted("q", cgroup_id, "/box"), now)
    assert waits.wait(30)
    assert collector.poll(now + SECONDS_NS) == []
    [collected] = until(collector, now + SECONDS_NS)
    assert not collected.ok and collected.archive == ""
    assert collected.detail == (
        "no archive: nothing was collected: its time was over; a read hangs where no signal ends it"
    )
    left(collector, 1)
    ctypes.CDLL(None).umount2(bytes(folder), 1)  # MNT_FORCE alone leaves it mounted: what waits fails
    left(collector, 0)


def test_neither_a_child_nor_its_second_is_waited_for(tmp_path: Path) -> None:
    collector = make(tmp_path, script(tmp_path / "sleep.py", "import time; time.sleep(600)"))
    now = time.monotonic_ns()
    assert collector.start(wanted(tmp_path), now)
    assert collector.poll(now + SECONDS_NS - 1) == []
    assert collector.poll(now + SECONDS_NS) == []
    assert not collector.idle
    assert collector.poll(now + SECONDS_NS + FINISH_NS - 1) == []
    [collected] = collector.poll(now + SECONDS_NS + FINISH_NS)
    assert not collected.ok and collected.archive == "" and "time" in collected.detail
    assert collector.idle


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(1)",
        "print('nonsense')",
        "print('{\"archive\": 5}')",
        "print('{\"archive\": \"torn',end='')",
        "print('{\"member\": {}}')",
    ],
)
def test_a_child_that_says_nothing_of_use_is_a_failure(tmp_path: Path, code: str) -> None:
    collector = make(tmp_path, script(tmp_path / "broken.py", code))
    assert collector.start(wanted(tmp_path), time.monotonic_ns())
    [collected] = until(collector)
    assert not collected.ok and collected.detail == "no archive: the child ended"
    assert collector.idle


def test_without_a_child_it_is_told_why(tmp_path: Path) -> None:
    collector = make(tmp_path, ("/nonexistent/python",))
    assert collector.start(wanted(tmp_path), time.monotonic_ns())
    [collected] = until(collector)
    assert collected.detail == "no archive: no child: No such file or directory"
    assert collector.idle


def test_many_wait_for_a_place_and_not_for_ever(tmp_path: Path) -> None:
    collector = make(tmp_path, script(tmp_path / "sleep.py", "import time; time.sleep(600)"))
    now = time.monotonic_ns()
    for number in range(MOST_AT_WORK + module.MOST_WAITING):
        assert collector.start(wanted(tmp_path, f"q{number}"), now)
    assert not collector.start(wanted(tmp_path, "more"), now)
    assert len(collector._children) == MOST_AT_WORK
    ended = collector.poll(now + WAIT_NS)
    assert len(ended) == module.MOST_WAITING
    assert {each.detail for each in ended} == {"no archive: others were collected all the time"}
    pids = [child.pid for child in collector._children.values()]
    collector.close()
    assert collector.idle
    assert all(gone(pid) for pid in pids)


def gone(pid: int) -> bool:
    """Reaps it, where `close` did not wait for that."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    return not Path(f"/proc/{pid}").exists()


def test_one_quarantine_is_collected_once_at_a_time(tmp_path: Path) -> None:
    collector = make(tmp_path, script(tmp_path / "sleep.py", "import time; time.sleep(600)"))
    now = time.monotonic_ns()
    assert collector.start(wanted(tmp_path), now)
    assert not collector.start(wanted(tmp_path), now)
    collector.close()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\n", "x" * 65, "é"])
def test_a_name_that_is_no_id_is_refused(tmp_path: Path, name: str) -> None:
    collector = make(tmp_path, ("/nonexistent/python",))
    assert not collector.start(wanted(tmp_path, name), time.monotonic_ns())
    assert collector.idle


def test_too_many_that_cannot_be_killed_end_it(tmp_path: Path) -> None:
    collector = make(tmp_path, ("/nonexistent/python",))
    collector._left = [0] * MOST_LEFT
    assert not collector.start(wanted(tmp_path), time.monotonic_ns())


def test_a_path_that_is_none_is_told(tmp_path: Path) -> None:
    collector = make(tmp_path, ("/nonexistent/python",))
    assert collector.start(Wanted("q", 1, "/\ud800"), time.monotonic_ns())
    [collected] = until(collector)
    assert collected.detail == "no archive: the cgroup's path is no path"


CORE = """
import sys, time
from sensor.respond.evidence.collector import Collector, Wanted
folder, mount, cgroup_id = sys.argv[1:]
command = (sys.executable, "-I", "-S", folder + "/hang.py")
collector = Collector(folder + "/evidence", mount, 1 << 20, 1 << 20, 10, command=command)
assert collector.start(Wanted("q", int(cgroup_id), "/box"), time.monotonic_ns())
print(collector._children["q"].pid, flush=True)
time.sleep(600)
"""


@root
def test_a_core_that_is_killed_takes_its_child_along(tmp_path: Path) -> None:
    """Else a child of a dead daemon would write beside that of the next one."""
    _, fifo = hanging(tmp_path)
    mount, cgroup_id = empty_cgroup(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", CORE, str(tmp_path), mount, str(cgroup_id)],
        stdout=subprocess.PIPE,
        cwd=Path(module.__file__).parents[3],
    ) as core:
        assert core.stdout is not None
        child = Path("/proc", core.stdout.readline().decode().strip())
        fifo.read_bytes()
        core.kill()
    deadline = time.monotonic() + 30
    while child.exists() and b") Z" not in (child / "stat").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    left = os.listdir(tmp_path / "evidence")
    assert len(left) == 1 and left[0].endswith(".part")
    assert manifest(str(tmp_path / "evidence" / left[0])) == {}
    collector = Collector(str(tmp_path / "evidence"), mount, TOTAL, FILE, SECONDS)
    assert collector.start(Wanted("q", cgroup_id, "/box"), time.monotonic_ns())
    [collected] = until(collector)
    assert collected.ok and verify(collected.archive) == []
    assert os.listdir(tmp_path / "evidence") == ["q.tar.gz"]
