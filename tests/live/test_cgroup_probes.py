"""Sandboxes from birth to death: patterns, nesting, migration, full maps, parents made again, cgroup v1."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from tests.live.names import unique
from tests.live.running import CONFIG, Running, Sandbox, remove_cgroup


def test_birth_and_death(sensor: Running) -> None:
    with sensor.sandbox() as sandbox:
        (line,) = sensor.wait(sandbox, kind="sandbox", change="born")
        assert (line["SandboxName"], line["CgroupPath"]) == (sandbox.name, f"{sensor.instance}/{sandbox.name}")
        assert (line["SandboxClass"], line["Runtime"]) == ("default", "pinfold")
        sandbox.run("/bin/true")
    sensor.wait(sandbox, kind="sandbox", change="ended")


def test_the_first_exec_is_never_missed(sensor: Running) -> None:
    """Births race with nothing: the sandbox is in the kernel's map before mkdir returns."""
    boxes = []
    for index in range(60):
        with sensor.sandbox() as sandbox:
            sandbox.run("/bin/true", f"first-{index}")
            boxes.append(sandbox)
    for index, sandbox in enumerate(boxes):
        sensor.wait(sandbox, category="process_creation", CommandLine=f"/bin/true first-{index}")


def test_nested_cgroups_belong_to_the_outermost(sensor: Running, sandbox: Sandbox) -> None:
    inner = sandbox.path / "docker" / ("ab" * 32)
    inner.mkdir(parents=True)
    code = (
        "import os,sys; open(sys.argv[1]+'/cgroup.procs','w').write('0'); os.execv('/bin/true',['/bin/true','nested'])"
    )
    sandbox.python(code, str(inner))
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true nested")
    assert line["CgroupId"] == inner.stat().st_ino
    subprocess.run(
        [sys.executable, "-c", code.replace("nested", "straight-in"), str(inner)], check=True
    )  # from outside, past the sandbox's own cgroup
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true straight-in")
    assert line["SandboxId"] == sandbox.id


def test_a_process_that_leaves_keeps_its_sandbox(sensor: Running, sandbox: Sandbox) -> None:
    code = """
import os, subprocess, sys
open(sys.argv[1], 'w').write('0')
subprocess.run(['/bin/true', 'after-leaving'])
"""
    sandbox.python(code, f"{sensor.mount}/cgroup.procs")
    (moved,) = sensor.wait(sandbox, kind="sandbox", change="left")
    assert moved["CgroupId"] == os.stat(sensor.mount).st_ino
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true after-leaving")
    assert line["CgroupId"] != sandbox.id


