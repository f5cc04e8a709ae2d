"""The sensor starts only where the probes see what is there, and leaves nothing behind where they do not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest

from sensor.bpf import libbpf, maps
from sensor.bpf.btf import VMLINUX
from sensor.bpf.headers import SHIFT_VARIABLE
from sensor.bpf.objects import Handle, generations
from tests.live.running import WAIT_S, Running

SHIFTED = ["mm_struct.arg_start", "task_struct.tgid", "kernfs_node.id", "dentry.d_parent", "upid.ns"]

_libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)


def base(sensor: Running) -> Path:
    return Path("/sys/fs/bpf", sensor.instance)


def word(info: bytes, at: int) -> int:
    return int.from_bytes(info[at : at + 4], sys.byteorder)


def maps_of(program: int) -> list[int]:
    """Ids of the maps that it uses. struct bpf_prog_info: nr_map_ids at 52, their array's address at 56."""
    ids = (ctypes.c_uint32 * 64)()
    info = (ctypes.c_char * 64).from_buffer(bytearray(pack("=52xIQ", len(ids), ctypes.addressof(ids))))
    size = ctypes.c_uint32(len(info))
    if _libbpf.bpf_obj_get_info_by_fd(program, info, ctypes.byref(size)):
        raise OSError(ctypes.get_errno(), "asking about a program")
    return list(ids[: word(info.raw, 52)])


def all_programs() -> Iterator[int]:
    """A descriptor of each of this host's."""
    number = ctypes.c_uint32(0)
    while _libbpf.bpf_prog_get_next_id(number, ctypes.byref(number)) == 0:
        descriptor = _libbpf.bpf_prog_get_fd_by_id(number)
        if descriptor < 0:  # gone in between
            continue
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def programs_of(sensor: Running) -> int:
    """How many programs of an instance the kernel holds, pinned, attached or not: all use its control map,
    which the instance keeps."""
    control = libbpf.get(base(sensor) / "control")
    try:
        number = word(libbpf.info(control), 4)  # struct bpf_map_info: type, id, …
        return sum(number in maps_of(program) for program in all_programs())
    finally:
        os.close(control)


def cgroups_of(sensor: Running) -> list[str]:
    """Those that are left in its parent of sandboxes."""
    return [path.name for path in sensor.parent.iterdir() if path.is_dir()]


def settle(count: Callable[[], int], wanted: int) -> int:
    """The kernel lets go of programs a moment after their last link."""
    until = time.monotonic() + WAIT_S
    while (found := count()) != wanted and time.monotonic() < until:
        time.sleep(0.02)
    return found


def refused(sensor: Running) -> str:
    """Starts it, which must end with one line, which is returned."""
    before = len(sensor.said())
    process = sensor.launch()
    assert process.wait(timeout=60) == 1, sensor.said()
    said = sensor.said()[before:]
    assert said.count("\n") == 1, said
    assert said.startswith("pinfold: ")
    return said.removeprefix("pinfold: ").strip()


@pytest.fixture
def stopped(rule_cache: str) -> Iterator[Running]:
    sensor = Running(cache=rule_cache)
    try:
        yield sensor
    finally:
        sensor.remove()


def test_the_running_kernels_layout_is_understood(stopped: Running) -> None:
    stopped.start()
    assert stopped.said() == ""
    assert programs_of(stopped) >= 14, "the count that other tests expect to be none"
    assert cgroups_of(stopped) == [], "the self-test's sandbox is gone"


@pytest.mark.parametrize("offset", SHIFTED)
def test_a_shifted_offset_is_refused(stopped: Running, monkeypatch: pytest.MonkeyPatch, offset: str) -> None:
    monkeypatch.setenv(SHIFT_VARIABLE, offset)
    assert refused(stopped).startswith("self-test: ")
    assert {path.name for path in base(stopped).iterdir()} == set(maps.SHARED)
    assert settle(lambda: programs_of(stopped), 0) == 0
    assert cgroups_of(stopped) == []
    monkeypatch.delenv(SHIFT_VARIABLE)
    stopped.start()


