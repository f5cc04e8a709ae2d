"""Sockets destroyed by the kernel, in a network namespace that the test makes."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sensor.respond import procfs, sockets, sockets_child
from sensor.respond.sockets import Destroyer, Outcome, Request, Response, Result, Socket

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a network namespace")

# Makes a namespace with loopback up, and the sockets asked for; tells of each end, then on demand what a recv gives.
INSIDE = """
import ctypes, errno, fcntl, json, socket, struct, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x40000000): sys.exit("unshare")
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
kind, address, device = sys.argv[1:4]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
host = address.removeprefix("::ffff:")
if kind == "tcp":
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.bind((host, 0))
    listener.listen()
    ours = socket.socket(family)
    if device: ours.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    ours.connect((address, listener.getsockname()[1]))
    theirs = listener.accept()[0]
else:
    theirs, ours = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    theirs.bind((address, 0)); ours.bind((address, 0))
    if kind == "udp": ours.connect(theirs.getsockname()[:2])
    if device: ours.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
def told(end):
    try: remote = end.getpeername()[:2]
    except OSError: remote = ("::" if family == socket.AF_INET6 else "0.0.0.0", 0)
    cookie, = struct.unpack("=Q", end.getsockopt(socket.SOL_SOCKET, 57, 8))  # SO_COOKIE
    return [*end.getsockname()[:2], *remote, cookie]
print(json.dumps([told(ours), told(theirs)]), flush=True)
for line in sys.stdin:
    end = ours if line == "ours\\n" else theirs
    end.setblocking(False)
    try: found = "data" if end.recv(1) else "end"
    except OSError as why: found = errno.errorcode[why.errno]
    print(found, flush=True)
