"""Programs that a class denies: killed before their first instruction, told in monitor mode."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.running import Line, Running, Sandbox

POLICY = """
    denied_executables:
      {{paths: [touch, /usr/bin/id], sha256: [HASH], memfd: true, deleted: true, written_inside: true}}
    shells_on_sockets: deny
"""
# /bin/sleep with a word behind it: a program that nobody else has.
CONTENT = Path("/bin/sleep").read_bytes() + b"pinfold"
CONFIG = (
    """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
sandboxes:
  - {{path: "{instance}/held-*", class: held}}
  - {{path: "{instance}/told-*", class: told}}
classes:
  held:
    mode: enforce"""
    + POLICY
    + """
  told:
    mode: monitor"""
    + POLICY
)


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(config=CONFIG.replace("HASH", hashlib.sha256(CONTENT).hexdigest()), cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def denied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("denied") / "program"
    path.write_bytes(CONTENT)
    path.chmod(0o755)
    return path


@pytest.fixture(params=["held", "told"])
def box(sensor: Running, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with sensor.sandbox(f"{request.param}-{unique()}") as made:
        yield made


def notice(line: Line, tgid: int) -> bool:
    return "denies by its content" in line.get("text", "") and line["fields"]["ProcessId"] == tgid


def test_by_content_killed_at_first_and_refused_from_then_on(sensor: Running, denied: Path, box: Sandbox) -> None:
    held = box.name.startswith("held")
    first = box.start(str(denied), "30")
    sensor.until(lambda: any(notice(line, first.pid) for line in sensor.lines()), "the notice")
    if not held:
        assert first.poll() is None
        first.kill()
        first.wait()
        return
    assert first.wait(20) == -signal.SIGKILL
    assert not sensor.of(box, category="process_creation", DeniedBy="hash")
    assert box.run(str(denied), "30").returncode == -signal.SIGKILL
    sensor.wait(box, category="process_creation", DeniedBy="hash", Killed=True)


def judged(sensor: Running, box: Sandbox, reason: str, status: int, ran: int = 0) -> None:
    """It was killed in the class that holds, and ran in the other one; both are told."""
    held = box.name.startswith("held")
    assert status == (-signal.SIGKILL if held else ran)
    (line,) = sensor.wait(box, category="process_creation", DeniedBy=reason)[:1]
    assert line["Killed"] is held


def test_by_name_anywhere(sensor: Running, box: Sandbox, tmp_path: Path) -> None:
    made = tmp_path / "made"
    judged(sensor, box, "listed", box.run("/usr/bin/touch", str(made)).returncode)
    assert made.exists() is box.name.startswith("told")


def test_by_path_whatever_it_is_called_by(sensor: Running, box: Sandbox, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/usr/bin/id")
    judged(sensor, box, "listed", box.run(str(link)).returncode)
    assert box.run("/usr/bin/whoami").returncode == 0


def test_from_memory(sensor: Running, box: Sandbox) -> None:
    code = """
import os
fd = os.memfd_create("x")
with open("/bin/true", "rb") as file:
    os.write(fd, file.read())
os.execve(fd, ["true"], {})
"""
    judged(sensor, box, "memfd", box.python(code).returncode)


def test_deleted(sensor: Running, box: Sandbox, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy("/bin/true", copy)
    code = "import os, sys; fd = os.open(sys.argv[1], os.O_PATH); os.unlink(sys.argv[1]); os.execve(fd, ['true'], {})"
    judged(sensor, box, "deleted", box.python(code, str(copy)).returncode)


def test_written_inside_and_not_what_was_there(sensor: Running, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copy("/bin/true", before)
    seconds = int(before.stat().st_ctime)
    for kind in ("held", "told"):
        with sensor.sandbox(f"{kind}-{unique()}") as box:
            while time.time() < seconds + 2:  # a file's time is compared by the second
                os.sched_yield()
            assert box.run(str(before)).returncode == 0
            code = "import os, shutil, sys; shutil.copy(*sys.argv[1:]); os.utime(sys.argv[2], (0, 0))"
            assert box.python(code, "/bin/true", str(after)).returncode == 0
            judged(sensor, box, "written", box.run(str(after)).returncode)
            seconds = int(time.time())
            assert not sensor.of(box, category="process_creation", Image=str(before), DeniedBy="written")


def test_a_shell_on_a_socket(sensor: Running, box: Sandbox) -> None:
    ours, its = socket.socketpair()
    with ours, its:
        done = box.start("/bin/sh", "-c", "exit 3", stdin=its, stdout=subprocess.DEVNULL)
        judged(sensor, box, "shell", done.wait(), ran=3)
    assert box.run("/bin/sh", "-c", "exit 3").returncode == 3
    ours, its = socket.socketpair()
    with ours, its:  # any other program may
        assert box.start("/bin/true", stdin=its, stdout=its).wait() == 0
