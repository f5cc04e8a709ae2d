"""Which sockets are a sandbox's: made in it or nested in it, held by it, left in a namespace that nobody is in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.respond.quarantine.sweeping import Request, Sweep, Swept
from tests.live.quarantining import bench, box
from tests.live.test_kill import Cgroup

__all__ = ["bench", "box"]
SENDTO = {"x86_64": "44 ", "aarch64": "206 "}[os.uname().machine]  # as /proc/TID/syscall begins

# Enters a cgroup, makes a pair of connected sockets as asked for, says whether each is alive whenever it is asked.
MAKES = """
import ctypes, errno, fcntl, json, os, socket, struct, sys
cgroup, kind, where = sys.argv[1:]
open(cgroup, "w").write("0")
libc = ctypes.CDLL(None)
home = os.open("/proc/self/ns/net", os.O_RDONLY)
if where != "here":
    assert libc.unshare(0x40000000) == 0
    with socket.socket() as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 1))
family = socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
host = "::1" if kind.endswith("6") else "127.0.0.1"
if kind.startswith("tcp"):
    listener = socket.create_server((host, 0), family=family)
    ours = socket.create_connection(listener.getsockname()[:2])
    theirs = listener.accept()[0]
else:
    ours, theirs = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    theirs.bind((host, 0)); ours.connect(theirs.getsockname()[:2]); theirs.connect(ours.getsockname()[:2])
if where == "left":
    assert libc.setns(home, 0x40000000) == 0
print("there", flush=True)
def state(end):
    end.setblocking(False)
    try: return "data" if end.recv(1) else "end"
    except OSError as error: return errno.errorcode[error.errno]
for line in sys.stdin:
    print(json.dumps([state(ours), state(theirs)]), flush=True)
"""


class Maker:
    def __init__(self, cgroup: Path, kind: str, where: str) -> None:
        command = [sys.executable, "-c", MAKES, str(cgroup / "cgroup.procs"), kind, where]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "there"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def states(self) -> list[str]:
        assert self.process.stdin is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        states: list[str] = json.loads(self._line())
        return states

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def swept(cgroup: Cgroup, *processes: tuple[int, int]) -> Swept:
    sweep = Sweep(Request(str(cgroup.directory), cgroup.id, processes), time.monotonic_ns() + 20_000_000_000)
    while (found := sweep.poll(time.monotonic_ns())) is None:
        time.sleep(0.002)
    while not sweep.ended():
        time.sleep(0.002)
    assert found.complete, found
    return found


@pytest.fixture
def makers() -> Iterator[list[Maker]]:
    made: list[Maker] = []
    try:
        yield made
    finally:
        for maker in made:
            maker.end()


@pytest.mark.parametrize("where", ["here", "own", "left"])
@pytest.mark.parametrize("kind", ["tcp4", "tcp6", "udp4", "udp6"])
def test_its_connections_go_wherever_they_are(box: Cgroup, makers: list[Maker], kind: str, where: str) -> None:
    makers.append(Maker(box.directory, kind, where))
    assert makers[0].states() == ["EAGAIN"] * 2
    found = swept(box)
    assert found.failed == 0, found
    assert found.destroyed + found.gone == 2 and found.destroyed >= 1
    assert "EAGAIN" not in makers[0].states()
    assert found.listening == (1 if kind.startswith("tcp") else 0)


def test_those_of_nested_cgroups_go_and_those_of_others_stay(box: Cgroup, makers: list[Maker]) -> None:
    nested = Cgroup(box.directory, "nested")
    other = Cgroup(box.directory.parent, box.directory.name + "-other")
    try:
        makers += [Maker(nested.directory, "tcp4", "here"), Maker(other.directory, "tcp4", "here")]
        found = swept(box)
        assert found.destroyed + found.gone == 2
        assert "EAGAIN" not in makers[0].states()
        assert makers[1].states() == ["EAGAIN"] * 2
    finally:
        for maker in makers:
            maker.end()
        other.close()


def test_one_that_was_made_outside_and_is_held_inside_goes(box: Cgroup) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
        code = f"open({str(box.directory / 'cgroup.procs')!r}, 'w').write('0'); print('in', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[ours.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            try:
                assert holder.stdout is not None and holder.stdout.readline() == b"in\n"
                assert swept(box).destroyed == 1
                with pytest.raises(ConnectionResetError):
                    theirs.recv(1)
            finally:
                holder.kill()
        ours.close()
        theirs.close()
        assert listener.fileno() > 0, "the host's own listener is not touched"


def test_another_cgroup_of_its_name_loses_nothing(box: Cgroup, makers: list[Maker]) -> None:
    makers.append(Maker(box.directory, "tcp4", "here"))
    sweep = Sweep(Request(str(box.directory), box.id + 1, ()), time.monotonic_ns() + 20_000_000_000)
    while (found := sweep.poll(time.monotonic_ns())) is None:
        time.sleep(0.002)
    assert found.destroyed == 0
    assert makers[0].states() == ["EAGAIN"] * 2


@pytest.mark.parametrize("code", ["import time; time.sleep(60)", "", "print('nonsense')"])
def test_a_child_that_does_nothing_of_use_is_stated(box: Cgroup, code: str) -> None:
    until = time.monotonic_ns() + (300_000_000 if "sleep" in code else 20_000_000_000)
    sweep = Sweep(Request(str(box.directory), box.id, ()), until, (sys.executable, "-c", code))
    while (found := sweep.poll(time.monotonic_ns())) is None:
        time.sleep(0.002)
    assert found.failed == 1 and not found.complete
    assert "the child was not done in time" in found.text
    while not sweep.ended():
        time.sleep(0.002)


LOCKS = """
import os, socket, sys, threading
sys.path.insert(0, sys.argv[2])
from tests.live.holding_up import unfilled
import ctypes
open(sys.argv[1], "w").write("0")
listener = socket.create_server(("127.0.0.1", 0))
ends = [(socket.create_connection(listener.getsockname()), listener.accept()[0]) for _ in range(4)]
address = unfilled()
libc = ctypes.CDLL(None)
locked = threading.Thread(target=lambda: libc.send(ends[0][0].fileno(), ctypes.c_void_p(address), 4096, 0), daemon=True)
locked.start()
print("there", flush=True)
sys.stdin.readline()
os._exit(0)
"""


def test_a_socket_that_its_user_keeps_locked_costs_only_itself(box: Cgroup) -> None:
    """It sends from memory that is never there: the kernel holds the lock meanwhile, and so would whoever waits."""
    top = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", LOCKS, str(box.directory / "cgroup.procs"), top]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"there\n"
            sending = f"/proc/{process.pid}/task"
            while not any((task / "syscall").read_text().startswith(SENDTO) for task in Path(sending).iterdir()):
                time.sleep(0.005)
            sweep = Sweep(Request(str(box.directory), box.id, ()), time.monotonic_ns() + 20_000_000_000)
            while (found := sweep.poll(time.monotonic_ns())) is None:
                time.sleep(0.002)
            assert found.complete
            assert found.destroyed + found.gone == 7
            assert found.reasons == {"its user keeps it locked": 1}
        finally:
            process.kill()
    while not sweep.ended():
        time.sleep(0.002)