"""


class Inside:
    def __init__(self, process: subprocess.Popen[str], protocol: int) -> None:
        self._process = process
        assert process.stdout is not None
        ours, theirs = json.loads(process.stdout.readline())
        self.ours, self.theirs = Socket(protocol, *ours), Socket(protocol, *theirs)
        self.identity = (process.pid, start_ns(process.pid))

    def received(self, end: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(end + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def request(self, *wanted: Socket, **fields: Any) -> Request:
        return Request(7, (self.identity,), wanted, **fields)


def start_ns(tgid: int) -> int:
    stat = procfs.stat(tgid)
    assert stat is not None
    return stat.start_ticks * procfs.TICK_NS


@contextmanager
def inside(kind: str, address: str, device: str = "") -> Iterator[Inside]:
    command = [sys.executable, "-c", INSIDE, kind, address, device]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Inside(process, TCP if kind == "tcp" else UDP)
        finally:
            process.kill()


def answers(destroyer: Destroyer, *requests: Request) -> list[Response]:
    for request in requests:
        assert destroyer.start(request, time.monotonic_ns())
    responses: list[Response] = []
    while not destroyer.idle:
        responses += destroyer.poll(time.monotonic_ns())
        time.sleep(0.002)
    return responses


def destroy(request: Request) -> list[Result]:
    [response] = answers(Destroyer(), request)
    assert response.request == request
    return list(response.results)


def other_cookie(wanted: Socket) -> Socket:
    fields = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    return Socket(**fields | {"cookie": wanted.cookie + 1000})


# In a namespace.


@root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_connection_is_destroyed_and_its_peer_sees_the_reset(address: str) -> None:
    with inside("tcp", address) as there:
        assert there.received("ours") == there.received("theirs") == "EAGAIN"
        assert destroy(there.request(there.ours)) == [Result("destroyed")]
        assert there.received("theirs") == "ECONNRESET"
        assert there.received("ours") == "ECONNABORTED"


@root
@pytest.mark.parametrize("kind", ["udp", "udp-unconnected"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_datagram_socket_is_destroyed(kind: str, address: str) -> None:
    with inside(kind, address) as there:
        assert destroy(there.request(there.ours)) == [Result("destroyed")]
        assert there.received("ours") == "ECONNABORTED"
        assert there.received("theirs") == "EAGAIN"


@root
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_socket_bound_to_a_device_does_not_escape(kind: str, address: str) -> None:
    with inside(kind, address, "lo") as there:
        assert destroy(there.request(there.ours)) == [Result("destroyed")]
        assert there.received("ours") == "ECONNABORTED"


@root
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_another_cookie_destroys_nothing(kind: str, address: str) -> None:
    with inside(kind, address) as there:
        assert destroy(there.request(other_cookie(there.ours))) == [Result("gone")]
        assert there.received("ours") == there.received("theirs") == "EAGAIN"


@root
def test_each_socket_of_a_request_has_its_result() -> None:
    with inside("tcp", "127.0.0.1") as there:
        no_protocol = Socket(132, "127.0.0.1", 1, "127.0.0.1", 2, 5)
        no_cookie = Socket(TCP, "127.0.0.1", 1, "127.0.0.1", 2, 0)
        no_address = Socket(TCP, "nowhere", 1, "127.0.0.1", 2, 5)
        mixed = Socket(TCP, "127.0.0.1", 1, "::1", 2, 5)
        wanted = (no_protocol, there.ours, no_cookie, no_address, mixed, there.theirs)
        results = destroy(there.request(*wanted))
        assert [result.outcome for result in results] == ["failed", "destroyed", "failed", "failed", "failed", "gone"]
        assert all(bool(result.reason) is (result.outcome == "failed") for result in results)


@root
def test_only_the_namespace_meant_is_entered() -> None:
    with inside("tcp", "127.0.0.1") as there:
        own = os.stat("/proc/self/ns/net").st_ino
        [wrong] = destroy(there.request(there.ours, net_namespace=own))
        assert wrong.outcome == "failed" and "network namespace" in wrong.reason
        right = os.stat(f"/proc/{there.identity[0]}/ns/net").st_ino
        me = (os.getpid(), start_ns(os.getpid()))
        request = Request(7, (me, there.identity), (there.ours,), right)
        assert destroy(request) == [Result("destroyed")]


@root
def test_a_vanished_namespace_is_told() -> None:
    with inside("tcp", "127.0.0.1") as there:
        request = there.request(there.ours, there.theirs)
    results = destroy(request)
    assert [result.outcome for result in results] == ["failed", "failed"]
    assert "no process" in results[0].reason


@root
def test_another_process_of_that_number_is_not_followed() -> None:
    with inside("tcp", "127.0.0.1") as there:
        tgid, started = there.identity
        [result] = destroy(Request(7, ((tgid, started + 5 * procfs.TICK_NS),), (there.ours,)))
        assert result.outcome == "failed"
        assert there.received("ours") == "EAGAIN"


@root
def test_a_socket_that_is_only_remembered_is_gone() -> None:
    """TIME_WAIT, in this namespace: the kernel has its cookie still, and nobody the socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
        (cookie,) = struct.unpack("=Q", ours.getsockopt(socket.SOL_SOCKET, 57, 8))
        (local, local_port), (remote, remote_port) = ours.getsockname(), ours.getpeername()
        wanted = Socket(TCP, local, local_port, remote, remote_port, cookie)
        ours.close()
        theirs.close()
    me = (os.getpid(), start_ns(os.getpid()))
    [result] = destroy(Request(7, (me,), (wanted,)))
    assert result.outcome in {"destroyed", "gone"}, "by kernel"


# The child's judgement of what the kernel says.


def message(family: int, state: int, inode: int, cookie: int) -> sockets_child.Found:
    sockid = struct.pack("=4s32sI2I", bytes(4), bytes(32), 3, cookie & 0xFFFFFFFF, cookie >> 32)
    return sockets_child.Found(struct.pack("=4B", family, state, 0, 0) + sockid + struct.pack("=5I", 0, 0, 0, 0, inode))


