"""Hosts files of real sandboxes, with a mount namespace and a root of their own, and what root may put there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich import hostsfile, procfs
from sensor.enrich.hostschild import CONTENT_MAX, HEAD, READY
from sensor.enrich.hostsfile import LINES_MAX, NAMES_PER_FILE, NAMES_PER_LINE, HostsFiles, HostsSettings, parse
from sensor.enrich.names import Names, NamesSettings

BOX = 7
OWN = "192.0.2.7 own.example.com own\n"
HOSTS_OWN = "203.0.113.9 host-only.example.com\n"

# Argument 1 is the new root. Whatever `prepare` does is done in a mount namespace of its own.
ENTER = """
import os, sys, time
{prepare}
os.chroot(sys.argv[1]); os.chdir("/")
print("in", flush=True)
{then}
time.sleep(600)
"""

# A FUSE file system on etc/ that answers INIT (opcode 26) and nothing else: a lookup waits for it, killed or not.
FUSE = """
import ctypes, struct
fuse = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fuse
assert not ctypes.CDLL(None).mount(b"stall", (sys.argv[1] + "/etc").encode(), b"fuse.stall", 0, options)
"""
SERVE = """
while True:
    request = os.read(fuse, 1 << 20)
    _, opcode, unique = struct.unpack_from("=IIQ", request)
    if opcode == 26:
        os.write(fuse, struct.pack("=IiQ IIIIHHIIHHI", 80, 0, unique, 7, 31, 0, 0, 9, 9, 4096, 1, 1, 0, 0) + bytes(28))
