"""Who leaves its sandbox's cgroup is killed in enforce mode, with all that descends from it and the sockets it made."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.containing import MOVE_OUT, notices, windows
from tests.live.names import unique
from tests.live.running import Running, Sandbox, remove_cgroup
from tests.respond.host import alive

LEFT = "A process left its sandbox's cgroup"


@pytest.fixture
def outside(sensor: Running) -> Iterator[Path]:
    """A cgroup that is no sandbox."""
    path = Path(sensor.mount) / f"pinfold-outside-{unique()}"
    path.mkdir()
    try:
        yield path
    finally:
        (path / "cgroup.kill").write_text("1")
        remove_cgroup(path)


def test_who_moves_itself_out_is_killed_and_told(sensor: Running, outside: Path) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box:
        done = box.python(MOVE_OUT, str(outside), "9", timeout=30)
        assert done.returncode == -9
        tgid = int(done.stdout)
        (told,) = sensor.wait(box, kind="detection", rule=lambda rule: rule and rule["title"] == LEFT)
        assert (told["ProcessId"], told["SandboxId"], told["rule"]["level"]) == (tgid, box.id, "critical")
        (line,) = sensor.wait(box, category="process_migration")
        assert (line["Direction"], line["Way"], line["MoverProcessId"]) == ("left", "moved", tgid)
        assert line["CgroupId"] == outside.stat().st_ino
        (notice,) = notices(sensor, "left its sandbox's cgroup")[-1:]
        assert notice["ProcessId"] == tgid
        assert notice["window_ns"] > 0
        assert f"{notice['window_ns'] / 1e6:.3f} ms after the move" in sensor.said()
    assert sensor.metrics()["pinfold_containment_seconds_count"] >= 1


def test_the_mount_itself_is_no_way_out(sensor: Running) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box:
        assert box.python(MOVE_OUT, sensor.mount, "9", timeout=30).returncode == -9


def test_another_sandbox_is_no_way_out(sensor: Running) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box, sensor.sandbox() as other:
        assert box.python(MOVE_OUT, str(other.path), "9", timeout=30).returncode == -9
        (line,) = sensor.wait(box, category="process_migration")
        assert (line["PreviousSandboxId"], line["DestinationSandboxId"]) == (box.id, other.id)


def test_who_moves_another_out_dies_too(sensor: Running, outside: Path) -> None:
    code = """
import subprocess, sys
child = subprocess.Popen(["/usr/bin/sleep", "300"])
print(child.pid, flush=True)
open(sys.argv[1] + "/cgroup.procs", "w").write(str(child.pid))
child.wait()
"""
    with sensor.sandbox(f"refuse-{unique()}") as box:
        done = box.python(code, str(outside), timeout=30)
        assert done.returncode == -9
        sensor.until(lambda: not alive(int(done.stdout)), "who was moved is dead too")
        (line,) = sensor.wait(box, category="process_migration")
        assert line["ProcessId"] == int(done.stdout)  # its program may not have begun: Popen returns a little before
        assert "python" in line["MoverImage"]


def test_a_nested_cgroup_is_no_escape(sensor: Running) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box:
        inner = box.path / "inner"
        inner.mkdir()
        code = "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); print('lives')"
        assert box.python(code, str(inner)).stdout == b"lives\n"
        assert not sensor.of(box, category="process_migration")


def test_who_is_moved_by_somebody_outside_lives_and_is_told(sensor: Running, outside: Path) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box:
        process = box.start("/usr/bin/sleep", "300")
        try:
            sensor.wait(box, category="process_creation", ProcessId=process.pid)
            (outside / "cgroup.procs").write_text(str(process.pid))
            (line,) = sensor.wait(box, category="process_migration")
            assert not line["MoverSandboxed"]
            sensor.wait(box, kind="detection", rule=lambda rule: rule and rule["level"] == "medium")
            sensor.settled(box)
            assert alive(process.pid)
        finally:
            process.kill()
            process.wait()


def test_in_monitor_mode_it_is_only_told(sensor: Running, sandbox: Sandbox, outside: Path) -> None:
    code = "import sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); print('lives')"
    assert sandbox.python(code, str(outside)).stdout == b"lives\n"
    sensor.wait(sandbox, kind="detection", rule=lambda rule: rule and rule["title"] == LEFT)


def test_a_child_born_outside_is_killed(sensor: Running, outside: Path, workloads: Path) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box:
        done = box.run(str(workloads / "enter"), "-k", str(outside), "--", "/usr/bin/sleep", "300", timeout=30)
        assert done.returncode
        (line,) = sensor.wait(box, category="process_migration")
        assert line["Way"] == "cloned"
        sensor.until(lambda: not alive(line["ProcessId"]), "who was born outside is dead")


DOUBLE_FORK = """
import os, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.01)
    os._exit(0)
