"""What is done to the sensor is noticed, told, and repaired: from outside, by root, and from sandboxes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import pytest

from sensor.bpf import libbpf
from sensor.bpf.state import SIZES
from sensor.control.client import Client
from tests.live.containing import notices
from tests.live.names import unique
from tests.live.running import CONFIG, Running, Sandbox

LIMITED = (
    CONFIG
    + """  limited:
    mode: enforce
    egress: {{default: deny, allow: [{{to: 127.0.0.0/8}}, {{to: 203.0.113.0/24, ports: ["443"]}}]}}
    denied_protocols: [ssh]
"""
)
OPENS = "import os\ntry:\n os.open('/dev/kmsg', os.O_RDONLY); print('open')\nexcept OSError as e: print(e.errno)"
CONNECTS = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
    try:
        made.connect(("198.51.100.7", 443))
        print("connected")
    except OSError as error:
        print(error.errno)
"""
_libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    patterns = '  - {{path: "{instance}/limited-*", class: limited}}\nclasses:\n'
    with Running(config=LIMITED.replace("classes:\n", patterns), cache=rule_cache) as running:
        yield running


@pytest.fixture
def box(sensor: Running) -> Iterator[Sandbox]:
    with sensor.sandbox(f"limited-{unique()}") as made:
        assert made.python(OPENS).stdout == b"1\n"
        assert made.python(CONNECTS).stdout == b"1\n"
        yield made


def folder(sensor: Running) -> Path:
    (found,) = Path("/sys/fs/bpf", sensor.instance).glob("gen-*")
    return found


def told(sensor: Running, text: str) -> list[dict[str, Any]]:
    return [notice for notice in notices(sensor, text) if notice["text"].startswith("critical: ")]


def repaired(sensor: Running, text: str, before: int = 0) -> dict[str, Any]:
    """The notice, once it is there. The same text is told once a minute: so each test has a text of its own."""
    found: list[dict[str, Any]] = sensor.until(lambda: told(sensor, text)[before:], f"the notice: {text}")
    assert "which was repaired" in found[-1]["text"], found
    assert text in sensor.said()
    return found[-1]


def rounds(sensor: Running, count: int = 2) -> None:
    """Until the guard has looked that often: once is perhaps under way."""
    name = "pinfold_guard_rounds_total"
    wanted = sensor.metrics()[name] + count
    sensor.until(lambda: sensor.metrics()[name] >= wanted, "rounds of the guard")


def pinfold(sensor: Running, command: str) -> None:
    arguments = [command, "--reason", "a test", "--config", str(sensor.file)]
    subprocess.run([sys.executable, "-m", "sensor.cli", *arguments], check=True, capture_output=True)


def denies(box: Sandbox) -> bool:
    return box.python(OPENS).stdout == b"1\n" and box.python(CONNECTS).stdout == b"1\n"


def link_of(sensor: Running, program: str) -> Path:
    (found,) = folder(sensor).glob(f"link-{program}-*")
    return found


def opened(path: Path) -> int:
    return libbpf.get(path)


def test_at_rest_nothing_is_told(sensor: Running, box: Sandbox) -> None:
    """Through births, deaths, execs, flows and a reload."""
    assert sensor.process is not None
    for _ in range(10):
        with sensor.sandbox() as other:
            other.run("/bin/true")
            other.python(CONNECTS)
    sensor.process.send_signal(signal.SIGHUP)
    sensor.until(lambda: notices(sensor, "reloaded"), "the reload")
    rounds(sensor, 3)
    assert not [n for n in notices(sensor, "critical") if "traced" not in n["text"]]
    assert {n: v for n, v in sensor.metrics().items() if n.startswith("pinfold_tampering") and v} == {}


@pytest.mark.parametrize("program", ["on_device", "on_connect4", "on_egress"])
def test_a_link_that_is_detached_is_attached_again(sensor: Running, box: Sandbox, program: str) -> None:
    link = opened(link_of(sensor, program))
    try:
        assert _libbpf.bpf_link_detach(link) == 0
    finally:
        os.close(link)
    repaired(sensor, f"the link {link_of(sensor, program).name.removeprefix('link-')} was detached")
    assert denies(box)


