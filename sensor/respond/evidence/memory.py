"""What a process keeps in its own memory, or under the lock of it: argv, names of the environment, maps.

A sandbox may make each of these reads wait, so a thread does them that can be left behind.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode

from sensor.respond.evidence.bounded import LIMITS, Notes, Record, put, try_read
from sensor.respond.evidence.processes import Process
from sensor.respond.evidence.worker import StalledError, Worker

PATIENCE_S = 0.5
# Anything else before a `=` may be a value's end: base64's, say, where a process wrote over its environment.
_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_.]{0,127}")
Key = tuple[str, int]  # device as in maps, inode


class Mapping:
    """A file that a process may execute from, by its place in memory."""

    __slots__ = ("key", "path", "where")

    def __init__(self, where: str, key: Key, path: bytes) -> None:
        self.where, self.key, self.path = where, key, path


class Memory:
    def __init__(self, worker: Worker, notes: Notes) -> None:
        self._worker = worker
        self._notes = notes

    def describe(self, process: Process) -> list[Mapping]:
        """Adds to its record. Gives the deleted files that it may execute from."""
        parts: list[bytes | None] = []  # the thread adds, and each that came counts
        stalled = False
        try:
            self._worker.do(lambda: _read(process, parts), PATIENCE_S)
        except StalledError:
            stalled = True
            self._notes.lost("argv, environment or maps of some processes did not come: their memory makes it wait")
        maps, argv, environment, *_ = [*parts, None, None, None]
        if stalled:
            process.record["memory_stalled"] = True
        _put_argv(process.record, argv, process.argv_bytes)
        # Where a title was written over argv's end, it may have gone on into the first variable.
        overwritten = bool(argv) and len(argv or b"") == process.argv_bytes and not (argv or b"").endswith(b"\0")
        process.record["environment"] = None if environment is None else redacted(environment, overwritten)
        if environment is not None and len(environment) >= LIMITS["environment_bytes"]:
            process.record["environment_cut"] = True
        return _put_maps(process.record, maps)


def _read(process: Process, parts: list[bytes | None]) -> None:
    parts.append(try_read("maps", LIMITS["maps_bytes"], process.base))
    # Not a byte more than argv has: the kernel goes on into the environment where the last NUL was overwritten.
    most = min(process.argv_bytes, LIMITS["argv_bytes"])
    parts.append(try_read("cmdline", most, process.base) if most else b"")
    parts.append(try_read("environ", LIMITS["environment_bytes"], process.base))


def _put_argv(record: Record, raw: bytes | None, whole: int) -> None:
    if raw is None:
        record["argv"] = None
        return
    if whole > len(raw):
        record["argv_bytes"] = whole
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="replace")
        record["argv_b64"] = b64encode(raw).decode()
    record["argv"] = text.removesuffix("\0").split("\0") if raw else []


def redacted(environment: bytes, overwritten: bool = False) -> list[Record]:
    """Names, and of values only how long they are. What is not named as variables are has no name either, nor has
    the first where something was written over its beginning."""
    found: list[Record] = []
    for entry in environment.split(b"\0"):
        if not entry:
            continue
        name, equals, value = entry.partition(b"=")
        if equals and _NAME.fullmatch(name) and (found or not overwritten):
            found.append({"name": name.decode(), "length": len(value)})
        else:
            found.append({"name": None, "length": len(entry)})
    return found


def _put_maps(record: Record, raw: bytes | None) -> list[Mapping]:
    if raw is None:
        record["maps"] = None
        return []
    if len(raw) >= LIMITS["maps_bytes"]:
        raw = raw[: raw.rfind(b"\n") + 1]
        record["maps_cut"] = True
    put(record, "maps", raw, LIMITS["maps_bytes"])
    record["maps"] = record["maps"].splitlines()
    return [found for line in raw.splitlines() if (found := _deleted_code(line)) is not None]


def _deleted_code(line: bytes) -> Mapping | None:
    if not line.endswith(b" (deleted)"):
        return None
    where, permissions, _, device, inode, path = line.split(None, 5)
    if b"x" not in permissions:
        return None
    return Mapping(os.fsdecode(where), (device.decode(), int(inode)), path)