class FakeLink:
    def __init__(self, codes: list[int], found: dict[int, sockets_child.Found | int]) -> None:
        self.codes, self.found = codes, found
        self.asked: list[tuple[int, bytes]] = []

    def destroy(self, family: int, protocol: int, sockid: bytes) -> int:
        self.asked.append((family, sockid))
        return self.codes.pop(0)

    def find(self, family: int, protocol: int, ports: tuple[int, int], cookie: int) -> sockets_child.Found | int:
        return self.found[family]

    def made_in(self, family: int, protocol: int, cgroup: int) -> list[sockets_child.Found] | int:
        found: sockets_child.Found | int = self.found[family] if protocol == TCP and cgroup == 99 else 0
        if not found:
            return []
        return [found] if isinstance(found, sockets_child.Found) else found


ESTABLISHED, FIN_WAIT2, TIME_WAIT = 1, 5, 6
FOUR, SIX = socket.AF_INET, socket.AF_INET6
COOKIE = 1 << 32 | 2
LIVE = message(SIX, ESTABLISHED, 77, COOKIE)
WANTED = {"protocol": TCP, "local": "10.0.0.1", "local_port": 1, "remote": "10.0.0.2", "remote_port": 2}


@pytest.mark.parametrize(
    ("codes", "four", "six", "outcome"),
    [
        ([0], None, None, "destroyed"),
        ([errno.EPERM], None, None, "failed"),
        ([errno.ENOENT], errno.ENOENT, errno.ENOENT, "gone"),
        ([errno.ESTALE], errno.ENOENT, errno.ENOENT, "gone"),
        ([errno.ENOENT, 0], errno.ENOENT, LIVE, "destroyed"),
        ([errno.ESTALE, 0], LIVE, None, "destroyed"),
        ([errno.ENOENT, errno.ESTALE], LIVE, None, "failed"),
        ([errno.ENOENT, errno.EACCES], LIVE, None, "failed"),
        ([errno.ENOENT], errno.EOPNOTSUPP, None, "unsupported"),
        ([errno.ENOENT], errno.EACCES, None, "failed"),
        ([errno.EOPNOTSUPP], LIVE, None, "unsupported"),
        ([errno.EOPNOTSUPP], errno.ENOENT, errno.ENOENT, "gone"),
        ([errno.EOPNOTSUPP], message(FOUR, TIME_WAIT, 0, COOKIE), None, "gone"),
        ([errno.EOPNOTSUPP], message(FOUR, FIN_WAIT2, 0, COOKIE), None, "gone"),
        ([errno.EOPNOTSUPP], message(FOUR, FIN_WAIT2, 5, COOKIE), None, "unsupported"),
    ],
)
def test_what_the_kernel_s_answers_mean(codes: list[int], four: Any, six: Any, outcome: Outcome) -> None:
    link = FakeLink(list(codes), {FOUR: four, SIX: six})
    assert sockets_child.end(link, WANTED | {"cookie": COOKIE})[0] == outcome
    assert link.codes == []
    family, sockid = link.asked[0]
    assert family == FOUR
    assert sockid == bytes([0, 1, 0, 2, 10, 0, 0, 1, *bytes(12), 10, 0, 0, 2, *bytes(16)]) + struct.pack("=2I", 2, 1)
    if len(link.asked) == 2:
        assert link.asked[1] == (SIX, LIVE.id), "as the kernel names it, its device included"


# The core's side, with children that do not do as they should.


@pytest.fixture
def now() -> int:
    return time.monotonic_ns()


def script(path: Path, code: str) -> tuple[str, ...]:
    path.write_text(code)
    return (sys.executable, "-I", "-S", str(path))


def ask(sandbox_id: int = 7) -> Request:
    one = Socket(TCP, "127.0.0.1", 1, "127.0.0.1", 2, 5)
    return Request(sandbox_id, ((os.getpid(), 0),), (one, one))