def test_a_link_that_gets_another_program_gets_its_own_again(sensor: Running, box: Sandbox) -> None:
    link, other = opened(link_of(sensor, "on_connect6")), opened(folder(sensor) / "program-on_connect4")
    same = opened(folder(sensor) / "program-on_connect6")
    try:
        assert libbpf.link_info(link).program_id == libbpf.object_id(same)
        assert _libbpf.bpf_link_update(link, other, None) == 0
        name = link_of(sensor, "on_connect6").name.removeprefix("link-")
        repaired(sensor, f"the link {name} has another program")
        again = opened(link_of(sensor, "on_connect6"))
        assert libbpf.link_info(again).program_id == libbpf.object_id(same)
        os.close(again)
    finally:
        for descriptor in (link, other, same):
            os.close(descriptor)


@pytest.mark.parametrize("name", ["link-on_device-*", "link-on_sched_process_exec", "map-classes", "program-on_packet"])
def test_a_pin_that_is_removed_is_made_again_and_nothing_was_lifted(sensor: Running, box: Sandbox, name: str) -> None:
    (pin,) = folder(sensor).glob(name)
    pin.unlink()
    assert denies(box), "the object lives on while the core does"
    sensor.until(pin.exists, "the pin is there again")
    text = (
        f"the link {pin.name.removeprefix('link-')} was" if name.startswith("link") else f"pin {pin.name} was removed"
    )
    repaired(sensor, text if "link" not in name else f"the pin of {text} removed")
    assert denies(box)


def test_a_pin_that_is_another_objects_is_put_right(sensor: Running, box: Sandbox) -> None:
    pin = folder(sensor) / "map-egress"
    other = opened(folder(sensor) / "map-steps")
    true = opened(pin)
    try:
        pin.unlink()
        libbpf.pin(other, pin)
        repaired(sensor, "the pin map-egress is another object's")
        now = opened(pin)
        assert libbpf.object_id(now) == libbpf.object_id(true)
        os.close(now)
    finally:
        os.close(other)
        os.close(true)
    assert denies(box)


def test_the_whole_folder_is_made_again(sensor: Running, box: Sandbox) -> None:
    gone = folder(sensor)
    names = {pin.name for pin in gone.iterdir()}
    subprocess.run(["rm", "-rf", str(gone)], check=True)
    assert denies(box)
    repaired(sensor, "the folder of the pins was removed")
    sensor.until(lambda: {pin.name for pin in gone.iterdir()} == names, "every pin is there again")
    assert denies(box)


def write(sensor: Running, name: str, key: bytes, value: bytes) -> None:
    descriptor = opened(folder(sensor) / f"map-{name}")
    try:
        libbpf.update(descriptor, key, value)
    finally:
        os.close(descriptor)


def class_of(sensor: Running, box: Sandbox) -> int:
    descriptor = opened(folder(sensor) / "map-sandboxes")
    try:
        value = libbpf.lookup(descriptor, pack("<Q", box.id), SIZES["pf_sandbox"])
    finally:
        os.close(descriptor)
    assert value is not None
    return int.from_bytes(value[-8:-4], "little")


def test_a_class_that_is_made_harmless_is_put_right(sensor: Running, box: Sandbox) -> None:
    write(sensor, "classes", pack("<I", class_of(sensor, box)), bytes(SIZES["pf_class"]))
    notice = repaired(sensor, "the map classes has an entry that was changed")
    assert notice["expected"] != notice["found"]
    assert denies(box)


def test_a_device_that_is_called_ordinary_is_put_right(sensor: Running, box: Sandbox) -> None:
    write(sensor, "char_classes", pack("<I", 1 * 256 + 11), b"\0")
    repaired(sensor, "the map char_classes has an entry that was changed")
    assert denies(box)


