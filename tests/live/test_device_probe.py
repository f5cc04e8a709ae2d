"""Device opens and mknod: seen in monitor mode, refused in enforce mode, and by io_uring too."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.bpf import libbpf
from sensor.bpf.libbpf import AttachType, ProgType
from tests.live.names import unique
from tests.live.running import Running, Sandbox

OPEN = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        print(0)
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def nodes() -> Iterator[dict[str, str]]:
    """Device nodes of this test's own. The drivers need not be there: the controller is asked before."""
    folder = Path(f"/dev/shm/pinfold-{unique()}")
    folder.mkdir()
    made = {}
    try:
        for name, kind, major, minor in (
            ("nvidia", 0o020666, 195, 0),
            ("nvidiactl", 0o020666, 195, 255),
            ("render", 0o020666, 226, 128),
            ("kvm", 0o020666, 10, 232),
            ("tun", 0o020666, 10, 200),
            ("mem", 0o020666, 1, 1),
            ("loop", 0o060666, 7, 200),
        ):
            made[name] = str(folder / name)
            os.mknod(made[name], kind, os.makedev(major, minor))
        yield made
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


CLASSES = {
    "nvidia": "nvidia",
    "nvidiactl": "nvidia",
    "render": "drm",
    "kvm": "kvm",
    "tun": "tun",
    "mem": "memory",
    "loop": "block",
}


def test_monitor_mode_sees_and_refuses_nothing(sensor: Running, sandbox: Sandbox, nodes: dict[str, str]) -> None:
    done = sandbox.python(OPEN, *nodes.values())
    assert str(errno.EPERM) not in done.stdout.decode().split()
    for name, path in nodes.items():
        number = os.stat(path).st_rdev
        (line,) = sensor.wait(
            sandbox, category="device_access", DeviceMajor=os.major(number), DeviceMinor=os.minor(number)
        )
        assert line["DeviceClass"] == CLASSES[name]
        assert line["DeviceType"] == ("block" if name == "loop" else "char")
        assert (line["Access"], line["Verdict"], line["PriorVerdict"]) == ("read", "would_refuse", "allowed")
        assert (line["Granted"], line["GpuGranted"]) == (False, False)


def test_enforce_mode_refuses_what_is_not_granted(sensor: Running, nodes: dict[str, str]) -> None:
    with sensor.sandbox(f"refuse-{secrets.token_hex(4)}") as sandbox:
        done = sandbox.python(OPEN, *nodes.values(), "/dev/null")
        assert done.stdout.decode().split() == [str(errno.EPERM)] * len(nodes) + ["0"]
        for path in nodes.values():
            number = os.stat(path).st_rdev
            (line,) = sensor.wait(
                sandbox, category="device_access", DeviceMajor=os.major(number), DeviceMinor=os.minor(number)
            )
            assert line["Verdict"] == "refused"
        detections = sensor.wait(sandbox, kind="detection", DeviceClass="nvidia")
        assert detections


def test_what_another_program_refused_before_is_told(sensor: Running, sandbox: Sandbox, nodes: dict[str, str]) -> None:
    """As a container runtime's own device program does: on the sandbox's cgroup, so it is asked before ours."""
    refuse = (ctypes.c_uint64 * 2)(0xB7, 0x95)  # r0 = 0; exit
    program = libbpf._lib.bpf_prog_load(
        int(ProgType.CGROUP_DEVICE), b"refuses", b"GPL", refuse, ctypes.c_size_t(2), None
    )
    assert program >= 0
    cgroup = os.open(sandbox.path, os.O_RDONLY)
    link = libbpf.link_cgroup(program, cgroup, AttachType.DEVICE)
    try:
        done = sandbox.python(OPEN, nodes["tun"])
    finally:
        for descriptor in (link, cgroup, program):
            os.close(descriptor)
    assert done.stdout.decode().split() == [str(errno.EPERM)], done.stderr
    (line,) = sensor.wait(sandbox, category="device_access", DeviceMajor=10, DeviceMinor=200)
    assert (line["PriorVerdict"], line["Verdict"]) == ("refused", "would_refuse")


def test_mknod_is_refused_too(sensor: Running) -> None:
    path = f"/dev/shm/pinfold-{unique()}"
    code = "import os,sys; os.mknod(sys.argv[1], 0o020600, os.makedev(195, 7))"
    try:
        with sensor.sandbox(f"refuse-{secrets.token_hex(4)}") as sandbox:
            done = sandbox.python(code, path)
            assert b"Operation not permitted" in done.stderr
            (line,) = sensor.wait(sandbox, category="device_access", DeviceMajor=195, DeviceMinor=7)
            assert (line["Access"], line["Verdict"]) == ("mknod", "refused")
    finally:
        Path(path).unlink(missing_ok=True)


def test_ordinary_devices_are_not_sent(sensor: Running, sandbox: Sandbox) -> None:
    sandbox.python(OPEN, "/dev/null", "/dev/zero", "/dev/urandom", "/dev/ptmx")
    sensor.settled(sandbox)
    assert not sensor.of(sandbox, category="device_access")


def test_io_uring_open_is_refused(sensor: Running, workloads: Path, nodes: dict[str, str]) -> None:
    for extra in ([], ["-w"]):
        with sensor.sandbox(f"refuse-{secrets.token_hex(4)}") as sandbox:
            done = sandbox.run(str(workloads / "uring_open"), *extra, nodes["nvidia"])
            assert json.loads(done.stdout)["errno"] == errno.EPERM, (done.stdout, done.stderr)
            (line,) = sensor.wait(sandbox, category="device_access", DeviceMajor=195, DeviceMinor=0)
            assert line["Verdict"] == "refused"


def test_repeated_opens_are_counted(sensor: Running, sandbox: Sandbox, nodes: dict[str, str]) -> None:
    code = """
import os, sys
for _ in range(2000):
    try:
        os.close(os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        pass
"""
    sandbox.python(code, nodes["nvidia"])

    def total() -> bool:
        lines = sensor.of(sandbox, category="device_access", DeviceMajor=195)
        return sum(int(line["Count"]) for line in lines) == 2000

    sensor.until(total, "all 2000 opens in counts")
    assert len(sensor.of(sandbox, category="device_access", DeviceMajor=195)) <= 6


def test_disarm_lifts_refusals_and_arm_restores_them(sensor: Running, nodes: dict[str, str]) -> None:
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    def command(name: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "sensor.cli", name, "--reason", "a test", "--config", str(sensor.file)], check=True
        )

    with sensor.sandbox(f"refuse-{secrets.token_hex(4)}") as sandbox:
        refused = [str(errno.EPERM)]
        assert sandbox.python(OPEN, nodes["nvidia"]).stdout.decode().split() == refused
        command("disarm")
        try:
            assert sandbox.python(OPEN, nodes["nvidia"]).stdout.decode().split() != refused
            sensor.until(lambda: sensor.metrics()["pinfold_enforcing"] == 0, "the metric says disarmed")
        finally:
            command("arm")
        assert sandbox.python(OPEN, nodes["nvidia"]).stdout.decode().split() == refused
