"""System calls that rules care for, each really made: by root, without its rights, and through a user namespace."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live.running import Line, Running, Sandbox

NOBODY = 65534
CALLS = """
import ctypes, os, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return result if result >= 0 else -ctypes.get_errno()
def traced(pid):
    for _ in range(1000):
        if os.waitpid(pid, os.WNOHANG | 0x40000000)[0] == pid:  # __WALL
            return True
        time.sleep(0.01)
NEWNS, NEWUSER, NEWNET, NEWUTS = 0x20000, 0x10000000, 0x40000000, 0x4000000
"""
PACKET, RAW = (17, 3), (2, 3)


def did(box: Sandbox, code: str, *arguments: object, uid: int = 0) -> str:
    done = box.python(CALLS + code, *map(str, arguments), uid=uid)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def told(sensor: Running, box: Sandbox, **wanted: Any) -> Line:
    return sensor.wait(box, category="system_call", **wanted)[0]


def none_told(sensor: Running, box: Sandbox, **wanted: Any) -> None:
    sensor.settled(box)
    assert sensor.of(box, category="system_call", **wanted) == []


@pytest.fixture
def sleeper(sandbox: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    process = sandbox.start("/usr/bin/sleep", "300")
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def outsider() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/usr/bin/sleep", "300"])
    yield process
    process.kill()
    process.wait()


ATTACH = "assert call(101, 16, int(sys.argv[1]), 0, 0) == 0; assert traced(int(sys.argv[1])); print('traced')"
SEIZE = """
pid = int(sys.argv[1])
assert call(101, 0x4206, pid, 0, 0) == 0 and call(101, 0x4207, pid, 0, 0) == 0  # PTRACE_SEIZE, PTRACE_INTERRUPT
assert traced(pid); print('traced')
"""


@pytest.mark.parametrize("code", [ATTACH, SEIZE], ids=["attach", "seize"])
def test_who_traces_another_process_is_told_with_whom(
    sensor: Running, sandbox: Sandbox, sleeper: subprocess.Popen[bytes], code: str
) -> None:
    assert did(sandbox, code, sleeper.pid) == "traced"
    line = told(sensor, sandbox, Action="trace", TargetProcessId=sleeper.pid)
    assert (line["SystemCall"], line["TargetImage"], line["TargetInSandbox"]) == ("ptrace", "/usr/bin/sleep", True)
    assert line["Mechanism"] == "signal_generate"
    assert line["Image"].startswith("/usr/bin/python3")


def test_who_traces_the_host_is_told_so(sensor: Running, sandbox: Sandbox, outsider: subprocess.Popen[bytes]) -> None:
    assert did(sandbox, SEIZE, outsider.pid) == "traced"
    line = told(sensor, sandbox, Action="trace", TargetProcessId=outsider.pid)
    assert (line["TargetImage"], line["TargetInSandbox"]) == ("/usr/bin/sleep", False)


def test_a_child_that_asks_to_be_traced_is_told(sensor: Running, sandbox: Sandbox) -> None:
    child = did(
        sandbox,
        "pid = os.fork()\n"
        "if pid == 0:\n call(101, 0, 0, 0, 0); os.kill(os.getpid(), 19); os._exit(0)\n"
        "assert traced(pid); print(pid)",
    )
    line = told(sensor, sandbox, Action="trace", TargetProcessId=int(child))
    assert line["TargetInSandbox"] is True


def test_an_attach_that_was_refused_is_told_by_its_capability(
    sensor: Running, sandbox: Sandbox, sleeper: subprocess.Popen[bytes]
) -> None:
    assert did(sandbox, "print(call(101, 16, int(sys.argv[1]), 0, 0))", sleeper.pid, uid=NOBODY) == "-1"
    line = told(sensor, sandbox, Action="trace", SystemCall="ptrace")
    assert (line["Capability"], line["Granted"], line["User"]) == ("CAP_SYS_PTRACE", False, "nobody")
    assert line["Arguments"].startswith(f"10 {sleeper.pid:x} ")


MOUNT = (
    "os.mkdir(sys.argv[1]) if not os.path.isdir(sys.argv[1]) else None\n"
    "print(call(165, b'x', os.fsencode(sys.argv[1]), b'tmpfs', 0, b''))"
)


def test_a_mount_by_root_through_a_user_namespace_and_refused(
    sensor: Running, sandbox: Sandbox, tmp_path: os.PathLike[str]
) -> None:
    assert did(sandbox, f"assert call(272, NEWNS) == 0\n{MOUNT}", tmp_path) == "0"
    line = told(sensor, sandbox, Action="mount", SystemCall="mount")
    assert (line["Capability"], line["Granted"], line["HostUserNamespace"]) == ("CAP_SYS_ADMIN", True, True)
    told(sensor, sandbox, Action="namespace", SystemCall="unshare", Arguments=lambda text: text.startswith("20000 "))
    assert did(sandbox, f"assert call(272, NEWUSER | NEWNS) == 0\n{MOUNT}", "/tmp", uid=NOBODY) == "0"
    line = told(sensor, sandbox, Action="mount", User="nobody")
    assert (line["Granted"], line["HostUserNamespace"]) == (True, False)
    assert did(sandbox, MOUNT, "/tmp", uid=NOBODY) == "-1"
    line = told(sensor, sandbox, Action="mount", Granted=False)
    assert line["User"] == "nobody"


def test_what_another_process_has_in_proc(sensor: Running, sandbox: Sandbox, sleeper: subprocess.Popen[bytes]) -> None:
    """Kernels from 6.17 on ask for CAP_PERFMON first: it is no attempt on the sensor, and no more than a file."""
    assert sandbox.run("cat", f"/proc/{sleeper.pid}/environ").returncode == 0
    sensor.settled(sandbox)
    assert {(line["Action"], line["SystemCall"]) for line in sensor.of(sandbox, category="system_call")} <= {
        ("file", "openat")
    }
    assert not sensor.of(sandbox, category="sensor_access")


def test_the_new_way_to_mount(sensor: Running, sandbox: Sandbox) -> None:
    assert int(did(sandbox, "print(call(430, b'tmpfs', 0))")) >= 0
    assert told(sensor, sandbox, Action="mount")["SystemCall"] == "fsopen"


@pytest.mark.parametrize(("uid", "user"), [(0, "root"), (NOBODY, "nobody")])
def test_unshare_by_its_program(sensor: Running, sandbox: Sandbox, uid: int, user: str) -> None:
    assert sandbox.run("unshare", "-r", "/bin/true", uid=uid).returncode == 0
    line = told(sensor, sandbox, Action="namespace", SystemCall="unshare")
    assert (line["Image"], line["User"]) == ("/usr/bin/unshare", user)
    # Its map of ids.
    line = told(sensor, sandbox, Action="namespace", SystemCall="write")
    assert (line["Capability"], line["Granted"], line["HostUserNamespace"]) == ("CAP_SYS_ADMIN", True, False)


def test_a_user_namespace_that_asks_for_nothing_is_told_by_what_follows(sensor: Running, sandbox: Sandbox) -> None:
    """unshare(CLONE_NEWUSER) needs no capability; the next mapping of memory shows where the process is."""
    assert did(sandbox, "print(call(272, NEWUSER)); x = bytearray(1 << 24)", uid=NOBODY) == "0"
    line = told(sensor, sandbox, Action="namespace")
    assert (line["SystemCall"], line["Capability"], line["Arguments"]) == ("unshare", "", "")


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_a_clone_into_a_user_namespace(sensor: Running, sandbox: Sandbox, uid: int) -> None:
    code = "pid = call(56, NEWUSER | 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0); print('ok')"
    assert did(sandbox, code, uid=uid) == "ok"
    line = told(sensor, sandbox, Action="namespace")
    assert (line["SystemCall"], line["Mechanism"]) == ("clone", "sched_process_fork")
    assert line["Arguments"].startswith("10000011 ")


def test_a_clone_into_other_namespaces(sensor: Running, sandbox: Sandbox) -> None:
    code = "pid = call(56, NEWUTS | 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0); print('ok')"
    assert did(sandbox, code) == "ok"
    line = told(sensor, sandbox, Action="namespace", SystemCall="clone")
    assert (line["Capability"], line["Granted"], line["HostUserNamespace"]) == ("CAP_SYS_ADMIN", True, True)


SETNS = "print(call(308, os.open(f'/proc/{sys.argv[1]}/ns/net', os.O_RDONLY), 0))"


def test_entering_anothers_namespace(sensor: Running, sandbox: Sandbox) -> None:
    assert did(sandbox, SETNS, "self") == "0"
    line = told(sensor, sandbox, SystemCall="setns", Granted=True)
    assert (line["Action"], line["Capability"], line["HostUserNamespace"]) == ("namespace", "CAP_SYS_ADMIN", True)
    assert did(sandbox, SETNS, "self", uid=NOBODY) == "-1"
    told(sensor, sandbox, SystemCall="setns", Granted=False)


def test_bpf(sensor: Running, sandbox: Sandbox) -> None:
    code = "print(call(321, 11, (ctypes.c_uint32 * 32)(), 128))"  # BPF_PROG_GET_NEXT_ID
    assert did(sandbox, code) == "0"
    line = told(sensor, sandbox, Action="bpf", Granted=True)
    assert (line["SystemCall"], line["HostUserNamespace"]) == ("bpf", True)
    assert line["Arguments"].startswith("b ")
    assert did(sandbox, code, uid=NOBODY) == "-1"
    assert told(sensor, sandbox, Action="bpf", Granted=False)["Capability"] in {"CAP_BPF", "CAP_SYS_ADMIN"}
    assert sensor.wait(sandbox, category="sensor_access", Attempt="bpf")


SOCKET = """
try: socket.socket(int(sys.argv[1]), int(sys.argv[2]), 1 if sys.argv[1] == '2' else 0); print('made')
except OSError as error: print(error.errno)
"""


@pytest.mark.parametrize(("shape", "action"), [(PACKET, "packet_socket"), (RAW, "raw_socket")])
def test_packet_and_raw_sockets(sensor: Running, sandbox: Sandbox, shape: tuple[int, int], action: str) -> None:
    assert did(sandbox, SOCKET, *shape) == "made"
    line = told(sensor, sandbox, Action=action, Granted=True)
    assert (line["SystemCall"], line["Capability"], line["HostUserNamespace"]) == ("socket", "CAP_NET_RAW", True)
    assert did(sandbox, SOCKET, *shape, uid=NOBODY) == "1"
    told(sensor, sandbox, Action=action, Granted=False, User="nobody")
    assert did(sandbox, f"assert call(272, NEWUSER | NEWNET) == 0\n{SOCKET}", *shape, uid=NOBODY) == "made"
    told(sensor, sandbox, Action=action, Granted=True, HostUserNamespace=False)


def test_other_sockets_are_not_told(sensor: Running, sandbox: Sandbox) -> None:
    for family, kind in ((2, 1), (2, 2), (10, 1), (1, 1), (16, 3)):
        assert did(sandbox, SOCKET.replace("1 if sys.argv[1] == '2' else 0", "0"), family, kind) == "made"
    none_told(sensor, sandbox)


def test_io_uring(sensor: Running, sandbox: Sandbox) -> None:
    assert int(did(sandbox, "print(call(425, 8, (ctypes.c_uint8 * 120)()))", uid=NOBODY)) > 0
    line = told(sensor, sandbox, Action="io_uring")
    assert (line["SystemCall"], line["Mechanism"], line["User"]) == ("io_uring_setup", "io_uring_create", "nobody")
    assert line["Arguments"].startswith("8 10 0 ")


def test_a_memfd_is_told_when_it_is_written(sensor: Running, sandbox: Sandbox) -> None:
    did(sandbox, "f = os.memfd_create('x'); os.write(f, b'a' * 9000)", uid=NOBODY)
    line = told(sensor, sandbox, Action="memfd")
    assert (line["SystemCall"], line["Capability"]) == ("memfd_create", "")
    did(sandbox, "f = open('/dev/shm/pinfold-test', 'wb'); f.write(b'a' * 9000); f.close(); os.unlink(f.name)")
    sensor.settled(sandbox)
    assert {each["User"] for each in sensor.of(sandbox, Action="memfd", category="system_call")} == {"nobody"}


@pytest.mark.parametrize(
    ("code", "call", "action", "capability"),
    [
        ("call(105, 0)", "setuid", "credentials", "CAP_SETUID"),
        ("call(116, 0, 0)", "setgroups", "credentials", "CAP_SETGID"),
        ("call(126, struct.pack('<II', 0x20080522, 0), bytes(24))", "capset", "capabilities", "CAP_SETPCAP"),
        ("call(157, 24, 0, 0, 0, 0)", "prctl", "capabilities", "CAP_SETPCAP"),
        ("call(161, b'/')", "chroot", "chroot", "CAP_SYS_CHROOT"),
        ("call(133, b'/tmp/pinfold-test-node', 0o20600, 0x103)", "mknod", "device", "CAP_MKNOD"),
        ("call(304, -100, bytes(struct.pack('<II', 8, 1) + bytes(8)), 0)", "open_by_handle_at", "file", ""),
        ("call(169, 1, 1, 1, 0)", "reboot", "kernel", "CAP_SYS_BOOT"),
        ("call(103, 3, ctypes.create_string_buffer(16), 16)", "syslog", "kernel", "CAP_SYSLOG"),
        ("call(298, struct.pack('<IIQQ', 1, 112, 0, 0) + bytes(88), -1, 0, -1, 0)", "perf_event_open", "perf", ""),
        ("call(62, 1, 9)", "kill", "signal", "CAP_KILL"),
    ],
)
def test_what_asks_for_a_capability_in_vain(
    sensor: Running, sandbox: Sandbox, code: str, call: str, action: str, capability: str
) -> None:
    assert int(did(sandbox, f"print({code})", uid=NOBODY)) < (1 if call == "capset" else 0)
    line = told(sensor, sandbox, Action=action, SystemCall=call, User="nobody", Granted=False)
    if capability:
        assert line["Capability"] == capability


def test_a_call_by_the_32_bit_table(sensor: Running, sandbox: Sandbox) -> None:
    """Its number is another one; told is the kernel's name."""
    code = """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("53 89f8 89f3 89d1 cd80 5b c3"))  # eax, ebx, ecx from the arguments; int 0x80
gate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(
    ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(gate(310, NEWUTS, 0))
"""
    done = sandbox.python(CALLS + code)
    if done.returncode == -signal.SIGSEGV:
        pytest.skip("this kernel takes no 32-bit calls")
    assert done.stdout == b"0\n", done.stderr
    line = told(sensor, sandbox, SystemCall="unshare")
    assert (line["Action"], line["Arguments"].split()[0]) == ("namespace", "4000000")


