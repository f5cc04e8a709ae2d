"""Kills in real cgroups, with forks racing against them. Needs root and a cgroup2 mount."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from sensor.respond import kill, killsandbox, procfs
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.freezer import Freezer
from sensor.respond.kill import Gone, Killer, Tree
from sensor.respond.killsandbox import Killed, SandboxKiller
from sensor.respond.nevertouch import NeverTouch, Refusal
from sensor.respond.table import Host, Identity, identity
from tests.live.names import unique
from tests.respond.host import Record, Table, alive, record_of

ENTER = "import os,sys; open(sys.argv[1]+'/cgroup.procs','w').write('0'); os.execvp(sys.argv[2], sys.argv[2:])"

# Each process forks until the family has had 400 members, so that a kill always meets forks under way.
FORKER = """
import os, time
born = os.open({counter!r}, os.O_RDWR)
while True:
    if os.pread(born, 400, 0).count(b'x') >= 400:
        time.sleep(300)
    os.lseek(born, 0, os.SEEK_END)
    os.write(born, b'x')
    if os.fork():
        time.sleep(0.0002)
"""


class Cgroup:
    """A cgroup of the test's own. `close` kills what is in it and removes it."""

    def __init__(self, parent: Path, name: str) -> None:
        self.directory = parent / name
        self.directory.mkdir()
        self.id = self.directory.stat().st_ino
        self.state = ""
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", ENTER, str(self.directory), *command])
        self._started.append(process)
        deadline = time.monotonic() + 30
        while os.readlink(f"/proc/{process.pid}/exe") == os.path.realpath(sys.executable) and command[0] == "sleep":
            assert time.monotonic() < deadline
            time.sleep(0.001)
        while process.pid not in self.tgids():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return process

    def tgids(self) -> list[int]:
        return [int(line) for line in (self.directory / "cgroup.procs").read_text().split()]

    def empty(self) -> bool:
        """Waits for it: what got SIGKILL takes a moment to be gone."""
        deadline = time.monotonic() + 30
        while "populated 1" in (self.directory / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def close(self) -> None:
        with suppress(FileNotFoundError):
            (self.directory / "cgroup.freeze").write_text("0")
            (self.directory / "cgroup.kill").write_text("1")
            for process in self._started:
                process.kill()
                process.wait()
            assert self.empty()
            for nested, _, _ in os.walk(self.directory, topdown=False):
                os.rmdir(nested)


def mount() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    pytest.fail("no cgroup2 is mounted")


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Cgroup]:
    if os.geteuid():
        pytest.fail("root is needed to make cgroups")
    cgroup = Cgroup(mount(), f"pinfold-test-{unique()}")
    cgroup.state = str(tmp_path)
    try:
        yield cgroup
    finally:
        cgroup.close()


class Kernel(Table):
    """A table that knows what the kernel's fork records would tell: all of the cgroup descends from `root`."""

    def __init__(self, cgroup: Cgroup, root: Record, *strangers: int) -> None:
        super().__init__(root)
        self.cgroup = cgroup
        self.root = root
        self.strangers = strangers

    def get(self, tgid: int) -> Record | None:
        return self.records.get(tgid)

    def in_sandbox(self, sandbox_id: int) -> Sequence[Record]:
        for tgid in self.cgroup.tgids():
            stat = procfs.stat(tgid)
            if tgid not in self.strangers and tgid not in self.records and stat is not None:
                start_ns = stat.start_ticks * procfs.TICK_NS
                self.add(Record(tgid, start_ns, self.cgroup.id, parent=self.root))
        return super().in_sandbox(sandbox_id)


def host(cgroup: Cgroup, table: Table, own_pids: Sequence[int] = ()) -> Host:
    return Host(table, lambda _: cgroup.directory.name, lambda: own_pids, str(mount()), state=cgroup.state)


def killers(known: Host) -> tuple[Killer, SandboxKiller]:
    guard = NeverTouch(known)
    killer = Killer(known, guard)
    return killer, SandboxKiller(known, guard, killer)


def test_membership_by_cgroup_alone(sandbox: Cgroup) -> None:
    inside = sandbox.start("sleep", "300")
    outside = subprocess.Popen(["sleep", "300"])
    try:
        killer, _ = killers(host(sandbox, Table()))
        refusal = killer.start(identity(record_of(outside.pid)), sandbox.id)
        assert refusal == Refusal("a process outside the sandbox")
        assert isinstance(killer.start(identity(record_of(inside.pid)), sandbox.id), Tree)
        assert inside.wait() == -9
        assert alive(outside.pid)
    finally:
        outside.kill()
        outside.wait()


