"""What was there before the sensor, in real cgroups of this kernel. Needs root and cgroup2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.config import Config, SandboxPattern
from sensor.enrich import procfs
from sensor.enrich.enricher import Enricher
from sensor.enrich.existing import Existing
from sensor.enrich.sandboxes.cgroupfs import CgroupPaths, find_cgroup2_mount
from sensor.events.activity import DeviceAccess, NetworkConnection, ProcessCreation
from tests.enrich import records
from tests.live.names import unique

# In its sandbox: a listener, a connection to itself, a UDP flow, /dev/loop-control open, a child that waits.
TENANT = """
import os, socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted = server.accept()[0]
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.connect(("127.0.0.1", 9))
device = os.open(sys.argv[1], os.O_RDWR)
zero = os.open("/dev/zero", os.O_RDONLY)
child = subprocess.Popen(["sleep", "3601"])
print(server.getsockname()[1], child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@pytest.fixture
def parent() -> Iterator[Path]:
    """A cgroup of this test's own, emptied and removed at its end."""
    top = Path(find_cgroup2_mount()) / f"pinfold-scan-{unique()}"
    top.mkdir()
    try:
        yield top
    finally:
        for folder in sorted(top.rglob("*"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        top.rmdir()


@pytest.fixture
def tun(tmp_path: Path) -> Path:
    """A node of a class that is not ordinary, which this host surely has: loop-control's or kmsg's."""
    node = tmp_path / "kmsg"
    os.mknod(node, 0o20600, os.makedev(1, 11))
    return node


class Tenant:
    def __init__(self, cgroup: Path, node: Path) -> None:
        procs = cgroup / "cgroup.procs"
        self.process = subprocess.Popen(
            [sys.executable, "-c", TENANT, str(node), "argument with spaces", b"\xff\xfe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            preexec_fn=lambda: procs.write_text("0"),  # noqa: PLW1509 - this test has one thread
        )
        assert self.process.stdout is not None
        port, child = self.process.stdout.readline().split()
        self.port, self.child = int(port), int(child)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{self.child}/cmdline").read_bytes() != b"sleep\x003601\0":
            assert time.monotonic() < deadline

    def stop(self) -> None:
        self.process.communicate()


@pytest.fixture
def tenant(parent: Path, tun: Path) -> Iterator[Tenant]:
    box = parent / "box"
    (box / "inner").mkdir(parents=True)
    made = Tenant(box / "inner", tun)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def enricher(parent: Path) -> Enricher:
    return Enricher(Config(sandboxes=(SandboxPattern(f"{parent.name}/*"),)), str(parent.parent))


@pytest.fixture
def existing(enricher: Enricher, tenant: Tenant) -> Existing:
    changes = enricher.discover(0, 500)
    assert [(change.change, change.SandboxName) for change in changes] == [("found", enricher.sandboxes.live()[0].path)]
    return enricher.scan(enricher.sandboxes.live(), 0, 1000)


def test_processes_come_with_argv_parent_and_entry(enricher: Enricher, existing: Existing, tenant: Tenant) -> None:
    found = [a for a in existing.activities if isinstance(a, ProcessCreation)]
    assert [a.ProcessId for a in found] == [tenant.process.pid, tenant.child]
    first, second = found
    assert all(a.Existing for a in found)
    assert first.Image == os.path.realpath(sys.executable)
    assert "argument with spaces \ufffd\ufffd" in first.CommandLine
    assert first.raw is not None
    assert first.raw["CommandLine"].endswith(b"argument with spaces\0\xff\xfe\0")
    assert (second.CommandLine, second.ParentProcessId) == ("sleep 3601", tenant.process.pid)
    assert second.ParentCommandLine == first.CommandLine
    assert second.EntryImage == first.Image
    assert first.CurrentDirectory == "/"
    assert second.User == "root"
    inner = os.stat(os.path.join(find_cgroup2_mount(), first.SandboxName, "inner")).st_ino
    assert (first.SandboxId, first.CgroupId) == (enricher.sandboxes.live()[0].id, inner)
    assert [tgid for tgid, _, _ in existing.processes] == [tenant.process.pid, tenant.child]
    assert len({a.position for a in existing.activities}) == len(existing.activities)


def test_flows_and_listeners(existing: Existing, tenant: Tenant) -> None:
    flows = [a for a in existing.activities if isinstance(a, NetworkConnection)]
    assert {a.ProcessId for a in flows} == {tenant.process.pid}, "its child closed what it inherited"
    listener = [a for a in flows if not a.Initiated and a.SourcePort == 0]
    inbound = [a for a in flows if not a.Initiated and a.SourcePort]
    outbound = [a for a in flows if a.Initiated and a.Protocol == "tcp"]
    udp = [a for a in flows if a.Protocol == "udp"]
    assert [(a.DestinationIp, a.DestinationPort) for a in listener] == [("127.0.0.1", tenant.port)]
    assert [(a.DestinationPort, a.SourceIp) for a in inbound] == [(tenant.port, "127.0.0.1")]
    assert [(a.DestinationPort, a.SourcePort) for a in outbound] == [(tenant.port, inbound[0].SourcePort)]
    assert [(a.DestinationPort, a.Initiated) for a in udp] == [(9, True)]
    assert all(a.DestinationIsLoopback and a.Existing for a in flows)


def test_open_devices_but_ordinary_ones(existing: Existing, tenant: Tenant) -> None:
    devices = [a for a in existing.activities if isinstance(a, DeviceAccess)]
    assert [(a.DeviceClass, a.DeviceMajor, a.DeviceMinor, a.Access) for a in devices] == [
        ("memory", 1, 11, "read,write")
    ]
    assert (devices[0].ProcessId, devices[0].Granted, devices[0].PriorVerdict) == (tenant.process.pid, False, "unknown")


def test_what_a_sandbox_hides_in_too_many_cgroups_is_counted(
    enricher: Enricher, existing: Existing, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert enricher.counters["existing_cut"] == 0
    monkeypatch.setattr(procfs, "CGROUPS_MAX", 1)
    assert enricher.scan(enricher.sandboxes.live(), 0, 2000).processes == []
    assert enricher.counters["existing_cut"] == 1


def test_records_go_on_where_the_scan_ended(enricher: Enricher, existing: Existing, tenant: Tenant) -> None:
    """The kernel has start times to the nanosecond, /proc in ticks: still the same process."""
    tgid, start_ns, sandbox_id = existing.processes[1]
    exact = start_ns + 1234
    before = enricher.processes.get(tgid)
    made = enricher.apply(records.exec_(tgid, exact, b"new\0", "/bin/new", sandbox=sandbox_id), 1, 1)
    assert isinstance(made, ProcessCreation)
    assert enricher.processes.get(tgid) is before
    assert made.ProcessGuid == f"{tgid}-{start_ns}", "one process, one guid"
    assert made.ParentProcessId == tenant.process.pid
    enricher.apply(records.exit_(tgid, start_ns, sandbox=sandbox_id), 1, 2)
    assert enricher.processes.get(tgid) is None


def test_what_dies_during_the_scan_is_left_out(enricher: Enricher, parent: Path) -> None:
    """Short-lived processes all the while: nothing raises, and what is told was there."""
    box = parent / "storm"
    box.mkdir()
    procs = box / "cgroup.procs"
    storm = subprocess.Popen(
        ["sh", "-c", "while :; do /bin/true; done"],
        preexec_fn=lambda: procs.write_text("0"),  # noqa: PLW1509 - this test has one thread
    )
    try:
        enricher.discover(0, 0)
        for _ in range(20):
            found = enricher.scan(enricher.sandboxes.live(), 0, 0)
            assert storm.pid in {tgid for tgid, _, _ in found.processes}
    finally:
        storm.kill()
        storm.wait()
        deadline = time.monotonic() + 10
        while procs.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)


def test_cgroup_paths_by_id(parent: Path) -> None:
    deep = parent / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    paths = CgroupPaths(str(parent.parent))
    cgroup_id = deep.stat().st_ino
    assert paths.path(cgroup_id) == str(deep.relative_to(parent.parent))
    deep.rmdir()
    assert paths.path(cgroup_id) is None


def test_a_birth_whose_path_was_cut_gets_the_whole_one(enricher: Enricher, parent: Path) -> None:
    box = parent / ("box-" + "z" * 180)
    box.mkdir()
    cut = f"/{box.relative_to(parent.parent)}".encode()[:159]
    change = enricher.apply(records.birth(box.stat().st_ino, cut + b"\0"), 1, 1)
    assert change is not None
    assert getattr(change, "CgroupPath", "") == str(box.relative_to(parent.parent))


def test_a_sandbox_whose_birth_was_lost_is_found_by_its_id(enricher: Enricher, parent: Path) -> None:
    box = parent / "lost"
    box.mkdir()
    made = enricher.apply(records.exec_(99, 7, sandbox=box.stat().st_ino), 1, 1)
    assert isinstance(made, ProcessCreation)
    assert made.SandboxName == f"{parent.name}/lost"
    assert len(enricher.sandboxes) == 1


def test_one_that_moved_in_brings_its_image_along(enricher: Enricher, parent: Path) -> None:
    box = parent / "entered"
    box.mkdir()
    enricher.discover(0, 0)
    sandbox_id = box.stat().st_ino
    with subprocess.Popen(["sleep", "3602"]) as child:
        try:
            start_ns = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]) * 10_000_000
            deadline = time.monotonic() + 10
            while os.readlink(f"/proc/{child.pid}/exe") == os.path.realpath(sys.executable):
                assert time.monotonic() < deadline
            enricher.apply(
                records.move(child.pid, start_ns + 77, previous=0, destination=sandbox_id, sandbox=sandbox_id), 1, 1
            )
            process = enricher.processes.get(child.pid)
        finally:
            child.kill()
    assert process is not None
    assert process.image == os.path.realpath("/bin/sleep")
    assert process.parent_image == os.path.realpath(sys.executable)
    assert (process.parent_tgid, process.executed_inside) == (os.getpid(), False)


def test_unix_sockets_are_not_taken_for_flows(enricher: Enricher) -> None:
    one, other = socket.socketpair()
    with one, other:
        assert enricher.scan([], 0, 0).activities == []