def test_privileges_that_are_dropped_and_taken(sensor: Running, sandbox: Sandbox) -> None:
    did(sandbox, "os.setgroups([]); os.setgid(65534); os.setuid(65534)")
    for call in ("setgroups", "setgid", "setuid"):
        line = told(sensor, sandbox, SystemCall=call)
        assert (line["Action"], line["Granted"]) == ("credentials", True)


def test_a_signal_to_a_process_outside(sensor: Running, sandbox: Sandbox, outsider: subprocess.Popen[bytes]) -> None:
    did(sandbox, "os.kill(int(sys.argv[1]), 18)", outsider.pid)
    line = told(sensor, sandbox, Action="signal")
    assert (line["SystemCall"], line["Signal"], line["TargetProcessId"]) == ("kill", 18, outsider.pid)
    assert (line["TargetImage"], line["TargetInSandbox"]) == ("/usr/bin/sleep", False)
    did(sandbox, "f = os.pidfd_open(int(sys.argv[1])); signal.pidfd_send_signal(f, 18)", outsider.pid)
    told(sensor, sandbox, Action="signal", SystemCall="pidfd_send_signal")


def test_signals_within_and_the_kernels_own_are_not_told(
    sensor: Running, sandbox: Sandbox, sleeper: subprocess.Popen[bytes]
) -> None:
    did(sandbox, "os.kill(int(sys.argv[1]), 18); os.kill(os.getpid(), 18); signal.alarm(1)", sleeper.pid)
    sleeper.send_signal(signal.SIGCONT)
    none_told(sensor, sandbox)


