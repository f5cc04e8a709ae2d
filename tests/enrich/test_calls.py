"""System calls: what their records mean."""

from __future__ import annotations

import pytest

from sensor.config import Config, SandboxPattern, complete
from sensor.enrich.calls import CAPABILITIES
from sensor.enrich.enricher import Enricher
from sensor.enrich.escapes import INIT_USER_NS
from sensor.events.activity import SystemCall
from sensor.events.callnames import CALLS_OF_ACTION, NAMES, NUMBERS, call_name
from sensor.events.layouts import Flag, Seen
from tests.enrich import records
from tests.enrich.records import BOX, OTHER_BOX, START

CAP = {name: number for number, name in enumerate(CAPABILITIES)}
NOT_ASKED = 0xFFFFFFFF


@pytest.fixture
def enricher() -> Enricher:
    made = Enricher(complete(Config(sandboxes=(SandboxPattern("boxes/*"),))), "/nonexistent")
    made.apply(records.birth(BOX, b"/boxes/a\0"), 1, 8)
    made.apply(records.exec_(500, START, b"sh\0", "/usr/bin/sh"), 1, 16)
    made.apply(records.exec_(501, START, b"agent\0", "/usr/bin/agent"), 1, 24)
    return made


def applied(enricher: Enricher, record: object) -> SystemCall:
    found = enricher.apply(record, 1, 32)  # type: ignore[arg-type]
    assert isinstance(found, SystemCall)
    return found


@pytest.mark.parametrize(
    ("call", "arguments", "capability", "action"),
    [
        ("socket", (17, 3, 0), "NET_RAW", "packet_socket"),
        ("socket", (2, 3, 1), "NET_RAW", "raw_socket"),
        ("io_uring_enter", (), "NET_RAW", "raw_socket"),
        ("mount", (), "SYS_ADMIN", "mount"),
        ("fsmount", (), "SYS_ADMIN", "mount"),
        ("setns", (), "SYS_ADMIN", "namespace"),
        ("clone3", (), "SYS_ADMIN", "namespace"),
        ("write", (), "SYS_ADMIN", "namespace"),
        ("ptrace", (16, 7), "SYS_PTRACE", "trace"),
        ("openat", (), "SYS_PTRACE", "file"),
        ("openat", (), "PERFMON", "file"),
        ("perf_event_open", (), "PERFMON", "perf"),
        ("bpf", (5,), "BPF", "bpf"),
        ("bpf", (5,), "SYS_ADMIN", "bpf"),
        ("finit_module", (), "SYS_MODULE", "module"),
        ("prctl", (24,), "SETPCAP", "capabilities"),
        ("capset", (), "SETPCAP", "capabilities"),
        ("setresuid", (), "SETUID", "credentials"),
        ("chroot", (), "SYS_CHROOT", "chroot"),
        ("mknodat", (), "MKNOD", "device"),
        ("open_by_handle_at", (), "DAC_READ_SEARCH", "file"),
        ("reboot", (), "SYS_BOOT", "kernel"),
        ("kill", (), "KILL", "signal"),
        ("ioctl", (), "NET_ADMIN", "other"),
    ],
)
def test_an_action_by_the_call_else_by_its_capability(
    enricher: Enricher, call: str, arguments: tuple[int, ...], capability: str, action: str
) -> None:
    for result, ns in ((0, INIT_USER_NS), (-1, INIT_USER_NS), (0, 4026532000)):
        found = applied(
            enricher,
            records.system_call(
                500, Seen.CAPABILITY, NUMBERS[call], arguments, capability=CAP[capability], result=result, user_ns=ns
            ),
        )
        assert (found.SystemCall, found.Action, found.Capability) == (call, action, f"CAP_{capability}")
        assert (found.Granted, found.HostUserNamespace) == (result == 0, ns == INIT_USER_NS)
        assert (found.Image, found.SandboxName, found.Mechanism) == ("/usr/bin/sh", "boxes/a", "cap_capable")
        assert found.Arguments == " ".join(f"{argument:x}" for argument in (*arguments, 0, 0, 0, 0)[:4])


