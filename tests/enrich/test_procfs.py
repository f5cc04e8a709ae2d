"""/proc of processes that this test made, and tables as the kernel prints them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sensor.enrich import procfs
from sensor.enrich.procfs import TICK_NS
from sensor.enrich.sockets import namespace_sockets, parse, socket_inode


@contextmanager
def running(*argv: str | bytes, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_start_time_tells_processes_apart() -> None:
    now = procfs.read_stat(os.getpid())
    assert now is not None
    assert (now.tgid, now.parent_tgid, now.zombie) == (os.getpid(), os.getppid(), False)
    assert procfs.is_same(os.getpid(), now.start_ns + TICK_NS - 1), "the same tick"
    assert not procfs.is_same(os.getpid(), now.start_ns + TICK_NS)
    booted = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with running("sleep", "60") as child:
        started = procfs.read_stat(child.pid)
    assert started is not None
    assert booted - TICK_NS < started.start_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_a_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 1 (x"
    odd.symlink_to("/bin/sleep")
    with running(str(odd), "60") as child:
        found = procfs.read_stat(child.pid)
        deadline = time.monotonic() + 10
        while procfs.read_image(child.pid, found.start_ns if found else 0) != os.fsencode(
            os.path.realpath("/bin/sleep")
        ):
            assert time.monotonic() < deadline
    assert found is not None
    assert found.parent_tgid == os.getpid()


def test_what_is_gone_is_none() -> None:
    with running("sleep", "60") as child:
        pass
    assert procfs.read_stat(child.pid) is None
    assert procfs.read_links(child.pid) is None
    assert procfs.read_cgroup(child.pid) is None
    assert procfs.read_image(child.pid, 1) is None
    assert procfs.descriptors(child.pid) == []
    assert procfs.device_number(child.pid, 0) is None
    assert procfs.open_mode(child.pid, 0) == os.O_RDONLY
    assert procfs.members("/nonexistent", 10) == ([], True)


def test_members_of_a_tree_and_whether_these_are_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"n{number}").mkdir()
        (tmp_path / f"n{number}" / "cgroup.procs").write_text(f"{100 + number}\n0\n")
    ids = {100 + number: (tmp_path / f"n{number}").stat().st_ino for number in range(5)}
    found, whole = procfs.members(str(tmp_path), 10)
    assert (dict(found), whole) == (ids, True)
    assert procfs.members(str(tmp_path), 3)[1] is False
    monkeypatch.setattr(procfs, "CGROUPS_MAX", 4)
    found, whole = procfs.members(str(tmp_path), 10)
    assert (len(found), whole) == (3, False)


def test_a_cgroup_too_deep_for_a_path_is_told(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    assert procfs.members(str(tmp_path), 10) == ([], False)


def test_command_lines_of_many_and_of_the_gone() -> None:
    long = ("/bin/sh", "-c", "read nothing", "x" * 6000)
    with (
        running("sleep", "61") as one,
        running(*long, stdin=subprocess.PIPE) as two,
        running("sleep", "63") as gone,
    ):
        gone.kill()
        gone.wait()
        deadline = time.monotonic() + 10
        while True:  # until both have executed
            found, late = procfs.command_lines([one.pid, gone.pid, two.pid])
            if found[one.pid] == b"sleep\x0061\0" and found[two.pid].startswith(b"/bin/sh\0-c\0"):
                break
            assert time.monotonic() < deadline
    assert late == 0
    assert found[gone.pid] == b""
    assert len(found[two.pid]) == procfs.ARGV_MAX_BYTES + 1


def test_a_command_line_that_stalls_its_reader_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one may whose memory is served by userfaultfd, or whose lock another thread holds."""
    real = procfs._read

    def stalling(path: str, most: int) -> bytes | None:
        if path == "/proc/2/cmdline":
            time.sleep(3600)
        return real(path, most)

    monkeypatch.setattr(procfs, "_read", stalling)
    me = os.getpid()
    found, late = procfs.command_lines([me, 2, os.getppid()])
    assert late == 1
    assert set(found) == {me, os.getppid()}


def test_devices_by_descriptor() -> None:
    code = (
        "import os, time; os.open('/dev/null', os.O_RDWR); os.open('/etc/passwd', os.O_RDONLY);"
        "print(flush=True); time.sleep(60)"
    )
    with running(sys.executable, "-c", code, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        links = {link: fd for fd, link in procfs.descriptors(child.pid)}
        null = links[b"/dev/null"]
        assert procfs.device_number(child.pid, null) == (2, 1, 3)
        assert procfs.device_number(child.pid, links[b"/etc/passwd"]) is None
        assert procfs.open_mode(child.pid, null) & os.O_ACCMODE == os.O_RDWR


def test_statx_has_the_layout_of_the_kernels_header() -> None:
    assert ctypes.sizeof(procfs._Statx) == 256
    assert (procfs._Statx.mode.offset, procfs._Statx.rdev_major.offset) == (28, 128)


def test_sockets_of_a_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
            table = namespace_sockets(os.getpid())
            inodes = {link: fd for fd, link in procfs.descriptors(os.getpid())}
            by_fd = {fd: table[inode] for link, fd in inodes.items() if (inode := socket_inode(link)) in table}
            assert by_fd[server.fileno()].listening
            assert by_fd[server.fileno()].local.port == port
            out, into = by_fd[client.fileno()], by_fd[accepted.fileno()]
    assert (out.accepted, out.listening, out.remote.port) == (False, False, port)
    assert (into.accepted, into.local.port) == (True, port)
    assert out.remote.packed[:4] == bytes([127, 0, 0, 1])


def test_a_bound_udp_socket_listens_and_a_connected_one_does_not() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound, socket.socket(type=socket.SOCK_DGRAM) as out:
        bound.bind(("::1", 0))
        out.connect(("127.0.0.1", 9))
        table = namespace_sockets(os.getpid())
        one, other = table[os.fstat(bound.fileno()).st_ino], table[os.fstat(out.fileno()).st_ino]
    assert (one.protocol, one.listening) == ("udp", True)
    assert one.local.packed == socket.inet_pton(socket.AF_INET6, "::1")
    assert (other.listening, other.accepted, other.remote.port) == (False, False, 9)


@pytest.mark.parametrize(
    "row",
    [[], ["0:"], ["0:", "zz:1", "0:0"], ["0:", "0100007F:1F90", "x", "01"], ["0:", "01:1", "00:0", "01", *"abcdef"]],
)
def test_odd_rows_are_passed_over(row: list[str]) -> None:
    assert parse([("tcp", row)]) == {}


@pytest.mark.parametrize("link", [b"socket:[12x]", b"/tmp/socket:[1]", b"pipe:[12]", b"socket:[" + b"9" * 30 + b"]"])
def test_only_the_kernels_own_links_are_sockets(link: bytes) -> None:
    assert socket_inode(link) is None
    assert socket_inode(b"socket:[12]") == 12


def test_no_child_is_left_behind() -> None:
    before = Path(f"/proc/self/task/{os.getpid()}/children").read_text()  # other tests' may still be leaving
    procfs.command_lines([os.getpid()] * 3)
    after = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    assert set(after.split()) <= set(before.split())
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