"""


@contextmanager
def sandbox(root: Path, prepare: str = "", then: str = "") -> Iterator[tuple[int, int]]:
    """tgid and start time of a process in its own mount namespace whose root is this folder."""
    command = ["unshare", "--mount", "--propagation", "private"]
    command += [sys.executable, "-c", ENTER.format(prepare=prepare, then=then), str(root)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"in\n"
        found = procfs.read_stat(child.pid)
        assert found is not None
        yield child.pid, found.start_ns
    finally:
        child.kill()
        child.communicate()


class Reader:
    """HostsFiles, polled as the core does, until nothing is to come."""

    def __init__(self, settings: HostsSettings | None = None, **options: object) -> None:
        self.names = Names()
        self.files = HostsFiles(self.names, settings, **options)  # type: ignore[arg-type]

    def read(self, tgid: int, start_ns: int, sandbox_id: int = BOX) -> list[int]:
        assert self.files.request(sandbox_id, tgid, start_ns)
        return self.settle()

    def settle(self) -> list[int]:
        read: list[int] = []
        until(lambda: read.extend(self.files.poll()) or not self.files.busy)  # type: ignore[func-returns-value]
        return read

    def close(self) -> None:
        until(lambda: self.files.close() or not self.files._leaving)  # type: ignore[func-returns-value]

    def name(self, address: str, sandbox_id: int = BOX) -> str:
        return self.names.name_of(sandbox_id, address, time.monotonic_ns())

    def count(self, what: str) -> int:
        return self.files.counters[f"hosts_{what}"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "host-only").write_text(HOSTS_OWN)
    made = tmp_path / "root"
    (made / "etc").mkdir(parents=True)
    (made / "proc").mkdir()
    return made


def test_a_sandbox_s_own_file_gives_names(reader: Reader, root: Path) -> None:
    (root / "etc/hosts").write_text("# mine\n" + OWN + "2001:db8::7\tSIX.example.com. # six\n127.0.0.1 localhost\n")
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, start_ns) == [BOX]
    assert reader.name("192.0.2.7") == "own.example.com"
    assert reader.names.names_of(BOX, "192.0.2.7", time.monotonic_ns()) == ["own.example.com", "own"]
    assert reader.name("2001:db8::7") == "six.example.com"
    assert reader.names.trusted_name(BOX, "192.0.2.7", time.monotonic_ns()) == "", "the sandbox wrote it"
    assert reader.count("read") == 1


def test_links_and_dots_end_at_the_sandbox_s_root(reader: Reader, root: Path, tmp_path: Path) -> None:
    """Each leads to the secret file if it is followed from the host's root, or past the sandbox's."""
    outside = str(tmp_path / "host-only")
    inside = root / outside.lstrip("/")
    targets = [outside, "../" * 40 + outside.lstrip("/"), "/../../" + outside, "/proc/1/root" + outside]
    targets += ["/proc/self/root" + outside, f"/proc/{os.getpid()}/cwd/host-only"]
    prepare = 'os.system("mount -t proc proc " + sys.argv[1] + "/proc")'
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        with sandbox(root, prepare) as (tgid, start_ns):
            for number, target in enumerate(targets):
                (root / "etc/hosts").unlink(missing_ok=True)
                (root / "etc/hosts").symlink_to(target)
                assert reader.read(tgid, start_ns, number) == [], target
            assert reader.count("absent") + reader.count("refused") == len(targets)
            inside.parent.mkdir(parents=True)
            inside.write_text(OWN)
            read = [reader.read(tgid, start_ns, 100 + number) for number in range(1)]
            for number, target in enumerate(targets[:3]):
                (root / "etc/hosts").unlink()
                (root / "etc/hosts").symlink_to(target)
                read.append(reader.read(tgid, start_ns, 200 + number))
    finally:
        os.chdir(here)
    assert read == [[], [200], [201], [202]]
    assert {reader.name("192.0.2.7", box) for box in (200, 201, 202)} == {"own.example.com"}
    assert all(reader.name("203.0.113.9", box) == "" for box in (*range(len(targets)), 200, 201, 202))


def test_a_folder_of_the_path_may_be_a_link_too(reader: Reader, root: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(HOSTS_OWN)
    (root / "etc").rmdir()
    (root / "etc").symlink_to(tmp_path)
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, start_ns) == []
    assert reader.count("absent") == 1


def made_fifo(path: Path) -> None:
    os.mkfifo(path)


def made_device(path: Path) -> None:
    os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero: endless, were it read


def made_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the whole path may be too long for a socket
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("make", [made_fifo, made_device, made_socket, Path.mkdir])
def test_what_is_no_regular_file_is_not_even_opened(make: Callable[[Path], None], reader: Reader, root: Path) -> None:
    make(root / "etc/hosts")
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, start_ns) == []
    assert (reader.count("refused"), reader.count("stalled")) == (1, 0)


@pytest.mark.parametrize("target", ["/proc/self/environ", "/proc/kmsg", "/proc/version"])
def test_files_that_are_doors_to_the_kernel_are_refused(target: str, reader: Reader, root: Path) -> None:
    (root / "etc/hosts").symlink_to(target)
    with sandbox(root, 'os.system("mount -t proc proc " + sys.argv[1] + "/proc")') as (tgid, start_ns):
        assert reader.read(tgid, start_ns) == []
    assert reader.count("refused") == 1


def test_a_huge_file_is_read_as_far_as_the_bound(reader: Reader, root: Path) -> None:
    with open(root / "etc/hosts", "wb") as file:
        file.write(OWN.encode())
        file.seek(CONTENT_MAX + 100)
        file.write(b"\n192.0.2.8 beyond.example.com\n")
        file.truncate(10 * 1024**3)
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, start_ns) == [BOX]
    assert reader.name("192.0.2.7") == "own.example.com"
    assert reader.name("192.0.2.8") == ""


def test_no_file_and_an_empty_one(reader: Reader, root: Path) -> None:
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, start_ns, 1) == []
        (root / "etc/hosts").write_bytes(b"")
        assert reader.read(tgid, start_ns, 2) == [2]
    assert (reader.count("absent"), reader.count("read")) == (1, 1)
    assert len(reader.names) == 0


def test_a_process_that_is_gone_and_one_that_has_its_tgid_now(reader: Reader, root: Path) -> None:
    (root / "etc/hosts").write_text(OWN)
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, start_ns + procfs.TICK_NS, 1) == []
        assert reader.read(tgid, start_ns - procfs.TICK_NS, 2) == []
    assert reader.read(tgid, start_ns, 3) == []
    assert reader.count("gone") == 3
    assert len(reader.names) == 0


def test_others_are_asked_when_one_is_gone_and_it_may_be_tried_again_soon(reader: Reader, root: Path) -> None:
    (root / "etc/hosts").write_text(OWN)
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, 1) == []
        assert not reader.files.request(BOX, tgid, 1), "not at once"
        reader.files._next_ns[BOX] -= 10**9
        assert reader.files.request(BOX, tgid, 1, others=((tgid, 2), (tgid, start_ns)))
        assert reader.settle() == [BOX]


def test_a_file_system_that_stalls_costs_only_its_sandbox(root: Path, tmp_path: Path) -> None:
    """The child waits for the FUSE server where no signal reaches it; it is left behind and another one reads."""
    good = tmp_path / "good"
    (good / "etc").mkdir(parents=True)
    (good / "etc/hosts").write_text(OWN)
    reader = Reader()
    with sandbox(good) as (tgid, start_ns):
        with sandbox(root, FUSE, SERVE) as (stalling, since_ns):
            for sandbox_id in (1, 2):
                assert reader.files.request(sandbox_id, stalling, since_ns)
            for sandbox_id in range(10, 30):
                assert reader.files.request(sandbox_id, tgid, start_ns)
            assert sorted(reader.settle()) == list(range(10, 30))
            assert reader.count("stalled") == 2
            assert not reader.files.request(1, stalling, since_ns)
            reader.files._next_ns.clear()
            for sandbox_id in range(1, hostsfile.STUCK_MAX + 3):
                reader.read(stalling, since_ns, sandbox_id)
            assert reader.count("stalled") == hostsfile.STUCK_MAX, "no more children are left behind than that"
            assert reader.count("children_stuck") > 0
            assert reader.read(tgid, start_ns, 50) == []
        until(lambda: reader.files.poll() == [] and not reader.files._leaving)  # the server is gone
        assert reader.read(tgid, start_ns, 51) == [51]
    reader.close()


def test_one_file_is_read_once_in_thirty_seconds(root: Path) -> None:
    now_ns = 10**12
    (root / "etc/hosts").write_text(OWN)
    reader = Reader(clock=lambda: now_ns)
    with sandbox(root) as (tgid, start_ns):
        assert reader.read(tgid, start_ns) == [BOX]
        now_ns += 30 * 10**9 - 1
        assert not reader.files.request(BOX, tgid, start_ns)
        assert reader.files.request(8, tgid, start_ns)
        now_ns += 1
        assert reader.files.request(BOX, tgid, start_ns)
        assert sorted(reader.settle()) == [BOX, 8]
    reader.close()


def test_the_child_leaves_when_there_is_nothing_to_do_and_comes_again(root: Path) -> None:
    now_ns = 10**12
    (root / "etc/hosts").write_text(OWN)
    reader = Reader(clock=lambda: now_ns)
    with sandbox(root) as (tgid, start_ns):
        reader.read(tgid, start_ns, 1)
        assert reader.files._child is not None
        first = reader.files._child.pid
        now_ns += 11 * 10**9
        until(lambda: reader.files.poll() == [] and reader.files._child is None and not reader.files._leaving)
        assert not os.path.exists(f"/proc/{first}")
        assert reader.read(tgid, start_ns, 2) == [2]
    reader.close()


def test_a_child_that_is_killed_from_outside_is_replaced(reader: Reader, root: Path) -> None:
    (root / "etc/hosts").write_text(OWN)
    with sandbox(root) as (tgid, start_ns):
        reader.read(tgid, start_ns, 1)
        assert reader.files._child is not None
        os.kill(reader.files._child.pid, signal.SIGKILL)
        assert reader.read(tgid, start_ns, 2) == [2]


def test_a_file_that_ends_the_child_each_time_is_given_up(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(f"import os\nos.write(1, {HEAD.pack(READY, 0)!r})\nos.read(0, 99)\n")
    reader = Reader(command=[sys.executable, "-I", "-S", str(child)])
    assert reader.read(os.getpid(), 1) == []
    assert reader.count("stalled") == 1
    assert not reader.files.request(BOX, os.getpid(), 1)
    reader.close()


@pytest.mark.parametrize("command", [["/nonexistent"], ["/bin/false"], ["/bin/sleep", "600"]])
def test_a_child_that_does_not_start_is_counted(command: list[str]) -> None:
    reader = Reader(HostsSettings(start_ms=100), command=command)
    assert reader.read(os.getpid(), 1) == []
    assert reader.count("no_child") == 1
    until(lambda: reader.files.poll() == [] and not reader.files._leaving)


def test_without_openat2_nothing_is_read_and_it_is_counted(tmp_path: Path) -> None:
    """As before Linux 5.6: the child with another number, which no kernel has."""
    source = Path(hostsfile.CHILD).read_text()
    assert "_SYS_OPENAT2 = 437" in source
    child = tmp_path / "child.py"
    child.write_text(source.replace("_SYS_OPENAT2 = 437", "_SYS_OPENAT2 = 99999"))
    reader = Reader(command=[sys.executable, "-I", "-S", str(child)])
    me = procfs.read_stat(os.getpid())
    assert me is not None
    assert reader.read(os.getpid(), me.start_ns) == []
    assert reader.count("no_openat2") == 1
    reader.close()


def test_a_sandbox_that_ended_meanwhile_is_not_learned(reader: Reader, root: Path) -> None:
    (root / "etc/hosts").write_text(OWN)
    with sandbox(root) as (tgid, start_ns):
        assert reader.files.request(1, tgid, start_ns) and reader.files.request(2, tgid, start_ns)
        reader.files.forget(1)
        until(lambda: reader.files.poll() == [] and reader.files._child is not None and bool(reader.files._child.asked))
        reader.files.forget(2)
        assert reader.settle() == []
    assert len(reader.names) == 0


def test_the_queue_is_bounded() -> None:
    files = HostsFiles(Names())
    taken = [files.request(sandbox_id, 1, 1) for sandbox_id in range(hostsfile.QUEUED_MAX + 10)]
    assert taken.count(False) == files.counters["hosts_not_queued"] == 10
    files.close()


def test_lines_as_hosts_5_has_them_and_others() -> None:
    content = b"""
