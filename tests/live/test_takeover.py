"""Pins that outlive the daemon: taken over when they are ours, replaced without a gap when they are not."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from pathlib import Path

from sensor.bpf import objects
from tests.live.running import Running
from tests.live.test_exactly_once import account, executed, storm

RING = "ring: {{size_bytes: {size}}}\n"


def folders(sensor: Running) -> list[str]:
    return sorted(path.name for path in Path("/sys/fs/bpf", sensor.instance).glob("gen-*"))


def links(sensor: Running) -> dict[str, int]:
    """Pinned link to its inode: another link would have another."""
    return {path.name: path.stat().st_ino for path in Path("/sys/fs/bpf", sensor.instance).glob("gen-*/link-*")}


def test_a_restart_takes_the_pins_over(rule_cache: str) -> None:
    with Running(cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        before = folders(sensor), links(sensor)
        assert len(before[0]) == 1
        sensor.stop()
        sandbox.run("/bin/true", "in-between")
        sensor.start()
        assert (folders(sensor), links(sensor)) == before
        sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true in-between")


def test_another_ring_size_is_another_generation_without_a_gap(rule_cache: str, workloads: Path) -> None:
    with Running(cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        old = folders(sensor)
        marker = f"upgrade-{secrets.token_hex(4)}"
        # Longer than the new generation takes to compile, and thin enough to wait in the old ring meanwhile.
        process = storm(sandbox, workloads, marker, 30, interval_us=20_000)
        time.sleep(0.5)
        sensor.stop()
        sensor.file.write_text(sensor.file.read_text() + "ring: {size_bytes: 4194304}\n")
        sensor.start()
        new = folders(sensor)
        assert len(new) == 1
        assert new != old, "the older generation is gone, once its ring was read"
        wanted = executed(process)
        account(sensor, sandbox, marker, wanted)
        generations = {line["id"].partition("-")[0] for line in sensor.of(sandbox, category="process_creation")}
        assert len(generations) == 2, "some were told by the old ring, some by the new"


def test_who_had_left_its_sandbox_is_known_to_the_next_generation(rule_cache: str) -> None:
    code = """
import subprocess, sys
open(sys.argv[1], 'w').write('0')
print('out', flush=True)
sys.stdin.readline()
subprocess.run(['/bin/true', 'still-known'])
"""
    with Running(cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        process = sandbox.start(
            "/usr/bin/python3", "-I", "-S", "-c", code, f"{sensor.mount}/cgroup.procs",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        sensor.stop()
        sensor.file.write_text(sensor.file.read_text() + "ring: {size_bytes: 4194304}\n")
        sensor.start()
        process.communicate(b"\n", timeout=20)
        sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true still-known")


def test_what_a_crash_left_half_made_is_made_again(rule_cache: str) -> None:
    with Running(cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        base = Path("/sys/fs/bpf", sensor.instance)
        sensor.stop()
        draft = base / "tmp-123"
        draft.mkdir()
        (folder,) = base.glob("gen-*")
        (folder / "map-events").unlink()
        sensor.start()
        assert not draft.exists()
        sandbox.run("/bin/true", "whole-again")
        sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true whole-again")


def test_removing_an_instance_leaves_nothing(rule_cache: str) -> None:
    sensor = Running(cache=rule_cache)
    try:
        sensor.start()
        sensor.stop()
        objects.remove("/sys/fs/bpf", sensor.instance)
        assert not Path("/sys/fs/bpf", sensor.instance).exists()
        shown = subprocess.run(["/bin/ls", "/sys/fs/bpf"], capture_output=True, check=True, text=True).stdout
        assert sensor.instance not in shown
    finally:
        sensor.remove()
    assert json.dumps(str(sensor.home))
