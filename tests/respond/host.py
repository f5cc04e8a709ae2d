"""A host for responses: real processes of this machine, and a process table that a test writes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sensor.respond import procfs
from sensor.respond.table import Host

SANDBOX = 4711


@dataclass
class Program:
    tgid: int
    start_ns: int
    image: str


@dataclass
class Record:
    """What enrich would know of a process."""

    tgid: int
    start_ns: int
    sandbox_id: int = SANDBOX
    executed_inside: bool = True
    parent_tgid: int = 0
    parent: Record | None = None
    image: str = ""
    image_file: tuple[int, int] = (0, 0)
    exec_id: int = 1
    entry: Program = field(default_factory=lambda: Program(0, 0, ""))


class Table:
    def __init__(self, *records: Record) -> None:
        self.records = {record.tgid: record for record in records}

    def add(self, record: Record) -> Record:
        self.records[record.tgid] = record
        return record

    def get(self, tgid: int) -> Record | None:
        return self.records.get(tgid)

    def in_sandbox(self, sandbox_id: int) -> Sequence[Record]:
        return [record for record in self.records.values() if record.sandbox_id == sandbox_id]


def host(
    table: Table, path: str | None = None, own_pids: Sequence[int] = (), mount: str | Path = "/sys/fs/cgroup"
) -> Host:
    return Host(table, lambda _: path, lambda: own_pids, str(mount), state="/nonexistent")


def record_of(tgid: int, **known: object) -> Record:
    """Of a process that runs now, with the start time that /proc tells."""
    stat = procfs.stat(tgid)
    assert stat is not None
    # A kernel record has nanoseconds, /proc only ticks: any nanosecond of the tick must do.
    return Record(tgid, stat.start_ticks * procfs.TICK_NS + 7, **known)  # type: ignore[arg-type]


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a pipe to read from, killed and reaped at the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def sleeper() -> tuple[str, ...]:
    return ("sleep", "300")


def script(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


def ended(tgid: int) -> bool:
    """Within a moment: a process that was sent SIGKILL still has its own way to go."""
    deadline = time.monotonic() + 10
    while alive(tgid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def alive(tgid: int) -> bool:
    stat = procfs.stat(tgid)
    return stat is not None and not stat.gone
