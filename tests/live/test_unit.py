"""The sensor under what its systemd unit takes away, laid on by hand: no systemd runs where tests do.

Capabilities, no new privileges, no writable and executable memory and a read-only file system are
really in force; the system call filter is compared with the calls that a whole run makes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.demo.child import Child
from sensor.demo.undo import Undo, remove_tree
from sensor.demo.watch import WORK, Sensor
from tests.live.names import unique
from tests.packaging.test_unit import SETTINGS
from tests.packaging.tools import tool

CHECKOUT = Path(__file__).resolve().parents[2]
END_SECONDS = 60.0
SEEN_SECONDS = 15.0

# Runs in a mount namespace of its own, with what it is given as WRITABLE READ_ONLY KEPT -- COMMAND…
# KEPT is the program itself, which a checkout below /tmp must not lose; a host has it in /opt.
# PrivateTmp= gives a /tmp and a /var/tmp of its own. ProtectSystem=strict leaves /dev, /proc and /sys as
# they are, but for ReadOnlyPaths=. MDWE is inherited over fork and exec (linux/prctl.h: PR_SET_MDWE 65,
# PR_MDWE_REFUSE_EXEC_GAIN 1; since 6.3).
LAUNCH = """
import ctypes, os, subprocess, sys
writable, read_only, kept, command = *(word.split() for word in sys.argv[1:4]), sys.argv[5:]
def below(path, places):
    return any(path == place or path.startswith(place + "/") for place in places)
libc = ctypes.CDLL(None, use_errno=True)
libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
held = {path: os.open(path, os.O_PATH) for path in kept if below(path, ["/tmp", "/var/tmp"])}
for place in ["/tmp", "/var/tmp"]:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
for path, descriptor in held.items():
    os.makedirs(path, exist_ok=True)
    # MS_BIND | MS_REC. mount(8) would follow the link to a name, which now names the empty folder.
    if libc.mount(f"/proc/self/fd/{descriptor}".encode(), path.encode(), None, 4096 | 16384, None):
        raise OSError(ctypes.get_errno(), path)
for place in writable:
    subprocess.run(["mount", "--rbind", place, place], check=True)
for line in list(open("/proc/self/mountinfo")):
    path = line.split()[4]
    left = below(path, ["/dev", "/proc", "/sys"]) and not below(path, read_only)
    if left or below(path, [*writable, "/tmp", "/var/tmp"]):
        continue
    subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
if libc.prctl(65, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), "PR_SET_MDWE")
os.execvp(command[0], command)
"""


def words(name: str) -> list[str]:
    """Of all lines `name=`, in order."""
    return [word for line in SETTINGS if line.startswith(f"{name}=") for word in line.partition("=")[2].split()]


def hardened(folder: Path) -> list[str]:
    """What goes before a command to run it as the unit would."""
    capabilities = ",".join("+" + name.removeprefix("CAP_").lower() for name in words("CapabilityBoundingSet"))
    return [
        "unshare", "--mount", "--propagation", "private", sys.executable, "-c", LAUNCH,
        " ".join([*words("ReadWritePaths"), str(folder)]), " ".join(words("ReadOnlyPaths")),
        f"{CHECKOUT} {sys.prefix}", "--",
        "setpriv", f"--bounding-set=-all,{capabilities}", "--inh-caps=-all", "--no-new-privs", "--",
    ]  # fmt: skip


@pytest.fixture
def stage() -> Iterator[tuple[str, Path, Undo]]:
    """(instance, folder, undo)"""
    folder = Path(tempfile.mkdtemp(prefix=f"pinfold-unit-{unique()}-", dir="/run"))  # not below what PrivateTmp= hides
    undo = Undo()
    with undo:
        undo.add("folder", lambda: remove_tree(folder))
        yield f"pinfold-unit-{unique()}", folder, undo
    assert undo.failures == []


def work(sensor: Sensor, folder: Path, undo: Undo) -> None:
    """A program and a connect in a sandbox, seen in the log."""
    script = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    command = sensor.sandbox(WORK, ["/usr/bin/python3", "-c", script])
    child = Child(WORK, command, folder / "work.out", undo)
    assert undo.until(lambda: child.status is not None, END_SECONDS)
    assert child.status == 0, child.said()

    def seen() -> bool:
        sensor.journal.read()
        return all(any(sensor.journal.events(WORK, c)) for c in ("process_creation", "network_connection"))

    assert undo.until(seen, SEEN_SECONDS)


def test_it_runs_hardened(stage: tuple[str, Path, Undo]) -> None:
    instance, folder, undo = stage
    sensor = Sensor(instance, folder, undo, hardened(folder))
    work(sensor, folder, undo)
    status = Path(f"/proc/{sensor.child.tgid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert sensor.lost() == 0
    sensor.child.stop()
    assert sensor.child.status == 0, sensor.child.said()


def test_the_hardening_is_in_force(stage: tuple[str, Path, Undo]) -> None:
    """That the emulation takes anything away at all."""
    _, tmp_path, _ = stage
    probe = "import mmap, sys; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    for command in (["touch", "/usr/pinfold"], ["touch", "/sys/kernel/mm/x"], ["mknod", f"{tmp_path}/n", "c", "1", "3"],
                    [sys.executable, "-c", probe]):  # fmt: skip
        done = subprocess.run([*hardened(tmp_path), *command], check=False, capture_output=True, text=True)
        assert done.returncode == 1, command
        assert re.search("Read-only|not permitted|Permission", done.stderr), done.stderr
    done = subprocess.run([*hardened(tmp_path), "touch", f"{tmp_path}/x"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def allowed_calls() -> set[str]:
    """What SystemCallFilter= leaves, as systemd.exec(5) has it: the first line allows, ~ takes away, others add."""
    done = subprocess.run([tool("systemd-analyze"), "syscall-filter"], check=True, capture_output=True, text=True)
    groups: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            current = groups.setdefault(word, [])
        elif word and not word.startswith("#") and groups:
            current.append(word)

    def expand(name: str) -> set[str]:
        return {call for member in groups[name] for call in expand(member)} if name.startswith("@") else {name}

    allowed: set[str] = expand("@default")
    for line in SETTINGS:
        if line.startswith("SystemCallFilter="):
            value = line.partition("=")[2]
            calls = {call for name in value.lstrip("~").split() for call in expand(name)}
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def test_a_whole_run_makes_no_call_that_is_filtered(stage: tuple[str, Path, Undo]) -> None:
    """From the first line of the daemon to its last, its children included. strace runs detached, so that the
    daemon is the process that is started and stopped."""
    instance, folder, undo = stage
    trace = folder / "trace"
    sensor = Sensor(instance, folder, undo, [tool("strace"), "-D", "-f", "-qq", "-o", str(trace)])
    work(sensor, folder, undo)
    sensor.child.stop()
    made = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    assert {"bpf", "openat", "execve"} <= made
    assert made - allowed_calls() == set()
