"""Who asks to watch the whole host is told of; who merely looks at the processes, as everybody does, is not."""

from __future__ import annotations

from tests.live.running import Running, Sandbox

# perf_event_open(2) of all processes on one CPU: struct perf_event_attr of type software, cpu-clock, its first size.
ASK = """
import ctypes
attr = ctypes.create_string_buffer(bytes([1, 0, 0, 0, 64]), 64)
ctypes.CDLL(None, use_errno=True).syscall(298, attr, -1, 0, -1, 0)
"""


def test_perf_is_told_of_and_ps_is_not(sensor: Running, sandbox: Sandbox) -> None:
    for command in (("ps", "aux"), ("sh", "-c", "cat /proc/[0-9]*/maps /proc/[0-9]*/auxv >/dev/null 2>&1; true")):
        assert sandbox.run(*command).returncode == 0
    sensor.settled(sandbox)
    assert sensor.of(sandbox, category="sensor_access", Attempt="perfmon") == []
    sandbox.python(ASK)
    (asked,) = sensor.wait(sandbox, category="sensor_access", Attempt="perfmon")
    assert "python3" in asked["Image"]