os._exit(0)
"""


def test_a_double_fork_behind_the_move_does_not_outlive_it(sensor: Running, outside: Path) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box:
        for _ in range(10):
            box.python(DOUBLE_FORK, str(outside), timeout=30)
        sensor.until(lambda: len(sensor.of(box, category="process_migration")) >= 10, "all ten moves are told")
        procs = outside / "cgroup.procs"
        sensor.until(lambda: not procs.read_text().split(), "nothing of them lives outside")


def test_a_double_fork_does_not_escape_a_kill_response(rule_cache: str) -> None:
    """What the rule matches ends by itself, perhaps before it is answered; its grandchild, in a session of its own and
    PID 1's child by then, dies."""
    code = """
import os, sys, time
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.write(tell, b"x")
        os.execv("/usr/bin/sleep", ["/usr/bin/sleep", "300"])
    os._exit(0)
os.wait()
os.read(ready, 1)
os.execv("/bin/true", ["true", "-" + "7-"])
"""
    with Running("rules: {{paths: ['{home}/rules']}}\n", cache=rule_cache) as sensor, sensor.sandbox("kill-a") as box:
        process = box.start("/usr/bin/python3", "-I", "-S", "-c", code, stdout=subprocess.PIPE)
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        process.wait()
        process.stdout.close()
        sensor.wait(box, kind="response", outcome=lambda outcome: outcome in {"done", "gone"})
        sensor.until(lambda: not alive(grandchild), "the grandchild is dead")


HANDED_BACK = """
import array, os, socket, sys, time
inside, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
where, port = sys.argv[1], int(sys.argv[2])
sys.stdin.readline()
if os.fork() == 0:
    open(where + "/cgroup.procs", "w").write("0")
    while True:
        made = socket.create_connection(("127.0.0.1", port))
        outer.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])
_, rights, _, _ = inside.recvmsg(1, socket.CMSG_SPACE(4))
held = socket.socket(fileno=int.from_bytes(rights[0][2][:4], "little"))
print("held", flush=True)
try:
    while held.recv(1 << 16):
        pass
    print("closed", flush=True)
except OSError as error:
    print(error.errno, flush=True)
"""


def test_a_socket_made_outside_and_passed_back_is_destroyed(sensor: Running, outside: Path) -> None:
    """No hook of ours ever sees it: it is of a cgroup that holds none. The core stands still meanwhile, as under the
    worst of loads: else the kill comes before there is a socket."""
    core = sensor.process
    assert core is not None
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server, sensor.sandbox(f"refuse-{unique()}") as box:
        command = ("/usr/bin/python3", "-I", "-S", "-c", HANDED_BACK, str(outside), str(server.getsockname()[1]))
        process = box.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            core.send_signal(signal.SIGSTOP)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"held\n"
        finally:
            core.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == b"103\n"  # ECONNABORTED: SOCK_DESTROY
        process.wait()
        process.stdin.close()
        process.stdout.close()
    sensor.until(lambda: notices(sensor, "made outside its sandbox's cgroup was destroyed"), "it is told")


def test_how_long_they_were_out_is_measured(sensor: Running, outside: Path) -> None:
    with sensor.sandbox(f"refuse-{unique()}") as box:
        found = windows(sensor, box, str(outside), 5)
    assert len(found) == 5
    assert all(0 < window < 60 for window in found)
