"""With `syscalls: full`, system calls where they begin: those that no decision of the kernel shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.running import Running, Sandbox
from tests.live.test_system_calls import CALLS, NOBODY, WORK, did, told


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running("syscalls: full\n", cache=rule_cache) as running:
        yield running


def test_a_module_where_the_kernel_takes_none(sensor: Running, sandbox: Sandbox) -> None:
    assert int(did(sandbox, "print(call(175, bytes(64), 64, b''))", uid=NOBODY)) < 0
    line = told(sensor, sandbox, Mechanism="sys_enter", SystemCall="init_module")
    assert (line["Action"], line["User"], line["Arguments"].split()[1]) == ("module", "nobody", "40")
    sensor.wait(sandbox, kind="detection", rule=lambda r: r and r["title"] == "A kernel module is to be loaded")


def test_a_user_namespace_at_once(sensor: Running, sandbox: Sandbox) -> None:
    did(sandbox, "call(272, NEWUSER)", uid=NOBODY)
    line = told(sensor, sandbox, Mechanism="sys_enter", SystemCall="unshare")
    assert line["Arguments"].startswith("10000000 ")
    title = "A process makes itself a user namespace"
    sensor.wait(sandbox, kind="detection", rule=lambda r: r and r["title"] == title)


def test_ordinary_calls_are_not_told(sensor: Running, sandbox: Sandbox) -> None:
    code = "os.waitpid(os.fork() or os._exit(0), 0); socket.socket(); call(157, 15, b'name'); os.system('true')"
    assert sandbox.python(CALLS + code).returncode == 0
    sensor.settled(sandbox)
    assert sensor.of(sandbox, category="system_call") == []


@pytest.mark.parametrize("uid", [0, NOBODY])
def test_ordinary_work_makes_no_flood(sensor: Running, sandbox: Sandbox, uid: int) -> None:
    assert sandbox.run("/usr/bin/python3", "-c", WORK, uid=uid).returncode == 0
    sensor.settled(sandbox)
    lines = sensor.of(sandbox, category="system_call")
    assert len(lines) <= 40, [(line["Image"], line["SystemCall"], line["Capability"]) for line in lines]
    detected = sensor.of(sandbox, kind="detection")
    assert [line["rule"]["title"] for line in detected if line["rule"]["level"] not in {"low", "informational"}] == []
