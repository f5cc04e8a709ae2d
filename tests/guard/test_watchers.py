"""Which sandboxes have rights by which they can reach the sensor, and what /proc says of a process."""

from __future__ import annotations

import os
import subprocess
import sys

from sensor.enrich.escapes import INIT_USER_NS
from sensor.guard import watchers
from sensor.guard.watchers import Privileges, status
from tests.export import samples

BOX = 4242


def executed(tgid: int, **fields: object) -> object:
    return samples.process_creation(**({"SandboxId": BOX, "ProcessId": tgid, "UserNamespace": INIT_USER_NS} | fields))


def test_a_status_tells_tracer_and_capabilities() -> None:
    told = status(os.getpid())
    assert told is not None
    assert told.tracer == 0
    assert bool(told.effective & watchers._POWERFUL) is (os.geteuid() == 0)
    assert status(2**31 - 1) is None


def test_a_name_that_looks_like_a_field_is_none() -> None:
    """comm is the process's own to set, newlines and all; the kernel escapes them."""
    code = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a\\nTracerPid:\\t1'); print(); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        told = status(process.pid)
    finally:
        process.communicate()
    assert told is not None
    assert told.tracer == 0


def test_a_sandbox_with_a_powerful_process_is_tamperable_until_it_ends() -> None:
    assert os.geteuid() == 0
    known = Privileges()
    known.observe(executed(os.getpid()))  # type: ignore[arg-type]
    assert known.tamperable == set()
    assert known.look() == [BOX]
    assert known.look() == []
    known.observe(executed(os.getpid()))  # type: ignore[arg-type]
    assert known.look() == [], "it is known already"
    known.observe(samples.sandbox_change(change="ended", SandboxId=BOX))
    assert known.tamperable == set()


def test_in_a_user_namespace_of_its_own_root_is_nobody() -> None:
    known = Privileges()
    known.observe(executed(os.getpid(), UserNamespace=4026532999))  # type: ignore[arg-type]
    assert known.look() == []


def test_a_capability_that_was_granted_says_it_at_once() -> None:
    known = Privileges()
    known.observe(samples.sensor_access(SandboxId=BOX, Attempt="bpf", Privileged=False))
    known.observe(samples.sensor_access(SandboxId=BOX, Attempt="signal", Privileged=False))
    assert known.tamperable == set()
    known.observe(samples.sensor_access(SandboxId=BOX, Attempt="bpf", Privileged=True))
    assert known.tamperable == {BOX}


def test_what_waits_is_bounded_and_one_sandbox_keeps_no_other_from_its_turn() -> None:
    known = Privileges()
    for tgid in range(2**30, 2**30 + 5000):  # nobody's
        known.observe(executed(tgid, SandboxId=1))  # type: ignore[arg-type]
    known.observe(executed(os.getpid(), SandboxId=2))  # type: ignore[arg-type]
    assert known.look() == [2]
    for tgid in range(5000):
        known.observe(executed(tgid, SandboxId=10 + tgid))  # type: ignore[arg-type]
    assert len(known._waiting) <= watchers.MOST_WAITING
    while known._waiting:
        known.look()
    assert known._of_sandbox == {}
