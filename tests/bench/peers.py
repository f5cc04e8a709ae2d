"""The peers: Debian's auditd, bpftrace and strace, each made to observe the same operation, and nothing else of
their doing left behind. auditd reads its configuration and writes its log in the bench's own folder."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.harness import BenchError, one_line
from tests.bench.workspace import Workspace

SYSCALLS = {"exec": "execve", "connect": "connect", "open": "openat"}
# Each prints what the sensor records of the operation.
BPFTRACE = {
    "exec": 'tracepoint:syscalls:sys_enter_execve { printf("%d %s ", pid, comm); join(args->argv); }',
    "connect": 'tracepoint:syscalls:sys_enter_connect { printf("%d %s %r\\n", pid, comm, buf(args->uservaddr, 16)); }',
    "open": 'tracepoint:syscalls:sys_enter_openat { printf("%d %s %s\\n", pid, comm, str(args->filename)); }',
}
AUDITD_CONF = """\
local_events = yes
write_logs = yes
log_file = {folder}/audit.log
log_group = root
log_format = RAW
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 4000
num_logs = 2
max_log_file_action = ROTATE
space_left = 75
space_left_action = IGNORE
admin_space_left = 50
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
name_format = NONE
plugin_dir = {folder}/plugins.d
use_libwrap = no
distribute_network = no
"""

NO_RULES = "No rules"
UNAUDITED = ("never,task",)

# Runs the operation a few times, so that a peer has something to see.
Trigger = Callable[[], object]


def beside(space: Workspace) -> list[str]:
    """Where the sensor is confined to, its peers are too."""
    return ["taskset", "--cpu-list", ",".join(map(str, space.others))]


def need(program: str) -> None:
    if shutil.which(program) is None:
        raise BenchError(f"{program} is not installed")


def _await_growth(file: Path, trigger: Trigger, who: str, least: int = 1, within_s: float = 15.0) -> None:
    """Only a peer that demonstrably observes is worth a figure."""
    deadline = time.monotonic() + within_s
    before = file.stat().st_size if file.exists() else 0
    while time.monotonic() < deadline:
        trigger()
        time.sleep(0.1)
        if file.exists() and file.stat().st_size >= before + least:
            return
    raise BenchError(f"{who} runs and observes nothing")


class Auditd:
    """A running auditd in the foreground; `watching` adds the rule for one operation and takes it away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "audit.log"

    @contextmanager
    def watching(self, kind: str, trigger: Trigger, path: str = "") -> Iterator[None]:
        rule = ["always,exit", "-F", "arch=b64", "-S", SYSCALLS[kind], *(["-F", f"path={path}"] if path else [])]
        _auditctl("-d", *UNAUDITED)
        _auditctl("-a", *rule)
        try:
            _await_growth(self.log, trigger, "auditd")
            yield
        finally:
            _auditctl("-d", *rule)
            _auditctl("-a", *UNAUDITED)


@contextmanager
def auditd(space: Workspace) -> Iterator[Auditd]:
    """Refuses where another auditd runs or rules are loaded: both are the host's and stay as they are."""
    need("auditd")
    before = _audit_status()
    if before["pid"] != "0":
        raise BenchError(f"another audit daemon runs (pid {before['pid']})")
    if _auditctl("-l").strip() not in (NO_RULES, f"-a {UNAUDITED[0]}"):
        raise BenchError("audit rules of the host are loaded")
    folder = space.folder / "auditd"
    (folder / "plugins.d").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / "auditd.conf").write_text(AUDITD_CONF.format(folder=folder))
    with open(folder / "out", "wb") as out:
        process = subprocess.Popen(
            [*beside(space), "auditd", "-n", "-s", "enable", "-c", str(folder)], stdout=out, stderr=out
        )
    try:
        _await_audit(process, folder)
        _auditctl("-b", "8192", "--backlog_wait_time", "60000")
        yield Auditd(folder)
    finally:
        _end(process)
        _auditctl("-e", before["enabled"])
        _auditctl("-b", before["backlog_limit"], "--backlog_wait_time", before["backlog_wait_time"])


@contextmanager
def without_audit() -> Iterator[None]:
    """Audit, enabled once since boot, gives every new process a context and slows its system calls even when no rule
    is left; a process born under never,task has none. So all arms but auditd's own run alike, whatever was done
    before. A host that uses audit itself is left alone."""
    installed = shutil.which("auditctl") is not None
    ours = installed and _audit_status()["pid"] == "0" and _auditctl("-l").strip() == NO_RULES
    if ours:
        _auditctl("-a", *UNAUDITED)
    try:
        yield
    finally:
        if ours:
            _auditctl("-d", *UNAUDITED)


def _await_audit(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 10
    while _audit_status()["pid"] != str(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            said = (folder / "out").read_text(errors="replace")
            raise BenchError(f"auditd does not run: {one_line(said) or 'it said nothing'}")
        time.sleep(0.05)


def _audit_status() -> dict[str, str]:
    return {key: value for key, _, value in (line.partition(" ") for line in _auditctl("-s").splitlines())}


def _auditctl(*arguments: str) -> str:
    result = subprocess.run(["auditctl", *arguments], capture_output=True, text=True, check=False, timeout=30)
    # Deleting a rule that is not there is what we want anyway.
    if result.returncode and arguments[0] != "-d":
        raise BenchError(f"auditctl {' '.join(arguments)}: {one_line(result.stderr or result.stdout)}")
    return result.stdout


@contextmanager
def bpftrace(space: Workspace, kind: str, trigger: Trigger) -> Iterator[Path]:
    """bpftrace printing one line an operation into a file, which is given."""
    need("bpftrace")
    output, errors = space.folder / "bpftrace.out", space.folder / "bpftrace.err"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen([*beside(space), "bpftrace", "-e", BPFTRACE[kind]], stdout=out, stderr=err)
    try:
        # The first line that it prints by itself only counts its probes.
        _await_growth(output, trigger, "bpftrace", least=100)
        yield output
    except BenchError as error:
        raise BenchError(f"{error}: {one_line(errors.read_text(errors='replace'))}") from error
    finally:
        _end(process)


def strace(space: Workspace, kind: str) -> list[str]:
    """The command to put before a workload."""
    need("strace")
    return ["strace", "-f", "-qq", "-o", str(space.folder / "strace.out"), "-e", f"trace={SYSCALLS[kind]}", "--"]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
