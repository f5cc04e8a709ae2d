"""Evidence of real cgroups: nested, frozen, vanishing, with sockets in namespaces of their own and in ours."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.respond import procfs
from sensor.respond.evidence.collector import Collected, Collector, Wanted
from tests.live.names import unique
from tests.live.test_kill import ENTER, Cgroup, mount
from tests.respond.evidence.boxes import Archive, identity, sound, until

TOTAL, FILE, SECONDS = 64 << 20, 1 << 20, 10
# Argument 1: of its own network namespace or not. 25 connections with bytes both ways, and others of each kind.
SOCKETS = """
import ctypes, fcntl, json, os, socket, struct, sys, time
if sys.argv[1] == "own":
    assert not ctypes.CDLL(None).unshare(0x40000000)
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 1))
listener = socket.create_server(("127.0.0.1", 0))
pairs = []
for _ in range(25):
    ours = socket.create_connection(listener.getsockname())
    theirs = listener.accept()[0]
    ours.sendall(b"x" * 100)
    theirs.sendall(b"y" * 7)
    assert len(theirs.recv(100, socket.MSG_WAITALL)) == 100 and len(ours.recv(7, socket.MSG_WAITALL)) == 7
    pairs.append((ours, theirs))
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::1", 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0" + sys.argv[2])
closed = socket.socket()
def told(end):
    return {"local_port": end.getsockname()[1], "cookie": struct.unpack("=Q", end.getsockopt(1, 57, 8))[0]}