def test_a_child_that_clones_out_keeps_its_sandbox(sensor: Running, sandbox: Sandbox, workloads: Path) -> None:
    outside = Path(sensor.mount) / f"pinfold-outside-{unique()}"
    outside.mkdir()
    try:
        sandbox.run(str(workloads / "enter"), "-k", str(outside), "--", "/bin/true", "cloned-out")
        (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true cloned-out")
        assert line["CgroupId"] == outside.stat().st_ino
    finally:
        remove_cgroup(outside)


def test_the_ended_sandbox_of_a_process_that_left_still_counts(sensor: Running) -> None:
    code = """
import os, subprocess, sys, time
open(sys.argv[1], 'w').write('0')
print('out', flush=True)
sys.stdin.readline()
subprocess.run(['/bin/true', 'orphan-of-a-sandbox'])
"""
    with sensor.sandbox() as sandbox:
        process = sandbox.start(
            "/usr/bin/python3", "-I", "-S", "-c", code, f"{sensor.mount}/cgroup.procs",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
    sensor.wait(sandbox, kind="sandbox", change="ended")
    process.communicate(b"\n")
    (line,) = sensor.wait(sandbox, category="process_creation", CommandLine="/bin/true orphan-of-a-sandbox")
    assert line["SandboxName"] == sandbox.name


DEEP = CONFIG.replace(
    "sandboxes:\n",
    'sandboxes:\n  - {{path: "{instance}-pods.slice/tier-*/pod-*.slice/run-*.scope", class: refuse}}\n',
)


def test_patterns_of_several_levels_and_a_parent_made_again(rule_cache: str) -> None:
    """The folders above come after the sensor does, go away, and come again: attached, and the gap is said."""
    with Running(config=DEEP, cache=rule_cache) as sensor:
        top = Path(sensor.mount) / f"{sensor.instance}-pods.slice"
        try:
            for round_ in ("one", "two"):
                pod = top / "tier-a" / "pod-7.slice"
                pod.mkdir(parents=True)
                noise = pod / "other.service"
                noise.mkdir()
                box = Sandbox(pod / f"run-{round_}.scope")
                sensor.wait(box, kind="sandbox", change=lambda change: change in ("born", "found"))
                # What the parent's birth set going must be over: the programs are attached to it.
                sensor.until(lambda: "made again" in sensor.said(), "the gap is said")
                done = box.python("import os; os.open('/dev/kmsg', os.O_RDONLY)")
                assert b"not permitted" in done.stderr
                (line,) = sensor.wait(box, category="device_access", DeviceClass="memory")
                assert (line["Verdict"], line["SandboxClass"]) == ("refused", "refuse")
                assert not [r for r in sensor.lines() if r.get("CgroupPath", "").endswith("other.service")]
                box.remove()
                remove_cgroup(top)
            assert sensor.until(lambda: sensor.metrics()["pinfold_watch_gaps_total"] >= 2, "both gaps are counted")
        finally:
            remove_cgroup(top)


def test_a_full_sandbox_map_is_said_and_counted(rule_cache: str) -> None:
    with Running("limits: {{sandboxes: 64}}\n", cache=rule_cache) as sensor:
        boxes = [Sandbox(sensor.parent / f"many-{index}") for index in range(80)]
        try:
            name = 'pinfold_events_lost_total{reason="sandboxes_full",stage="kernel"}'
            sensor.until(lambda: sensor.metrics()[name] >= 80 - 64, "births without room are counted")
        finally:
            for box in boxes:
                box.remove()


@pytest.fixture
def v1(tmp_path: Path) -> Iterator[Path]:
    """A v1 hierarchy of the test's own, which any kernel with v1 can mount beside v2, named and without controllers."""
    tree = tmp_path / "v1"
    tree.mkdir()
    options = f"none,name=pinfold-{unique()}"
    done = subprocess.run(["mount", "-t", "cgroup", "-o", options, "none", str(tree)], capture_output=True, check=False)
    assert done.returncode == 0, f"this kernel has no cgroup v1, beside which v2 is to be tested: {done.stderr!r}"
    try:
        yield tree
    finally:
        for child in tree.iterdir():
            if child.is_dir():
                child.rmdir()
        subprocess.run(["umount", str(tree)], check=True)


def test_cgroup_v1_beside_v2_is_not_taken_for_a_sandbox(sensor: Running, sandbox: Sandbox, v1: Path) -> None:
    """v1 fires the same tracepoints, with ids that collide with those of v2."""
    for index in range(40):
        (v1 / f"v1-{index}").mkdir()
    subprocess.run(
        ["/bin/sh", "-c", f"echo 0 > {v1}/v1-0/tasks && exec /bin/true in-v1"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    sensor.settled(sandbox)
    time.sleep(0.2)
    lines = sensor.lines()
    assert not [line for line in lines if line.get("CommandLine") == "/bin/true in-v1"]
    assert not [line for line in lines if "v1-" in str(line.get("SandboxName"))]


def test_what_ran_before_the_sensor_is_found_and_marked(rule_cache: str) -> None:
    sensor = Running(cache=rule_cache)
    try:
        sensor.parent.mkdir()
        with sensor.sandbox("early") as box:
            process = box.start("/usr/bin/sleep", "300")
            sensor.start()
            (line,) = sensor.wait(box, category="process_creation", CommandLine="/usr/bin/sleep 300")
            assert line["Existing"]
            sensor.wait(box, kind="sandbox", change="found")
            # and it is tracked from here on: by the kernel too
            box.run("/bin/true", "later")
            sensor.wait(box, category="process_creation", CommandLine="/bin/true later")
            process.kill()
            process.wait()
            sensor.wait(box, category="process_termination", ProcessId=process.pid)
    finally:
        sensor.remove()


def test_the_mount_is_found_wherever_it_is() -> None:
    mount = find_cgroup2_mount()
    assert Path(mount, "cgroup.procs").exists()
