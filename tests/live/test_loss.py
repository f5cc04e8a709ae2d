"""When the ring has no room: what is counted, what is refused, and whose room it is."""

from __future__ import annotations

import errno
import secrets
import signal
import subprocess
from collections.abc import Iterator

import pytest

from sensor.control.client import Client
from tests.live.flooding import SMALL, fill, unread
from tests.live.running import Running, Sandbox

CONNECT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    s.connect(('127.0.0.1', int(sys.argv[1])))
    print(0)
except OSError as error:
    print(error.errno)
"""
OPEN = """
import os
try:
    os.open('/dev/fuse', os.O_RDWR)
except OSError as error:
    print(error.errno)
"""


@pytest.fixture(scope="module")
def small(rule_cache: str) -> Iterator[Running]:
    with Running(SMALL, cache=rule_cache) as running:
        yield running


def state(sensor: Running, sandbox: Sandbox) -> dict[str, object]:
    rows = Client(f"{sensor.home}/run/control.sock").sandboxes()
    return next(dict(row) for row in rows if row["id"] == sandbox.id)


def test_monitor_mode_lets_it_happen_and_counts_it(small: Running) -> None:
    with small.sandbox() as sandbox:
        with unread(small):
            started = fill(sandbox)
        small.settled(sandbox)
        events = small.of(sandbox, category="process_creation", CommandLine=lambda line: "fff" in line)
        assert 0 < len(events) < started
        small.until(lambda: state(small, sandbox)["lost"], "losses")
        row = state(small, sandbox)
        assert row["state"] == "unknown", "clean is never said of a sandbox whose events were lost"
        lost = row["lost"]
        assert isinstance(lost, dict)
        assert lost["budget"] >= started - len(events)


def test_a_flood_loses_nothing_of_another_sandbox(small: Running) -> None:
    with small.sandbox() as flooding, small.sandbox() as quiet:
        with unread(small):
            fill(flooding)
            for index in range(20):
                quiet.run("/bin/true", f"quiet-{index}")
        small.settled(quiet)
        lines = small.of(quiet, category="process_creation", CommandLine=lambda line: "quiet-" in line)
        assert [line["CommandLine"] for line in lines] == [f"/bin/true quiet-{index}" for index in range(20)]
        assert not state(small, quiet)["lost"]
        assert state(small, quiet)["state"] == "clean"


def test_enforce_refuses_what_cannot_be_recorded(small: Running) -> None:
    with small.sandbox(f"refuse-{secrets.token_hex(4)}") as sandbox:
        waiting = sandbox.start(
            "/usr/bin/python3", "-I", "-S", "-c",
            f"import sys\nsys.stdin.readline()\nsys.argv.append('4545')\n{CONNECT}",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        device = sandbox.start(
            "/usr/bin/python3", "-I", "-S", "-c", f"import sys\nsys.stdin.readline()\n{OPEN}",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        small.wait(sandbox, category="process_creation", count=2)
        with unread(small):
            killed = 0
            for _ in range(200):
                killed += sandbox.run("/bin/true", "f" * 2000).returncode == -signal.SIGKILL
            assert killed > 100, "an exec that cannot be recorded is killed before its first instruction"
            out, _ = waiting.communicate(b"\n", timeout=20)
            assert out.split() == [b"%d" % errno.EPERM]
            out, _ = device.communicate(b"\n", timeout=20)
            assert out.split() == [b"%d" % errno.EPERM]
        small.until(lambda: sandbox.run("/bin/true", "again").returncode == 0, "and goes on when there is room")


def test_enforce_with_allow_lets_it_happen(small: Running) -> None:
    with small.sandbox(f"lenient-{secrets.token_hex(4)}") as sandbox:
        with unread(small):
            ends = {sandbox.run("/bin/true", "f" * 2000).returncode for _ in range(120)}
        assert ends == {0}
        small.until(lambda: state(small, sandbox)["lost"], "losses are counted")


def test_disarm_lifts_refusals_of_the_unrecorded_with_the_daemon_dead(rule_cache: str) -> None:
    import sys  # noqa: PLC0415

    with Running(SMALL, cache=rule_cache) as sensor, sensor.sandbox(f"refuse-{secrets.token_hex(4)}") as sandbox:
        sensor.stop(signal.SIGKILL)
        ends = [sandbox.run("/bin/true", "f" * 2000).returncode for _ in range(200)]
        assert ends[-1] == -signal.SIGKILL, "enforcement holds while the daemon is dead"
        subprocess.run(
            [sys.executable, "-m", "sensor.cli", "disarm", "--reason", "x", "--config", str(sensor.file)], check=True
        )
        assert sandbox.run("/bin/true", "free").returncode == 0
        subprocess.run(
            [sys.executable, "-m", "sensor.cli", "arm", "--reason", "x", "--config", str(sensor.file)], check=True
        )


def test_losses_of_an_ended_sandbox_stay_counted(small: Running) -> None:
    name = 'pinfold_events_lost_total{reason="budget",stage="kernel"}'
    before = small.metrics()[name]
    with small.sandbox() as sandbox, unread(small):
        fill(sandbox)
    small.until(lambda: small.metrics()[name] > before, "its losses, after its end")


NESTED = """
import os, signal, sys, time
nested = os.path.join(sys.argv[1], 'nested')
os.mkdir(nested)
open(nested + '/cgroup.procs', 'w').write('0')
children = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    children.append(child)
last = os.fork()
if last == 0:
    try:
        os.open('/dev/fuse', os.O_RDWR)
    except OSError as error:
        os.write(1, b'%d' % error.errno)
    os.execv('/bin/true', ['/bin/true', 'behind-a-full-map'])
os.waitpid(last, 0)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_full_process_map_hides_nobody(rule_cache: str) -> None:
    """A sandbox that fills the map of processes, and then acts from a cgroup of its own making."""
    options = "limits: {{processes: 64}}\n"
    with Running(options, cache=rule_cache) as sensor, sensor.sandbox(f"refuse-{secrets.token_hex(4)}") as sandbox:
        done = sandbox.python(NESTED, str(sandbox.path), "200")
        assert done.stdout == b"%d" % errno.EPERM, done.stderr
        sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true behind-a-full-map")
        sensor.until(lambda: state(sensor, sandbox)["lost"], "what had no entry is counted")
