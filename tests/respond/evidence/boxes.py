"""Real processes that stand for a sandbox's, and what a collection makes of them."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sensor.respond import procfs
from sensor.respond.evidence.collector import Collected, Collector, Wanted
from sensor.respond.evidence.verify import verify

TOTAL, FILE, SECONDS = 64 << 20, 1 << 20, 10


class Archive:
    """Read by the standard library, all at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.raw = gzip.decompress(Path(path).read_bytes())
        with tarfile.open(fileobj=io.BytesIO(self.raw)) as tar:
            self.members = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
        self.manifest = json.loads(self.members["manifest.json"])

    def json(self, name: str) -> Any:
        return json.loads(self.members[name])

    @property
    def processes(self) -> dict[int, Any]:
        lines = [line for name in self.members if name.startswith("processes/") for line in self.lines(name)]
        return {each["tgid"]: each for each in lines}

    def lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in self.members[name].splitlines()]

    @property
    def files(self) -> list[Any]:
        """Manifest entries of copied files."""
        return [each for each in self.manifest["members"] if each["name"].startswith("files/")]

    @property
    def sockets(self) -> list[Any]:
        return [each for space in self.json("sockets.json")["namespaces"] for each in space["sockets"]]


def until(collector: Collector, now_ns: int | None = None) -> list[Collected]:
    """Polls as the core does, until something has ended."""
    deadline = time.monotonic() + 60
    while not (ended := collector.poll(time.monotonic_ns() if now_ns is None else now_ns)):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return ended


def identity(tgid: int) -> tuple[int, int]:
    stat = procfs.stat(tgid)
    assert stat is not None
    return tgid, stat.start_ticks


def empty_cgroup(tmp_path: Path) -> tuple[str, int]:
    """A mount, and the id of `/box` in it, which nobody is in."""
    box = tmp_path / "mount/box"
    box.mkdir(parents=True, exist_ok=True)
    return str(tmp_path / "mount"), box.stat().st_ino


def collect(tmp_path: Path, *tgids: int, name: str = "q", facts: bytes = b"{}", **limits: int) -> Collected:
    """Of these processes."""
    mount, cgroup_id = empty_cgroup(tmp_path)
    bounds = {"total": TOTAL, "file": FILE, "seconds": SECONDS} | limits
    collector = Collector(str(tmp_path / "evidence"), mount, bounds["total"], bounds["file"], bounds["seconds"])
    wanted = Wanted(name, cgroup_id, "/box", tuple(map(identity, tgids)), facts)
    assert collector.start(wanted, time.monotonic_ns())
    [collected] = until(collector)
    assert collected.quarantine_id == name
    assert collector.idle
    return collected


def sound(collected: Collected) -> Archive:
    """Its archive, every sum of which is right."""
    assert collected.archive, collected.detail
    assert verify(collected.archive) == []
    assert collected.bytes == Path(collected.archive).stat().st_size
    archive = Archive(collected.archive)
    assert archive.manifest["complete"] is collected.ok
    return archive


@contextmanager
def running(code: str, *arguments: str | bytes, environment: dict[str, str] | None = None) -> Iterator[int]:
    """The tgid of a Python that has run `code` (which has `os`, `sys`, `up()`) up to `up()`, and then sleeps."""
    program = f"import os, sys, time\ndef up(): os.write(1, b'up\\n')\n{code}\nup()\ntime.sleep(600)\n"
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            yield process.pid
        finally:
            process.kill()