def test_an_egress_entry_that_is_added_goes_and_one_that_is_deleted_comes_back(sensor: Running, box: Sandbox) -> None:
    descriptor = opened(folder(sensor) / "map-egress")
    try:
        keys = libbpf.keys(descriptor, SIZES["pf_egress_key"], 100)
        assert keys
        value = libbpf.lookup(descriptor, keys[0], SIZES["pf_egress"])
        assert value is not None
        class_id = keys[0][4:8]
        added = pack("<I", 32 + 96) + class_id + bytes(10) + b"\xff\xff" + bytes((198, 51, 100, 7))
        libbpf.update(descriptor, added, value)
        repaired(sensor, "the map egress has an entry that is not ours")
        libbpf.delete(descriptor, keys[-1])
        repaired(sensor, "the map egress lacks an entry")
        assert sorted(libbpf.keys(descriptor, SIZES["pf_egress_key"], 100)) == sorted(keys)
    finally:
        os.close(descriptor)
    assert denies(box)


def test_the_control_word_is_put_right_unless_the_operator_wrote_it(sensor: Running, box: Sandbox) -> None:
    control = opened(folder(sensor).parent / "control")
    try:
        entry = libbpf.lookup(control, bytes(4), SIZES["pf_control"])
        assert entry is not None
        libbpf.update(control, bytes(4), entry[:8] + bytes(4) + entry[12:])  # armed: 0
        repaired(sensor, "the control entry was changed (armed)")
        assert denies(box)
        libbpf.update(control, bytes(4), bytes(8) + entry[8:])  # no generation acts
        repaired(sensor, "the control entry was changed (active_generation)")
        assert denies(box)
    finally:
        os.close(control)
    before = sensor.metrics()['pinfold_tampering_total{what="control"}']
    for command, printed in (("disarm", b"open\n"), ("arm", b"1\n")):
        pinfold(sensor, command)
        sensor.until(lambda: box.python(OPENS).stdout == printed, command)  # noqa: B023 - asked at once
    rounds(sensor)
    assert sensor.metrics()['pinfold_tampering_total{what="control"}'] == before


def test_a_tail_call_that_is_taken_out_is_put_back(sensor: Running, box: Sandbox) -> None:
    descriptor = opened(folder(sensor) / "map-packet_programs")
    try:
        assert libbpf.delete(descriptor, pack("<I", 4))
    finally:
        os.close(descriptor)
    repaired(sensor, "the map packet_programs lacks an entry")
    assert denies(box)


def test_a_sandbox_that_is_taken_out_or_reclassed_is_put_back(sensor: Running, box: Sandbox) -> None:
    descriptor = opened(folder(sensor) / "map-sandboxes")
    key = pack("<Q", box.id)
    wanted = class_of(sensor, box)
    try:
        sensor.settled(box)
        rounds(sensor)
        value = libbpf.lookup(descriptor, key, SIZES["pf_sandbox"])
        assert value is not None
        libbpf.update(descriptor, key, value[:-8] + bytes(4) + value[-4:])  # the default class, in monitor mode
        repaired(sensor, f"the entry of the sandbox {box.id} is of another class")
        assert class_of(sensor, box) == wanted
        libbpf.delete(descriptor, key)
        repaired(sensor, f"the entry of the sandbox {box.id} was removed")
    finally:
        os.close(descriptor)
    assert denies(box)


def test_a_parent_that_is_no_longer_watched_is_watched_again(sensor: Running) -> None:
    descriptor = opened(folder(sensor) / "map-watch")
    try:
        assert libbpf.delete(descriptor, pack("<Q", sensor.parent.stat().st_ino))
    finally:
        os.close(descriptor)
    repaired(sensor, "the map watch lacks an entry")
    with sensor.sandbox(f"limited-{unique()}") as box:
        sensor.wait(box, kind="sandbox", change="born")
        assert denies(box)


# Attempts from a sandbox.


@pytest.mark.parametrize("number", [signal.SIGCONT, signal.SIGHUP])
def test_a_signal_to_the_core_is_a_critical_detection(sensor: Running, sandbox: Sandbox, number: int) -> None:
    assert sensor.process is not None
    done = sandbox.python(
        "import os, sys; os.kill(int(sys.argv[1]), int(sys.argv[2]))", str(sensor.process.pid), str(int(number))
    )
    assert done.returncode == 0, done.stderr
    (line,) = sensor.wait(sandbox, category="sensor_access", Signal=int(number))
    assert (line["Attempt"], line["Target"], line["TargetProcessId"]) == ("signal", "core", sensor.process.pid)
    sensor.wait(sandbox, kind="detection", rule=lambda r: r and r["title"] == "A sandbox sent a signal to the sensor")