@pytest.mark.parametrize("plain", [kill.PLAIN, 8], ids=["plain", "frozen"])
def test_a_tree_that_forks_while_it_is_killed(
    sandbox: Cgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: int
) -> None:
    monkeypatch.setattr(kill, "PLAIN", plain)
    counter = tmp_path / "born"
    counter.touch()
    bystander = sandbox.start("sleep", "300")
    root = sandbox.start(sys.executable, "-c", FORKER.format(counter=str(counter)))
    deadline = time.monotonic() + 60
    while counter.stat().st_size < 50:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    mine = record_of(root.pid, sandbox_id=sandbox.id)
    killer, _ = killers(host(sandbox, Kernel(sandbox, mine, bystander.pid)))
    tree = killer.start(identity(mine), sandbox.id)
    assert isinstance(tree, Tree)
    assert tree.killed == [root.pid]
    while not killer.resume(tree) or sandbox.tgids() != [bystander.pid]:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert len(tree.killed) >= 40
    assert alive(bystander.pid)
    assert (sandbox.directory / "cgroup.freeze").read_text() == "0\n"
    assert os.listdir(sandbox.state) == ["born"]


def test_a_large_tree_in_a_sandbox_that_somebody_froze_stays_frozen(
    sandbox: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill, "PLAIN", 0)
    root = sandbox.start("sleep", "300")
    child = sandbox.start("sleep", "300")
    (sandbox.directory / "cgroup.freeze").write_text("1")
    mine = record_of(root.pid, sandbox_id=sandbox.id)
    killer, _ = killers(host(sandbox, Kernel(sandbox, mine)))
    tree = killer.start(identity(mine), sandbox.id)
    assert isinstance(tree, Tree)
    assert killer.resume(tree)
    assert sorted(tree.killed) == sorted([root.pid, child.pid])
    assert (sandbox.directory / "cgroup.freeze").read_text() == "1\n"
    assert sandbox.empty()


def test_a_process_that_left_its_cgroup_is_of_the_sandbox_still(sandbox: Cgroup) -> None:
    root = sandbox.start("sleep", "300")
    (mount() / "cgroup.procs").write_text(str(root.pid))
    assert sandbox.tgids() == []
    mine = record_of(root.pid, sandbox_id=sandbox.id)
    _, sandboxes = killers(host(sandbox, Table(mine)))
    assert sandboxes.kill(sandbox.id) == Killed((root.pid,))
    assert root.wait() == -9


def test_a_sandbox_dies_with_all_that_is_nested(sandbox: Cgroup) -> None:
    nested = Cgroup(sandbox.directory, "nested")
    processes = [sandbox.start("sleep", "300"), nested.start("sleep", "300")]
    _, sandboxes = killers(host(sandbox, _inside(sandbox, processes)))
    done = sandboxes.kill(sandbox.id)
    assert isinstance(done, Killed)
    assert done.complete
    assert sorted(done.tgids) == sorted(process.pid for process in processes)
    assert [process.wait() for process in processes] == [-9, -9]
    assert sandbox.empty()
    with pytest.raises(Gone):
        sandboxes.kill(sandbox.id)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EOPNOTSUPP])