def test_what_acted_before_acts_again_after_a_refusal(stopped: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped.start()
    stopped.stop()
    before = generations(base(stopped))
    monkeypatch.setenv(SHIFT_VARIABLE, SHIFTED[0])
    assert refused(stopped).startswith("self-test: ")
    assert generations(base(stopped)) == before
    assert Handle(base(stopped)).read().active_generation == before[0][1]
    monkeypatch.delenv(SHIFT_VARIABLE)
    with stopped.sandbox() as sandbox:
        sandbox.run("/bin/true", "while-refused")
        stopped.start()
        stopped.wait(sandbox, category="process_creation", CommandLine="/bin/true while-refused")


# A kernel's BTF, as others have it: something else is mounted over it, for the sensor alone.


def started_over(sensor: Running, mount: list[str]) -> subprocess.CompletedProcess[str]:
    script = 'mount "$1" "$2" "$3" "$4" && shift 4 && exec "$@"'
    daemon = [sys.executable, "-m", "sensor.daemon", "--config", str(sensor.file)]
    command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh", *mount, *daemon]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_a_kernel_without_btf_is_refused(stopped: Running) -> None:
    done = started_over(stopped, ["-t", "tmpfs", "none", str(VMLINUX.parent)])
    said = f"pinfold: {VMLINUX}: this kernel has no BTF; boot one built with CONFIG_DEBUG_INFO_BTF=y (Debian's are)\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert {path.name for path in base(stopped).iterdir()} == set(maps.SHARED)


def forget_probes(cache: str) -> None:
    """What was compiled for this kernel is taken without a look at its types."""
    for kept in Path(cache).glob("probes-*"):
        kept.unlink()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"arg_start", "struct mm_struct has no member arg_start"),
        (b"start_boottime", "struct task_struct has no member start_boottime or real_start_time"),
        (b"linux_binprm", "has no struct linux_binprm"),
    ],
)
def test_a_kernel_that_lacks_what_is_read_is_refused(stopped: Running, rule_cache: str, name: bytes, said: str) -> None:
    forget_probes(rule_cache)
    changed = stopped.home / "btf"
    changed.write_bytes(VMLINUX.read_bytes().replace(b"\0" + name + b"\0", b"\0" + name[:-1] + b"_\0"))
    done = started_over(stopped, ["--bind", "--", str(changed), str(VMLINUX)])
    assert done.returncode == 1
    assert done.stderr.startswith("pinfold: kernel BTF")
    assert done.stderr.count("\n") == 1
    assert f"{said}; this kernel's layout is not understood, please report it" in done.stderr
    assert {path.name for path in base(stopped).iterdir()} == set(maps.SHARED)


@pytest.mark.parametrize("keep", [0, 20, 5000, 1 << 20])
def test_broken_btf_is_refused(stopped: Running, rule_cache: str, keep: int) -> None:
    forget_probes(rule_cache)
    changed = stopped.home / "btf"
    changed.write_bytes(VMLINUX.read_bytes()[:keep])
    done = started_over(stopped, ["--bind", "--", str(changed), str(VMLINUX)])
    assert done.returncode == 1
    assert done.stderr.startswith("pinfold: "), done.stderr
    assert "BTF" in done.stderr
    assert done.stderr.count("\n") == 1


# The proof that all this can fail, on a small sample: packaging/prove breaks everything.


def prove(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.live.prove", *arguments], check=False, capture_output=True, text=True
    )


def test_the_proof_names_who_noticed() -> None:
    test = "tests/live/test_layout.py::test_a_process_ends_with_its_last_thread"
    done = prove("mm_struct.arg_start", "on_device", "signal_struct.live", "--tests", test)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, third, last = done.stdout.splitlines()
    assert first.startswith("offset of mm_struct.arg_start + 8 ")
    assert " self-test " in first
    assert second.startswith("program on_device off ")
    assert " self-test " in second
    assert third.startswith("offset of signal_struct.live + 8 ")
    assert test in third
    assert "2 noticed by the self-test, 1 by named tests; 0 harmless, 0 unnoticed" in last


def test_the_proof_fails_for_what_nobody_notices() -> None:
    blind = "tests/live/test_cgroup_probes.py::test_the_mount_is_found_wherever_it_is"
    done = prove("nothing", "signal_struct.live", "--tests", blind)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("UNNOTICED") == 2
    assert "0 harmless, 2 unnoticed" in done.stdout


def test_the_proof_knows_every_offset_and_program() -> None:
    names = prove("--list").stdout.split()
    assert {"task_struct.start_boottime", "on_cgroup_rmdir", "on_flush", *SHIFTED} <= set(names)
    assert prove("mm_struct.nothing").returncode == 1