def test_a_signal_to_another_sandbox(sensor: Running, sandbox: Sandbox, sleeper: subprocess.Popen[bytes]) -> None:
    with sensor.sandbox() as other:
        did(other, "os.kill(int(sys.argv[1]), 18)", sleeper.pid)
        line = told(sensor, other, Action="signal", TargetProcessId=sleeper.pid)
        assert (line["TargetImage"], line["TargetInSandbox"]) == ("/usr/bin/sleep", False)


def test_repeats_are_counted(sensor: Running, sandbox: Sandbox) -> None:
    did(sandbox, "for _ in range(5000): call(321, 11, (ctypes.c_uint32 * 32)(), 128)")

    def all_of_them() -> bool:
        lines = sensor.of(sandbox, category="system_call", Action="bpf")
        return sum(line["Count"] for line in lines) == 5000 and len(lines) < 20

    sensor.until(all_of_them, "5000 calls in few lines")
    assert sensor.lost() == {}


@pytest.mark.parametrize(
    ("code", "title"),
    [
        ("socket.socket(17, 3)", "A packet socket is asked for"),
        (
            "call(272, NEWUSER); open('/proc/self/uid_map', 'w').write('0 65534 1')",
            "A process makes itself a user namespace",
        ),
        ("call(56, NEWUSER | 17, 0, 0, 0, 0) or os._exit(0)", "A process makes itself a user namespace"),
        ("pid = os.fork() or time.sleep(300)\nassert call(101, 16, pid, 0, 0) == 0", "A process traces another"),
        ("socket.socket(2, 3, 1)", "A raw socket is asked for"),
        (
            "call(308, os.open('/proc/self/ns/uts', 0), 0)",
            "A namespace is entered or made with the rights over the host",
        ),
        ("call(430, b'tmpfs', 0)", "A sandbox mounts with the rights over the host"),
        ("call(169, 1, 1, 1, 0)", "A sandbox reaches for the machine itself"),
    ],
)
def test_the_rules_that_it_is_for(sensor: Running, sandbox: Sandbox, code: str, title: str) -> None:
    box = sandbox.start("/usr/bin/python3", "-I", "-S", "-c", CALLS + code)
    try:
        sensor.wait(sandbox, kind="detection", rule=lambda rule: rule and rule["title"] == title)
    finally:
        box.kill()
        box.wait()


WORK = """
import json, multiprocessing, subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as folder:
    with open(folder + "/Makefile", "w") as make:
        make.write("all: a b c d\\n%:\\n\\tsleep 0.01; echo $@ > $@; cat $@ | wc\\n")
    subprocess.run(["make", "-j4", "-C", folder], check=True, stdout=subprocess.DEVNULL)
subprocess.run(["sh", "-c", "ls -l /proc/self /tmp | sort | head; ps aux; find /etc -name passwd; id; df"], check=True)
with multiprocessing.Pool(4) as pool:
    print(sum(pool.map(abs, range(1000))))
"""


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_ordinary_work_makes_no_flood(sensor: Running, sandbox: Sandbox, uid: int) -> None:
    done = sandbox.run("/usr/bin/python3", "-c", WORK, uid=uid)
    assert done.returncode == 0, done.stderr
    sensor.settled(sandbox)
    lines = sensor.of(sandbox, category="system_call")
    detected = sensor.of(sandbox, kind="detection")
    assert [line["rule"]["title"] for line in detected if line["rule"]["level"] not in {"low", "informational"}] == []
    assert len(lines) <= 10, [(line["Image"], line["SystemCall"], line["Capability"]) for line in lines]