@pytest.mark.parametrize(
    ("seen", "call", "told"),
    [
        (Seen.SIGNAL, "kill", ("kill", "signal", "signal_generate")),
        (Seen.SIGNAL, "ptrace", ("ptrace", "trace", "signal_generate")),
        (Seen.TRACED, "ptrace", ("ptrace", "trace", "signal_generate")),
        (Seen.IO_URING, "io_uring_setup", ("io_uring_setup", "io_uring", "io_uring_create")),
        (Seen.USER_NS, "unshare", ("unshare", "namespace", "cap_capable")),
        (Seen.FORK, "clone", ("clone", "namespace", "sched_process_fork")),
        (Seen.MEMFD, "write", ("memfd_create", "memfd", "cap_capable")),
        (Seen.ENTRY, "finit_module", ("finit_module", "module", "sys_enter")),
        (Seen.ENTRY, "memfd_create", ("memfd_create", "memfd", "sys_enter")),
    ],
)
def test_what_asks_for_no_capability(enricher: Enricher, seen: Seen, call: str, told: tuple[str, str, str]) -> None:
    found = applied(enricher, records.system_call(500, seen, NUMBERS[call]))
    assert (found.SystemCall, found.Action, found.Mechanism) == told
    assert (found.Capability, found.Granted, found.HostUserNamespace) == ("", True, False)


def test_a_target_is_known_by_its_start(enricher: Enricher) -> None:
    signal = {"target_tgid": 501, "target_start_ns": START, "target_sandbox_id": BOX, "signal": 9}
    found = applied(enricher, records.system_call(500, Seen.SIGNAL, NUMBERS["kill"], (501, 9), **signal))
    assert (found.TargetProcessId, found.TargetImage, found.TargetInSandbox) == (501, "/usr/bin/agent", True)
    assert (found.Signal, found.Arguments) == (9, "1f5 9 0 0")
    # Another process has its number now; and one of another sandbox.
    other = signal | {"target_start_ns": START + 10**9, "target_sandbox_id": OTHER_BOX}
    found = applied(enricher, records.system_call(500, Seen.SIGNAL, NUMBERS["kill"], **other))
    assert (found.TargetProcessId, found.TargetImage, found.TargetInSandbox) == (501, "", False)


def test_a_repeat_counts_on(enricher: Enricher) -> None:
    repeat = {"flags": int(Flag.REPEAT), "count": 7}
    found = applied(enricher, records.system_call(500, Seen.CAPABILITY, NUMBERS["bpf"], (5,), capability=39, **repeat))
    assert (found.Repeat, found.Count, found.Arguments) == (True, 7, "5 0 0 0")
    found = applied(enricher, records.system_call(500, Seen.SIGNAL, NUMBERS["kill"], target_tgid=9, **repeat))
    assert (found.Repeat, found.Arguments) == (True, "")


@pytest.mark.parametrize("number", [0xFFFFFFFF, 0x10000 | 102, 99999, 423])
@pytest.mark.parametrize("seen", [*range(10), 255])
def test_no_record_raises(enricher: Enricher, number: int, seen: int) -> None:
    record = records.system_call(500, seen, number, capability=63, target_tgid=4, signal=255, user_ns=1)
    found = applied(enricher, record)
    assert found.Capability == "CAP_63"
    assert found.Action


def test_names_of_calls() -> None:
    assert [call_name(number) for number in (0, 101, 321, 425, 0xFFFFFFFF, 0x10066, 400)] == [
        "read", "ptrace", "bpf", "io_uring_setup", "", "i386:102", "400",
    ]  # fmt: skip
    assert len(NUMBERS) == len(NAMES)
    assert {name for names in CALLS_OF_ACTION.values() for name in names} <= NUMBERS.keys()
