"""Collected last: whatever the tests of this run made, and the programs that they started, are gone.

What they make has the run's token in its name (names.py), and what they start has it in its environment. So another
run on the same machine disturbs nothing, and a name that another left behind is not ours to judge."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from tests.live.names import TOKEN, VARIABLE, unique
from tests.live.running import WAIT_S, Running

API = b"sensor.control.api"
Left = dict[str, list[str]]


def named(folder: Path, depth: int) -> Iterator[str]:
    """Whatever has our token in its name, that deep."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # gone meanwhile, or never there
        return
    for entry in entries:
        if TOKEN in entry.name:
            yield entry.path
        elif depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from named(Path(entry.path), depth - 1)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def started_ticks(stat: bytes) -> int:
    fields = stat.rpartition(b")")[2].split()
    return int(fields[19]) if fields else 0


def processes() -> Iterator[str]:
    """With our token in their environment; and api processes, which have an environment of their own making, that
    were started since this run was and have lost their core."""
    mark = f"{VARIABLE}={TOKEN}".encode()
    since = started_ticks(read(Path("/proc/self/stat")))
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        line = read(folder / "cmdline").split(b"\0")
        ours = mark in read(folder / "environ").split(b"\0")
        if API in line and started_ticks(read(folder / "stat")) >= since:
            core = line[line.index(API) + 1].decode()
            ours = ours or not Path("/proc", core).exists()
        if ours:
            yield f"{folder.name}: {b' '.join(line).decode('utf-8', 'replace')}"


def devices() -> Iterator[str]:
    """veth pairs of namespaces that are gone would have come back to ours."""
    names = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout.splitlines()
    yield from (name for name in names if TOKEN in name)


def leftovers() -> Left:
    found = {
        "cgroups": list(named(Path(find_cgroup2_mount()), 4)),
        "pins": list(named(Path("/sys/fs/bpf"), 1)),
        "network namespaces": list(named(Path("/run/netns"), 1)),
        "network devices": list(devices()),
        "device nodes": [*named(Path("/dev"), 1), *named(Path("/dev/shm"), 1)],
        "folders": [*named(Path(tempfile.gettempdir()), 1), *named(Path("/run"), 1)],
        "processes": list(processes()),
    }
    return {kind: things for kind, things in found.items() if things}


def test_what_is_left_would_be_seen() -> None:
    """Else the next test could not fail."""
    made = Running()
    sleeper = subprocess.Popen(["sleep", "300"])
    node = Path(f"/dev/shm/pinfold-{unique()}")
    try:
        made.parent.mkdir()
        Path("/sys/fs/bpf", made.instance).mkdir()
        node.touch()
        subprocess.run(["ip", "netns", "add", made.instance], check=True)
        found = leftovers()
        assert str(made.parent) in found["cgroups"]
        assert f"/sys/fs/bpf/{made.instance}" in found["pins"]
        assert f"/run/netns/{made.instance}" in found["network namespaces"]
        assert str(node) in found["device nodes"]
        assert str(made.home) in found["folders"]
        assert f"{sleeper.pid}: sleep 300 " in found["processes"]
    finally:
        subprocess.run(["ip", "netns", "delete", made.instance], check=False)
        node.unlink(missing_ok=True)
        sleeper.kill()
        sleeper.wait()
        made.remove()


def test_nothing_is_left() -> None:
    """What was killed may take a moment to be gone."""
    until = time.monotonic() + WAIT_S
    while (found := leftovers()) and time.monotonic() < until:
        time.sleep(0.05)
    assert found == {}