127.0.0.1 localhost
  192.0.2.1\tOne.example.com  one # two
192.0.2.2#no.example.com
192.0.2.3
not-an-address name
::ffff:192.0.2.4 four
fe80::1%eth0 link
192.0.2.5 \xff\xfe
192.0.2.6 a\x1b[2Jb ok
\x00\x00\x00
192.0.2.8 crlf\r
"""
    assert parse(content) == [
        ("127.0.0.1", ["localhost"]),
        ("192.0.2.1", ["one.example.com", "one"]),
        ("192.0.2.4", ["four"]),
        ("fe80::1", ["link"]),
        ("192.0.2.6", ["ok"]),
        ("192.0.2.8", ["crlf"]),
    ]


def test_lines_and_names_are_bounded() -> None:
    many = parse(b"192.0.2.1 " + b"n " * 30_000)
    assert many == [("192.0.2.1", ["n"] * NAMES_PER_LINE)]
    assert len(parse(b"192.0.2.1\n192.0.2.1 x\n" * 5000)) == LINES_MAX // 2
    full = parse(b"192.0.2.1 a b c\n" * 5000)
    assert sum(len(names) for _, names in full) == NAMES_PER_FILE and full[-1] == ("192.0.2.1", ["a"])
    assert parse(b"192.0.2.1 " + b"x" * 60_000 + b" y") == [("192.0.2.1", ["y"])]


@given(st.one_of(st.binary(max_size=3000), st.text(alphabet="1.2:af #\n\tx", max_size=500).map(str.encode)))
def test_any_content_is_parsed(content: bytes) -> None:
    names = Names(NamesSettings(addresses_per_sandbox=8))
    for address, found in parse(content):
        assert address and len(found) <= NAMES_PER_LINE
        for name in found:
            assert name.isprintable() and name
            names.learn(BOX, name, address, 1, "hosts")
    assert len(names) <= 8
