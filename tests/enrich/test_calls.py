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


MOVED = 13 * 10**9  # when records.move is: what the kernel knows it by from then on


def along(enricher: Enricher, tgid: int, exec_id: int) -> tuple[bool, str]:
    found = applied(enricher, records.system_call(tgid, Seen.CAPABILITY, NUMBERS["mount"], exec_id=exec_id))
    return found.BroughtAlong, found.CommandLine


def moved_in(enricher: Enricher, tgid: int, *, mover: tuple[int, int] = (0, 66), previous: int = 0) -> None:
    enricher.apply(records.move(tgid, START, previous=previous, destination=BOX, mover=mover), 1, 40)
    process = enricher.processes.get(tgid)
    assert process is not None
    process.image = process.image or "/usr/bin/runc"  # there is no such process to ask /proc for


def test_who_moved_in_was_brought_along_until_it_executes(enricher: Enricher) -> None:
    moved_in(enricher, 600)
    assert along(enricher, 600, MOVED) == (True, "")
    enricher.apply(records.exec_(600, START, b"\0", "/tmp/runc", time_ns=14 * 10**9), 1, 48)
    assert along(enricher, 600, 14 * 10**9) == (False, ""), "an empty command line excuses nobody"
    assert along(enricher, 600, MOVED) == (True, ""), "of what it was before, told late"
    enricher.apply(records.exec_(600, START, b"\0", "/tmp/runc", time_ns=15 * 10**9), 1, 56)
    assert along(enricher, 600, 14 * 10**9) == (False, ""), "it was executed inside, too"


def test_who_was_cloned_into_a_sandbox_was_brought_along_until_it_executes(enricher: Enricher) -> None:
    into = {"came": 1, "flags": int(Flag.CLONE_INTO)}
    enricher.apply(records.fork(600, START, (77, 1), **into), 1, 40)
    assert along(enricher, 600, 9 * 10**9) == (True, "")
    enricher.apply(records.exec_(600, START, b"sh\0", "/usr/bin/sh", time_ns=14 * 10**9), 1, 48)
    assert along(enricher, 600, 14 * 10**9) == (False, "sh")


def test_children_of_what_was_brought_along_are_so(enricher: Enricher) -> None:
    moved_in(enricher, 600)
    enricher.apply(records.fork(601, START + 1, (600, START), parent_exec_id=MOVED, time_ns=14 * 10**9), 1, 48)
    assert along(enricher, 601, 14 * 10**9) == (True, "")
    enricher.apply(records.exec_(600, START, b"sh\0", "/usr/bin/sh", time_ns=15 * 10**9), 1, 56)
    enricher.apply(records.fork(602, START + 2, (600, START), parent_exec_id=15 * 10**9, time_ns=16 * 10**9), 1, 64)
    assert along(enricher, 602, 16 * 10**9) == (False, "sh")
    assert along(enricher, 601, 14 * 10**9) == (True, "")


@pytest.mark.parametrize(
    "record",
    [
        records.exec_(600, START, b"\0", "/tmp/runc"),
        records.fork(600, START, (500, START)),
        records.fork(600, START, (77, 1)),  # of a parent in the sandbox that is not known
        records.fork(600, START, (77, 1), came=1),  # not cloned into it: its parent was in the cgroup
        records.fork(600, START, (500, START), came=1, flags=int(Flag.CLONE_INTO)),
        records.move(600, START, previous=0, destination=BOX, mover=(BOX, 500)),  # a sandboxed process pulled it in
        records.move(600, START, previous=BOX, destination=0),
    ],
)
def test_nobody_else_was_brought_along(enricher: Enricher, record: object) -> None:
    enricher.apply(record, 1, 40)  # type: ignore[arg-type]
    assert along(enricher, 600, 0)[0] is False


def test_who_is_unknown_was_not_brought_along(enricher: Enricher) -> None:
    assert along(enricher, 999, 12 * 10**9) == (False, "")


def test_who_executed_unseen_is_not_brought_along_any_more(enricher: Enricher) -> None:
    """The record of the exec was lost: what it runs is not known."""
    moved_in(enricher, 600)
    enricher.apply(records.fork(601, START + 1, (600, START), parent_exec_id=14 * 10**9), 1, 48)
    assert along(enricher, 601, 9 * 10**9)[0] is False
    assert along(enricher, 600, MOVED)[0] is True
    assert along(enricher, 600, 14 * 10**9)[0] is False