def test_without_cgroup_kill_each_is_killed_frozen(
    sandbox: Cgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """An older kernel's answer to cgroup.kill is put in its place; the rest is real."""
    counter = tmp_path / "born"
    counter.touch()
    write = CgroupDirectory.write

    def older(directory: CgroupDirectory, name: str, value: bytes) -> None:
        if name == "cgroup.kill":
            raise OSError(code, os.strerror(code))
        write(directory, name, value)

    monkeypatch.setattr(CgroupDirectory, "write", older)
    root = sandbox.start(sys.executable, "-c", FORKER.format(counter=str(counter)))
    deadline = time.monotonic() + 60
    while counter.stat().st_size < 50:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    _, sandboxes = killers(host(sandbox, _inside(sandbox, [root])))
    done = sandboxes.kill(sandbox.id)
    assert isinstance(done, Killed)
    assert done.complete
    assert sandbox.empty()
    assert (sandbox.directory / "cgroup.freeze").read_text() == "0\n"


def test_a_threaded_cgroup_hides_nobody(sandbox: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a threaded cgroup neither cgroup.kill nor cgroup.procs works: a sandbox that is root can make one."""
    threaded = Cgroup(sandbox.directory, "threaded")
    (threaded.directory / "cgroup.type").write_text("threaded")
    member = subprocess.Popen(["sleep", "300"])
    try:
        (sandbox.directory / "cgroup.procs").write_text(str(member.pid))
        (threaded.directory / "cgroup.threads").write_text(str(member.pid))
        with CgroupDirectory(str(mount()), "/" + sandbox.directory.name, sandbox.id) as directory:
            assert directory.processes() == [member.pid]
        below = Host(Table(), lambda _: f"{sandbox.directory.name}/threaded", lambda: (), str(mount()), sandbox.state)
        _, sandboxes = killers(below)
        done = sandboxes.kill(threaded.id)
        assert done == Killed((member.pid,))
        assert member.wait() == -9
    finally:
        member.kill()
        member.wait()


def test_rounds_are_bounded(sandbox: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killsandbox, "ROUNDS", 1)
    process = sandbox.start("sleep", "300")
    _, sandboxes = killers(host(sandbox, Table()))
    with CgroupDirectory(str(mount()), "/" + sandbox.directory.name, sandbox.id) as directory:
        assert not sandboxes.kill_each(
            directory, "/" + sandbox.directory.name, sandbox.id
        )  # one round cannot tell that nothing is new
    assert process.wait() == -9


def test_another_cgroup_of_the_same_name_is_not_the_sandbox(sandbox: Cgroup) -> None:
    process = sandbox.start("sleep", "300")
    _, sandboxes = killers(host(sandbox, Table()))
    with pytest.raises(Gone):
        sandboxes.kill(sandbox.id + 1)
    assert alive(process.pid)


def test_a_cgroup_that_holds_pinfold_is_no_sandbox(sandbox: Cgroup) -> None:
    nested = Cgroup(sandbox.directory, "nested")
    own = nested.start("sleep", "300")
    other = sandbox.start("sleep", "300")
    _, sandboxes = killers(host(sandbox, Table(), own_pids=[own.pid]))
    assert sandboxes.kill(sandbox.id) == Refusal("the cgroup holds a process of pinfold")
    assert alive(own.pid)
    assert alive(other.pid)


def test_a_cgroup_that_holds_the_hosts_sshd_is_no_sandbox(sandbox: Cgroup, tmp_path: Path) -> None:
    image = tmp_path / "sshd"
    image.write_bytes(Path("/bin/sleep").read_bytes())
    image.chmod(0o755)
    nested = Cgroup(sandbox.directory, "nested")
    daemon = nested.start(str(image), "300")
    deadline = time.monotonic() + 30
    while procfs.image_name(daemon.pid) != "sshd":
        assert time.monotonic() < deadline
        time.sleep(0.001)
    outside = record_of(daemon.pid, sandbox_id=sandbox.id, executed_inside=False)
    _, sandboxes = killers(host(sandbox, Table(outside)))
    assert sandboxes.kill(sandbox.id) == Refusal("the host's sshd")
    assert alive(daemon.pid)
    outside.executed_inside = True
    assert sandboxes.kill(sandbox.id) == Killed((daemon.pid,))
    assert daemon.wait() == -9


def _inside(cgroup: Cgroup, processes: Sequence[subprocess.Popen[bytes]]) -> Table:
    return Table(*(record_of(process.pid, sandbox_id=cgroup.id) for process in processes))


def test_identities_differ_by_start_time(sandbox: Cgroup) -> None:
    """The number of a process that died is worth nothing, also within the right cgroup."""
    process = sandbox.start("sleep", "300")
    stat = procfs.stat(process.pid)
    assert stat is not None
    killer, _ = killers(host(sandbox, Table()))
    with pytest.raises(Gone):
        killer.alone(Identity(process.pid, stat.start_ticks - 1), sandbox.id)
    assert alive(process.pid)


DIES = """
import os, sys
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.freezer import Freezer
mount, path, number, state = sys.argv[1:]
with CgroupDirectory(mount, path, int(number)) as directory:
    with Freezer(mount, state).hold(directory, path, int(number)) as froze:
        print(froze, flush=True)
        os.kill(os.getpid(), 9)
"""


def test_what_a_killed_daemon_left_frozen_is_thawed(sandbox: Cgroup) -> None:
    path = "/" + sandbox.directory.name
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(mount()), path, str(sandbox.id), sandbox.state],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    assert (died.returncode, died.stdout) == (-9, "True\n")
    (Path(sandbox.state) / "frozen-1").write_text("/of a cgroup that is gone")
    (Path(sandbox.state) / "frozen-x").write_text("not ours")
    with CgroupDirectory(str(mount()), path, sandbox.id) as directory:
        assert directory.frozen()
        freezer = Freezer(str(mount()), sandbox.state)
        with freezer.hold(directory, path, sandbox.id) as froze:
            assert not froze  # by somebody else, for all that a response knows
        assert freezer.thaw_leftovers() == [path]
        assert not directory.frozen()
    assert os.listdir(sandbox.state) == ["frozen-x"]
    assert Freezer(str(mount()), sandbox.state + "/none").thaw_leftovers() == []
    assert Freezer(str(mount()), "").thaw_leftovers() == []


def test_without_room_for_the_marker_nothing_is_frozen(sandbox: Cgroup) -> None:
    path = "/" + sandbox.directory.name
    with (
        CgroupDirectory(str(mount()), path, sandbox.id) as directory,
        Freezer(str(mount()), "/nonexistent").hold(directory, path, sandbox.id) as froze,
    ):
        assert not froze
        assert not directory.frozen()