def hanging(tmp_path: Path) -> tuple[Destroyer, Path]:
    """Its children answer for one socket, say that they have, and go on."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    line = b'{"outcome": "destroyed", "reason": ""}\n{"outc'
    code = f"import os, time\nos.write(1, {line!r})\nos.close(os.open({str(fifo)!r}, 1))\ntime.sleep(600)\n"
    return Destroyer(script(tmp_path / "hang.py", code)), fifo


def test_a_child_that_hangs_is_killed_and_what_it_did_counts(tmp_path: Path, now: int) -> None:
    destroyer, fifo = hanging(tmp_path)
    assert destroyer.start(ask(), now)
    fifo.read_bytes()
    assert destroyer.poll(now + sockets.PATIENCE_NS - 1) == []
    [response] = destroyer.poll(now + sockets.PATIENCE_NS)
    assert response.results[0] == Result("destroyed")
    assert response.results[1].outcome == "failed" and "time" in response.results[1].reason
    while not destroyer.idle:
        assert destroyer.poll(now + sockets.PATIENCE_NS) == []


def test_a_sandbox_with_a_hanging_child_waits_alone(tmp_path: Path, now: int) -> None:
    destroyer, fifo = hanging(tmp_path)
    for _ in range(1 + sockets.MOST_WAITING_OF_SANDBOX):
        assert destroyer.start(ask(7), now)
    assert not destroyer.start(ask(7), now)
    fifo.read_bytes()
    assert destroyer.start(ask(8), now)
    fifo.read_bytes()
    assert len(destroyer._children) == 2
    responses = destroyer.poll(now + sockets.WAIT_NS)
    assert len(responses) == 2 + sockets.MOST_WAITING_OF_SANDBOX
    assert {response.results[1].outcome for response in responses} == {"failed"}
    while not destroyer.idle:
        assert destroyer.poll(now + sockets.WAIT_NS) == []


def test_too_much_is_refused(now: int) -> None:
    destroyer = Destroyer()
    one = ask().sockets[0]
    assert not destroyer.start(Request(7, (), (one,) * (sockets.MOST_SOCKETS + 1)), now)
    assert not destroyer.start(Request(7, ((1, 1),) * (sockets.MOST_PROCESSES + 1), (one,)), now)
    assert destroyer.idle


def test_children_of_many_sandboxes_are_bounded(tmp_path: Path, now: int) -> None:
    destroyer = Destroyer(script(tmp_path / "sleep.py", "import time; time.sleep(600)"))
    for sandbox_id in range(sockets.MOST_CHILDREN + 5):
        assert destroyer.start(ask(sandbox_id), now)
    pids = [child.pid for child in destroyer._children.values()]
    assert len(pids) == sockets.MOST_CHILDREN
    destroyer.close()
    assert destroyer.idle
    for pid in pids:
        os.waitpid(pid, 0)


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "print('nonsense')\nprint('{\"outcome\": \"other\"}')"])
def test_a_child_that_says_nothing_of_use_is_a_failure(tmp_path: Path, code: str) -> None:
    [response] = answers(Destroyer(script(tmp_path / "broken.py", code)), ask())
    assert [result.outcome for result in response.results] == ["failed", "failed"]


def test_without_a_child_it_is_told_why(now: int) -> None:
    destroyer = Destroyer(("/nonexistent/python",))
    assert destroyer.start(ask(), now)
    [response] = destroyer.poll(now)
    assert response.results[0] == Result("failed", "no child: No such file or directory")


def test_a_child_that_another_has_reaped_is_over(tmp_path: Path, now: int) -> None:
    destroyer = Destroyer(script(tmp_path / "quiet.py", ""))
    assert destroyer.start(ask(), now)
    os.waitpid(destroyer._children[7].pid, 0)
    assert len(destroyer.poll(now)) == 1
    assert destroyer.idle


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    destroyer = Destroyer(script(tmp_path / "quiet.py", ""))
    before = len(os.listdir("/proc/self/fd"))
    answers(destroyer, *(ask(sandbox_id) for sandbox_id in range(5)))
    assert len(os.listdir("/proc/self/fd")) == before
