"""Members of kernel structs that ordinarily equal a neighbour's value: only an odd process tells them apart."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sensor.bpf import libbpf
from sensor.bpf.ring import Ring
from sensor.events.decode import Decoder
from sensor.events.layouts import Exec
from tests.live.running import Running, Sandbox

# linux/ptrace.h
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_O_TRACEEXIT = 0x40
PTRACE_EVENT_EXIT = 6
WALL = 0x40000000  # linux/wait.h: waits for threads too
EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]  # of one thread; glibc has only exit_group

libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request: int, tid: int, data: int = 0) -> None:
    if libc.ptrace(ctypes.c_long(request), ctypes.c_int(tid), None, ctypes.c_void_p(data)):
        raise OSError(ctypes.get_errno(), "ptrace")


@contextmanager
def traced(tid: int, options: int = 0) -> Iterator[None]:
    """By this process, until the block ends."""
    ptrace(PTRACE_SEIZE, tid, options)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH, tid)


@contextmanager
def started(sandbox: Sandbox, code: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Python, with pipes for its input and output; killed with everything in the sandbox in the end."""
    process = sandbox.start(
        "/usr/bin/python3", "-I", "-S", "-c", code, *arguments,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        (sandbox.path / "cgroup.kill").write_text("1")
        process.communicate()


def told(process: subprocess.Popen[bytes]) -> int:
    """The number that it prints."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


def waiting(sensor: Running) -> list[Any]:
    """The records in the ring of a sensor that does not run. They stay there."""
    (pin,) = Path("/sys/fs/bpf", sensor.instance).glob("gen-*/map-events")
    descriptor = libbpf.get(pin)
    ring = Ring(descriptor, libbpf.map_entries(descriptor))
    try:
        decoder = Decoder()
        return [decoder.decode(ring.data, at, length) for _, _, at, length in ring.pending(1 << 20)]
    finally:
        ring.close()


WAITS_THEN_EXECS = """
import os, sys
if os.fork() == 0:
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    os.execv('/bin/sh', ['/bin/sh', '-c', 'kill -STOP $$', sys.argv[1]])
os.wait()
"""


def test_a_traced_process_keeps_its_real_parent(rule_cache: str) -> None:
    """A tracer becomes `parent` of what it traces; `real_parent` is who forked it. Read from the ring, since
    the sensor believes an exec's record only where it has seen no fork."""
    with Running(cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        sensor.stop()
        with started(sandbox, WAITS_THEN_EXECS, "traced") as parent:
            child = told(parent)
            with traced(child):
                tell(parent)
                # It stops itself, and so is there to be detached from.
                assert os.WIFSTOPPED(os.waitpid(child, WALL)[1])
        (seen,) = [record for record in waiting(sensor) if isinstance(record, Exec) and record.tgid == child]
        assert seen.parent_tgid == parent.pid


TWO_THREADS = """
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
def work():
    print(threading.get_native_id(), flush=True)
    os.read(0, 1)
    libc.syscall(int(sys.argv[1]), 0)
threading.Thread(target=work).start()
os.read(int(sys.argv[2]), 1)
libc.syscall(int(sys.argv[1]), 0)
"""


def test_a_process_ends_with_its_last_thread(sensor: Running, sandbox: Sandbox) -> None:
    """A thread that is held while it exits counts in `signal->live`, and in nothing else that counts threads."""
    reading, writing = os.pipe()
    with (
        open(reading),
        open(writing, "w") as to_leader,
        started(sandbox, TWO_THREADS, str(EXIT), str(reading), pass_fds=[reading]) as process,
    ):
        thread = told(process)
        with traced(thread, PTRACE_O_TRACEEXIT):
            tell(process)
            assert os.waitpid(thread, WALL)[1] >> 16 == PTRACE_EVENT_EXIT
            to_leader.close()
            state = Path(f"/proc/{process.pid}/stat")
            sensor.until(lambda: state.read_text().rpartition(") ")[2][0] == "Z", "the leader has exited")
            sensor.settled(sandbox)
            ends = sensor.of(sandbox, category="process_termination", ProcessId=process.pid)
            assert not ends, "a thread of it lives"
        process.wait()
    sensor.wait(sandbox, category="process_termination", ProcessId=process.pid)
    sensor.settled(sandbox)
    assert len(sensor.of(sandbox, category="process_termination", ProcessId=process.pid)) == 1


# What tests.live.prove takes for granted of members that it calls twins.


def test_exec_makes_the_filesystem_ids_the_effective_ones() -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
os.setgroups([])
libc.setfsgid(65531)
libc.setfsuid(65521)
own = open('/proc/thread-self/status').read()
assert '\\t65521\\n' in own and '\\t65531\\n' in own, own
os.execv('/bin/cat', ['cat', '/proc/self/status'])
"""
    done = subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", code], check=True, capture_output=True, text=True)
    ids = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line[:4] in ("Uid:", "Gid:")}
    assert ids == {"Uid:": ["0"] * 4, "Gid:": ["0"] * 4}


def test_the_environment_begins_where_argv_ends() -> None:
    """proc(5): arg_end and env_start are the 49th and 50th fields of stat."""
    done = subprocess.run(["/bin/cat", "/proc/self/stat"], check=True, capture_output=True, text=True, env={"A": "b"})
    arg_end, env_start = done.stdout.rpartition(") ")[2].split()[46:48]
    assert arg_end == env_start != "0"