def test_signals_to_others_and_from_outside_are_not_told(sensor: Running, sandbox: Sandbox) -> None:
    assert sensor.process is not None
    sensor.process.send_signal(signal.SIGCONT)
    sandbox.python("import os, signal; signal.signal(10, lambda *_: None); os.kill(os.getpid(), 10)")
    sensor.settled(sandbox)
    assert not sensor.of(sandbox, category="sensor_access")


def test_a_signal_by_a_descriptors_owner_is_told_too(sensor: Running, sandbox: Sandbox) -> None:
    """F_SETOWN and F_SETSIG: its siginfo looks like the kernel's own."""
    assert sensor.process is not None
    code = """
import fcntl, os, signal, sys
ours, other = __import__("socket").socketpair()
fcntl.fcntl(ours, 8, int(sys.argv[1]))            # F_SETOWN
fcntl.fcntl(ours, 10, signal.SIGCONT)             # F_SETSIG
fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
other.send(b"x")
"""
    done = sandbox.python(code, str(sensor.process.pid))
    assert done.returncode == 0, done.stderr
    sensor.wait(sandbox, category="sensor_access", Signal=int(signal.SIGCONT))


BPF = """
import ctypes, sys
attributes = (ctypes.c_uint32 * 32)()
print(ctypes.CDLL(None).syscall(321, 11, attributes, 128))  # BPF_PROG_GET_NEXT_ID
"""


def test_the_use_of_bpf_is_a_critical_detection_and_the_sandbox_tamperable(sensor: Running, sandbox: Sandbox) -> None:
    assert sandbox.python(BPF).stdout == b"0\n"
    (line,) = sensor.wait(sandbox, category="sensor_access", Attempt="bpf")
    assert (line["Privileged"], line["Refused"]) == (True, False)
    sensor.wait(sandbox, kind="detection", rule=lambda r: r and r["title"] == "A sandbox uses bpf(2)")
    assert row(sensor, sandbox)["tamperable"]


def test_bpf_without_the_right_is_told_as_refused(sensor: Running, sandbox: Sandbox) -> None:
    assert sandbox.python(BPF, uid=65534).stdout == b"-1\n"
    (line,) = sensor.wait(sandbox, category="sensor_access", Attempt="bpf")
    assert (line["Privileged"], line["Refused"], line["User"]) == (False, True, "nobody")
    assert not row(sensor, sandbox)["tamperable"]


def row(sensor: Running, box: Sandbox) -> dict[str, Any]:
    client = Client(str(sensor.home / "run" / "control.sock"))
    (found,) = sensor.until(lambda: [each for each in client.sandboxes() if each["id"] == box.id], "its row")
    return dict(found)


def test_a_sandbox_with_the_rights_is_never_clean(sensor: Running, sandbox: Sandbox) -> None:
    process = sandbox.start("/usr/bin/sleep", "300")
    try:
        sensor.until(lambda: row(sensor, sandbox)["state"] == "tamperable", "its capabilities are seen")
        assert sensor.metrics()["pinfold_sandboxes_tamperable"] >= 1
    finally:
        process.kill()
        process.wait()
    with sensor.sandbox() as other:
        process = other.start("/usr/bin/sleep", "300", uid=65534)
        try:
            sensor.settled(other)
            rounds(sensor)
            assert row(sensor, other)["state"] == "clean"
        finally:
            process.kill()
            process.wait()


SEIZES = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
assert libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0  # PTRACE_SEIZE
print("seized", flush=True)
time.sleep(300)
"""


def test_who_traces_the_core_is_killed_in_enforce_mode_and_told(sensor: Running) -> None:
    assert sensor.process is not None
    with sensor.sandbox(f"limited-{unique()}") as box:
        done = box.python(SEIZES, str(sensor.process.pid), timeout=30)
        assert (done.returncode, done.stdout) == (-9, b"seized\n")
        (line,) = sensor.wait(box, category="sensor_access", Attempt="trace")
        assert line["Target"] == "core"
        sensor.wait(box, kind="detection", rule=lambda r: r and r["title"] == "A sandbox traces the sensor")
        assert told(sensor, "the core is traced by a process of a sandbox, which was killed")
