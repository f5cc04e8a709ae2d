"""The order of a collection, and its end. Of the child.

What the kernel alone answers comes first, then the sandbox's memory, its files last: whoever makes a read wait
loses only what would have come after it. Each part is in the archive before the next one begins.
"""

from __future__ import annotations

import json
import os
import platform
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from sensor.respond.evidence import archive
from sensor.respond.evidence.archive import SUFFIX, Writer, encoded
from sensor.respond.evidence.bounded import LIMITS, Notes, Record, put, try_read
from sensor.respond.evidence.cgroups import Cgroups
from sensor.respond.evidence.files import Files
from sensor.respond.evidence.memory import Mapping, Memory
from sensor.respond.evidence.netsockets import Sockets
from sensor.respond.evidence.processes import Scan
from sensor.respond.evidence.worker import StalledError, Worker

_PER_MEMBER = 256  # processes
_SHARE = 0.7  # of the time, after which nothing more is begun: the rest is for the disk
_KEEP_FREE = 2  # of the disk's free bytes no more than one in so many is taken


class Progress:
    """Lines for whoever must finish it, and the last one for the core. What is whole when it is killed counts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def tell(self, **line: object) -> None:
        os.write(self._fd, encoded(line))


class Collection:
    def __init__(self, question: Record, facts: bytes, progress: Progress) -> None:
        self._question = question
        self._facts = facts
        self._progress = progress
        self._began = time.monotonic()
        self._until = self._began + question["seconds"] * _SHARE
        self._began_ns = time.time_ns()
        self._notes = Notes()
        self._worker = Worker()
        self._scan = Scan(self._notes)
        self._cgroups = Cgroups(self._notes)
        self._mapped: dict[int, list[Mapping]] = {}
        self._counts = {"processes": 0, "sockets": 0, "files": 0, "file_bytes": 0}
        self._writer: Writer
        self._room = 0

    def run(self) -> None:
        """:raises RefusedError, OSError: there is no archive."""
        question = self._question
        folder = archive.open_folder(question["folder"])
        name = question["quarantine_id"] + SUFFIX
        if archive.exists(folder, name):
            size = os.lstat(name, dir_fd=folder).st_size
            self._progress.tell(archive=name, bytes=size, ok=True, detail="collected before, and kept as it was")
            return
        archive.sweep(folder, question["quarantine_id"], time.time())
        whose = archive.owner(question["sandbox_id"], _boot_id())
        disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize // _KEEP_FREE
        self._room = min(question["total_bytes"] - archive.used(folder, whose), free)
        fd = archive.create(folder, question["temporary"])
        self._writer = Writer(fd, whose)
        for part in (self._from_core, self._find, self._statistics, self._sockets, self._processes, self._files):
            self._do(part)
        manifest = describe(question, self._notes, self._writer.members, self._began_ns)
        self._writer.finish(manifest)
        size = archive.publish(folder, fd, question["temporary"], name)
        detail = summary(self._counts, self._notes)
        self._progress.tell(archive=name, bytes=size, ok=not self._notes.partial, detail=detail)

    def _do(self, part: Callable[[], None]) -> None:
        if time.monotonic() > self._until:
            self._lost(f"no time was left for {part.__name__.strip('_')}")
            return
        try:
            part()
        except OSError as why:
            self._lost(f"{part.__name__.strip('_')}: {os.strerror(why.errno or 0)}")
        except StalledError:
            self._lost(f"{part.__name__.strip('_')}: too many reads did not come back")
        except Exception as why:  # the other parts are worth having
            self._lost(f"{part.__name__.strip('_')}: {type(why).__name__}")

    def _lost(self, line: str) -> None:
        self._notes.lost(line)
        self._progress.tell(note=line)

    def _add(self, name: str, content: bytes, what: str, **more: object) -> None:
        member = self._writer.add(name, content, what, **more)
        self._progress.tell(member=member, end=self._writer.end)

    def _from_core(self) -> None:
        facts = self._facts
        more = {"cut_from": self._question["facts_bytes"]} if self._question["facts_bytes"] > len(facts) else {}
        if more:
            self._notes.cut("what the core knew was cut: too many bytes")
        self._add("facts.json", facts, "what the sensor knew: order, last events and detections", **more)

    def _find(self) -> None:
        question, path = self._question, b64decode(self._question["path"])
        self._cgroups.walk(os.fsencode(question["mount"]), path, question["sandbox_id"])
        for tgid in self._cgroups.processes:
            self._scan.add(tgid, None, path)
        for tgid, start_ticks in question["processes"]:
            if tgid not in self._cgroups.processes:
                self._scan.add(tgid, start_ticks, None)
        if self._scan.left_out:
            self._notes.cut(f"{self._scan.left_out} processes beyond the limit are not described")
        self._scan.processes.sort(key=lambda process: (process.start_ticks, process.tgid))

    def _statistics(self) -> None:
        memberships = list(dict.fromkeys(process.cgroup for process in self._scan.processes))
        record: Record = {"v1": self._cgroups.older(memberships), "v2": self._cgroups.records}
        put(record, "path", b64decode(self._question["path"]))
        self._add("cgroup.json", encoded(record), "statistics of the cgroup and of those nested in it")

    def _sockets(self) -> None:
        sockets = Sockets(self._scan.processes, self._cgroups.ids, self._notes)
        self._counts["sockets"] = sockets.count
        self._add("sockets.json", encoded(sockets.record()), "sockets, by network namespace")

    def _processes(self) -> None:
        """argv and environment with them, and before their files."""
        memory = Memory(self._worker, self._notes)
        room, lines, number = LIMITS["processes_bytes"], list[bytes](), 0
        left = 0
        for process in self._scan.processes:
            if time.monotonic() > self._until or room <= 0:
                left += 1
                continue
            self._mapped[process.tgid] = memory.describe(process)
            lines.append(encoded(process.record))
            room -= len(lines[-1])
            self._counts["processes"] += 1
            if len(lines) == _PER_MEMBER:
                number += 1
                self._add_processes(number, lines)
        if lines:
            self._add_processes(number + 1, lines)
        if left:
            self._notes.lost(f"{left} processes are not described: no time, or no room")

    def _add_processes(self, number: int, lines: list[bytes]) -> None:
        self._add(f"processes/{number:04}.jsonl", b"".join(lines), "processes, one a line, oldest first")
        lines.clear()

    def _files(self) -> None:
        room = self._room - self._writer.end
        files = Files(self._worker, self._notes, self._until, self._question["file_bytes"], room)
        hashes = files.hashes(self._scan.processes)
        ids = {process.tgid: process.record.get("exe_id") for process in self._scan.processes}
        executables: Record = {"executables": hashes, "of_processes": ids}
        self._add("executables.json", encoded(executables), "executables with their SHA-256, and who runs which")
        for member in files.copy(self._scan.processes, self._mapped, self._writer):
            self._progress.tell(member=member, end=self._writer.end)
            self._counts["files"], self._counts["file_bytes"] = files.copied, files.bytes


def describe(question: Record, notes: Notes, members: list[Record], began_ns: int) -> Record:
    """The manifest."""
    system = platform.uname()
    record: Record = {
        "format": "pinfold evidence 1",
        "quarantine": question["quarantine_id"],
        "sandbox_id": question["sandbox_id"],
        "complete": not notes.partial,
        "missing": notes.lines,
        "host": {"name": system.node, "kernel": system.release, "machine": system.machine, "boot_id": _boot_id()},
        "pinfold": question["pinfold"],
        "began_ns": began_ns,
        "ended_ns": time.time_ns(),
        "limits": LIMITS | {name: question[name] for name in ("total_bytes", "file_bytes", "seconds")},
        "members": members,
    }
    put(record, "path", b64decode(question["path"]))
    return record


def summary(counts: dict[str, int], notes: Notes) -> str:
    """A line for the operator."""
    ones = {"processes": "process", "sockets": "socket", "files": "file"}
    text = ", ".join(f"{counts[many]} {one if counts[many] == 1 else many}" for many, one in ones.items())
    text += f" ({counts['file_bytes']} bytes)"
    if notes.lines:
        more = f" and {len(notes.lines) - 1} more, see its manifest" if len(notes.lines) > 1 else ""
        text += f"; missing: {notes.lines[0]}{more}"
    return text


def finish(question: Record, lines: list[Any], why: str, progress: Progress) -> None:
    """Makes an archive of what a collection left that was killed: into a file of its own, since the other may still
    be held by a process that hangs.

    :raises RefusedError, OSError: there is no archive.
    """
    members = [line["member"] for line in lines if "member" in line]
    if not members:
        raise archive.RefusedError(f"nothing was collected: {why}")
    notes = Notes()
    notes.lost(why)
    for line in lines:
        if "note" in line:
            notes.lost(line["note"])
    folder = archive.open_folder(question["folder"])
    name = question["quarantine_id"] + SUFFIX
    archive.exists(folder, name)
    left = os.open(question["left"], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    fd = archive.create(folder, question["temporary"])
    end = max(line["end"] for line in lines if "end" in line)
    at = 0
    while at < end:
        at += os.write(fd, os.pread(left, min(1 << 20, end - at), at))
    began_ns = os.fstat(left).st_ctime_ns
    Writer(fd, end=end).finish(describe(question, notes, members, began_ns))
    size = archive.publish(folder, fd, question["temporary"], name)
    os.unlink(question["left"], dir_fd=folder)
    files = [member for member in members if member["name"].startswith("files/")]
    detail = f"partial, {len(members)} members, {len(files)} files; missing: {why}"
    progress.tell(archive=name, bytes=size, ok=False, detail=detail)


def _boot_id() -> str:
    return (try_read("/proc/sys/kernel/random/boot_id", 64) or b"").decode().strip()


def parsed(text: bytes) -> list[Any]:
    """Whole lines of a progress."""
    return [json.loads(line) for line in text.split(b"\n")[:-1]]