print(json.dumps({"pairs": [(told(a), told(b)) for a, b in pairs], "udp": told(udp),
                  "unix": os.fstat(unix.fileno()).st_ino, "closed": os.fstat(closed.fileno()).st_ino}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Cgroup]:
    cgroup = Cgroup(mount(), f"pinfold-test-{unique()}")
    cgroup.state = str(tmp_path)
    try:
        yield cgroup
    finally:
        cgroup.close()


def collect(cgroup: Cgroup, *outside: tuple[int, int], name: str = "q") -> Collected:
    collector = Collector(cgroup.state + "/evidence", str(mount()), TOTAL, FILE, SECONDS)
    assert collector.start(Wanted(name, cgroup.id, "/" + cgroup.directory.name, outside), time.monotonic_ns())
    [collected] = until(collector)
    deadline = time.monotonic() + 30
    while collector.left:
        assert time.monotonic() < deadline
        collector.poll(time.monotonic_ns())
    return collected


def started(cgroup: Cgroup, code: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Any]:
    """A Python in it, and the JSON that it says first."""
    command = [sys.executable, "-c", ENTER, str(cgroup.directory), sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    cgroup._started.append(process)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("namespace", ["own", "host"])
def test_its_sockets_are_told_with_their_bytes(sandbox: Cgroup, namespace: str) -> None:
    name = f"pinfold-test-{unique()}"
    process, said = started(sandbox, SOCKETS, namespace, name)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        archive = sound(collect(sandbox))
        assert stranger.getsockname()[1] not in [each["local_port"] for each in archive.sockets]
    [space] = archive.json("sockets.json")["namespaces"]
    assert space["host"] is (namespace == "host")
    assert space["inode"] == os.stat(f"/proc/{process.pid}/ns/net").st_ino or namespace == "own"
    by_cookie = {each["cookie"]: each for each in archive.sockets}
    for ours, theirs in said["pairs"]:
        one, other = by_cookie[ours["cookie"]], by_cookie[theirs["cookie"]]
        assert one["local_port"] == ours["local_port"] and one["remote_port"] == theirs["local_port"]
        assert one["state"] == other["state"] == "ESTABLISHED" and one["owners"] == [process.pid]
        # The SYN counts as a byte that was acknowledged.
        assert one["bytes_acked"] in {100, 101} and one["bytes_received"] == 7
        assert other["bytes_received"] == 100 and other["cgroup_id"] == sandbox.id
    assert sum(each["state"] == "LISTEN" for each in archive.sockets) == 1
    udp = by_cookie[said["udp"]["cookie"]]
    assert udp["protocol"] == "udp" and udp["family"] == "inet6" and udp["local"] == "::1"
    [unix] = space["others"]["unix"]
    assert unix["inode"] == said["unix"] and name in unix["line"] and unix["owners"] == [process.pid]
    unseen = archive.json("sockets.json")["in_no_table"]
    assert {"inode": said["closed"], "owners": [process.pid]} in unseen


def test_the_collector_s_child_leaves_its_own_namespace_as_it_was(sandbox: Cgroup) -> None:
    """Two namespaces, one after the other, and the host's: each is told once, by its own sockets."""
    first, _ = started(sandbox, SOCKETS, "own", unique())
    second, _ = started(sandbox, SOCKETS, "own", unique())
    third, _ = started(sandbox, SOCKETS, "host", unique())
    archive = sound(collect(sandbox))
    spaces = archive.json("sockets.json")["namespaces"]
    assert [space["host"] for space in spaces].count(True) == 1 and len(spaces) == 3
    owners = [{tgid for each in space["sockets"] for tgid in each["owners"]} for space in spaces]
    assert sorted(map(sorted, owners)) == sorted([[first.pid], [second.pid], [third.pid]])


def test_nested_cgroups_and_who_left_are_in_it_and_strangers_are_not(sandbox: Cgroup) -> None:
    nested = sandbox.directory / "a" / "b\udcff"
    nested.mkdir(parents=True)
    top = sandbox.start("sleep", "600")
    deep = sandbox.start("sleep", "600")
    (nested / "cgroup.procs").write_text(str(deep.pid))
    left = sandbox.start("sleep", "600")
    (mount() / "cgroup.procs").write_text(str(left.pid))
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        wrong = (stranger.pid, identity(stranger.pid)[1] + 1)
        archive = sound(collect(sandbox, identity(left.pid), wrong))
    finally:
        stranger.kill()
        stranger.wait()
    assert archive.processes.keys() == {top.pid, deep.pid, left.pid}
    ticks = [each["start_ticks"] for each in archive.processes.values()]
    assert ticks == sorted(ticks)
    assert archive.processes[top.pid]["argv"] == ["sleep", "600"]
    found = archive.json("cgroup.json")["v2"]
    assert [each["below"] for each in found] == ["", "a", "a/b\ufffd"] and "below_b64" in found[2]
    assert found[0]["id"] == sandbox.id and found[0]["processes"] == 1 and found[2]["processes"] == 1
    assert "populated 1" in found[0]["files"]["cgroup.events"]
    assert "nr_descendants 2" in found[0]["files"]["cgroup.stat"]
    assert "usage_usec" in found[0]["files"]["cpu.stat"]


def test_a_frozen_cgroup_is_read_as_it_stands(sandbox: Cgroup) -> None:
    process = sandbox.start("sleep", "600")
    (sandbox.directory / "cgroup.freeze").write_text("1")
    deadline = time.monotonic() + 30
    while "frozen 1" not in (sandbox.directory / "cgroup.events").read_text():
        assert time.monotonic() < deadline
    archive = sound(collect(sandbox))
    assert archive.processes[process.pid]["argv"] == ["sleep", "600"]
    assert "frozen 1" in archive.json("cgroup.json")["v2"][0]["files"]["cgroup.events"]


def test_v1_counterparts_are_told_where_a_process_is_in_one(sandbox: Cgroup) -> None:
    """On a hybrid host; elsewhere there are none."""
    pids = Path("/sys/fs/cgroup/pids")
    process = sandbox.start("sleep", "600")
    hybrid = (pids / "cgroup.procs").exists()
    own = pids / sandbox.directory.name
    try:
        if hybrid:
            own.mkdir()
            (own / "cgroup.procs").write_text(str(process.pid))
        archive = sound(collect(sandbox))
    finally:
        if hybrid:
            (pids / "cgroup.procs").write_text(str(process.pid))
            own.rmdir()
    told = {each["controller"]: each for each in archive.json("cgroup.json")["v1"]}
    assert ("pids" in told) is hybrid
    if hybrid:
        assert told["pids"]["path"] == "/" + own.name and told["pids"]["files"]["pids.current"] == "1\n"


def test_a_cgroup_that_is_gone_or_another_is_not_read(sandbox: Cgroup) -> None:
    left = sandbox.start("sleep", "600")
    (mount() / "cgroup.procs").write_text(str(left.pid))
    assert sandbox.empty()
    sandbox.directory.rmdir()
    gone = collect(sandbox, identity(left.pid), name="q1")
    assert not gone.ok and "the cgroup is gone" in gone.detail
    assert sound(gone).processes.keys() == {left.pid}
    sandbox.directory.mkdir()
    assert sandbox.directory.stat().st_ino != sandbox.id
    other = sandbox.start("sleep", "600")
    again = collect(sandbox, identity(left.pid), name="q2")
    assert not again.ok and "another cgroup has its name" in again.detail
    archive = sound(again)
    assert archive.processes.keys() == {left.pid} and other.pid not in archive.processes


def test_a_fork_bomb_is_collected_while_it_goes_on(sandbox: Cgroup) -> None:
    """Processes come and go under the reader: what it says is right, and nothing of it fails."""
    code = """
import os, time
print("{}", flush=True)
while True:
    if os.fork() == 0:
        if os.fork() == 0: time.sleep(0.01)
        os._exit(0)
    os.wait()
"""
    process, _ = started(sandbox, code)
    for number in range(5):
        archive = sound(collect(sandbox, name=f"q{number}"))
        assert process.pid in archive.processes
        assert archive.manifest["complete"]
        assert set(archive.manifest["missing"]) <= {"some processes ended while they were looked at"}


def test_500_processes_and_as_many_sockets_are_all_there(sandbox: Cgroup) -> None:
    code = """
import json, os, socket, time
listener = socket.create_server(("127.0.0.1", 0), backlog=300)
kept = [(socket.create_connection(listener.getsockname()), listener.accept()) for _ in range(250)]
for _ in range(499):
    if os.fork() == 0:
        for ours, (theirs, _) in kept: ours.close(); theirs.close()
        time.sleep(600)
print("{}", flush=True)
time.sleep(600)
"""
    process, _ = started(sandbox, code)
    deadline = time.monotonic() + 60
    while any(len(os.listdir(f"/proc/{tgid}/fd")) > 50 for tgid in sandbox.tgids() if tgid != process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    collected = collect(sandbox)
    assert collected.ok, collected.detail
    archive = sound(collected)
    assert len(archive.processes) == 500
    assert sum(each["state"] == "ESTABLISHED" for each in archive.sockets) == 500
    assert Archive(collected.archive).manifest["members"][-1]["name"] == "executables.json"
    assert procfs.stat(process.pid) is not None
