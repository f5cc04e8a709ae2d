"""What the kernel itself says of a process, without asking its memory or any file of its own. Of the child.

A process is held by a descriptor of its folder in /proc: a later process of the number is never read for it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource

from sensor.respond.evidence.bounded import LIMITS, Notes, Record, link, put, try_read

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_STATUS = frozenset(
    [
        *("Uid", "Gid", "Groups", "NStgid", "NSpid", "TracerPid", "Umask", "VmRSS", "VmHWM"),
        *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"),
    ]
)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_SPARE_DESCRIPTORS = 128
_KCMP_FILES = 2
_KCMP = {"x86_64": 312, "aarch64": 272}.get(platform.machine())  # include/uapi/asm-generic/unistd.h
_libc = ctypes.CDLL(None, use_errno=True)
Descriptor = tuple[str, bytes]  # where it can be opened, what it is


class Process:
    """`base`: its folder, or one of a thread's where the leader left by pthread_exit and shows nothing any more."""

    def __init__(self, tgid: int, folder: int, base: int, stat: list[bytes], record: Record) -> None:
        self.tgid = tgid
        self.folder = folder
        self.base = base
        self.record = record
        self.start_ticks = int(stat[19])
        self.argv_bytes = _argv_bytes(stat if base == folder else _fields(try_read("stat", 4096, base) or b""))
        self.descriptors: list[Descriptor] = []
        self.cgroup = b""
        self.exe = b""
        self.net = 0

    @property
    def path(self) -> str:
        """Of its base, for reads that follow a link of the kernel's."""
        return f"/proc/self/fd/{self.base}"


class Scan:
    """`processes`, oldest first once all are in."""

    def __init__(self, notes: Notes) -> None:
        self.processes: list[Process] = []
        self.left_out = 0
        self._notes = notes
        self._descriptors = 0
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        many = 2 * LIMITS["processes"] + _SPARE_DESCRIPTORS
        able = many if hard == resource.RLIM_INFINITY else min(hard, many)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, able), hard))
        self._most = min(LIMITS["processes"], (max(soft, able) - _SPARE_DESCRIPTORS) // 2)

    def add(self, tgid: int, start_ticks: int | None, below: bytes | None) -> None:
        """The one that started then, or the one that is in this cgroup or below."""
        if len(self.processes) >= self._most:
            self.left_out += 1
            return
        try:
            folder = os.open(f"/proc/{tgid}", _FOLDER)
        except OSError:
            return
        process = None
        try:
            process = self._described(tgid, folder, start_ticks, below)
        finally:
            if process is None:
                os.close(folder)
        if process is not None:
            self.processes.append(process)

    def _described(self, tgid: int, folder: int, start_ticks: int | None, below: bytes | None) -> Process | None:
        text = try_read("stat", 4096, folder)
        cgroup = try_read("cgroup", 1 << 16, folder)
        if text is None or cgroup is None:
            return None
        stat = _fields(text)
        if len(stat) < 20 or (start_ticks is not None and int(stat[19]) != start_ticks):
            return None
        if below is not None and not _within(cgroup, below):
            return None
        record: Record = {"tgid": tgid, "parent": int(stat[1]), "start_ticks": int(stat[19])}
        tids = _tids(folder)
        process = Process(tgid, folder, _base(folder, tgid, stat[0], tids), stat, record)
        process.cgroup = cgroup
        put(record, "comm", text[text.find(b"(") + 1 : text.rfind(b")")])
        record |= {"state": stat[0].decode(), "group": int(stat[2]), "session": int(stat[3])}
        record |= {"user_ticks": int(stat[11]), "system_ticks": int(stat[12]), "threads": int(stat[17])}
        if len(tids) > 1:
            record["tids"] = tids[: LIMITS["threads"]]
        self._facts(process)
        self._open_files(process, tids)
        return process

    def _facts(self, process: Process) -> None:
        record, base = process.record, process.base
        put(record, "cgroup", process.cgroup)
        record["status"] = _status(try_read("status", 8192, base) or b"")
        process.exe = link("exe", base) or b""
        put(record, "exe", process.exe)
        record["exe_deleted"] = process.exe.endswith(b" (deleted)")
        put(record, "cwd", link("cwd", base))
        put(record, "root", link("root", base))
        found = {name: _inode(link(f"ns/{name}", base)) for name in _NAMESPACES}
        record["namespaces"] = {name: inode for name, inode in found.items() if inode}
        process.net = found["net"]
        for name in ("oom_score", "oom_score_adj"):
            put(record, name, (try_read(name, 32, base) or b"").strip())
        lines = (try_read("limits", 4096, base) or b"").decode(errors="replace").splitlines()[1:]
        record["limits"] = {line[:26].strip(): line[26:].split() for line in lines}

    def _open_files(self, process: Process, tids: list[int]) -> None:
        found, rest = self._descriptors_of(process.base, "")
        process.record["descriptors"] = found
        process.descriptors = [(f"{process.path}/fd/{each['fd']}", each.pop("raw")) for each in found]
        if rest:
            process.record["descriptors_left_out"] = rest
        apart = []
        for tid in tids[1 : LIMITS["threads"]]:
            if _own_files(process.tgid, tid):
                below = f"task/{tid}/"
                more, _ = self._descriptors_of(process.folder, below)
                at = f"/proc/self/fd/{process.folder}/{below}fd/"
                process.descriptors += [(f"{at}{each['fd']}", each.pop("raw")) for each in more]
                apart.append({"tid": tid, "descriptors": more})
        if apart:
            process.record["threads_with_files_apart"] = apart

    def _descriptors_of(self, base: int, below: str) -> tuple[list[Record], int]:
        try:
            folder = os.open(below + "fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
        except OSError:
            return [], 0
        try:
            numbers = sorted(map(int, os.listdir(folder)))
            room = min(LIMITS["descriptors"], LIMITS["descriptors_all"] - self._descriptors)
            found = [_descriptor(base, below, folder, number) for number in numbers[:room]]
        except OSError:
            return [], 0
        finally:
            os.close(folder)
        self._descriptors += len(found)
        if len(numbers) > room:
            self._notes.cut("of a process with many descriptors only the first are described")
        return [each for each in found if each is not None], max(len(numbers) - room, 0)


def _descriptor(base: int, below: str, folder: int, number: int) -> Record | None:
    target = link(str(number), folder)
    if target is None:
        return None
    record: Record = {"fd": number, "raw": target}
    put(record, "target", target)
    # What an epoll's fdinfo tells is under a lock that is held while events are copied to memory of the sandbox.
    if not target.startswith(b"anon_inode:"):
        for line in (try_read(f"{below}fdinfo/{number}", 512, base) or b"").split(b"\n", 4)[:4]:
            name, _, value = line.partition(b":\t")
            if name in {b"pos", b"flags", b"mnt_id", b"ino"}:
                record[name.decode()] = value.decode(errors="replace")
    return record


def _fields(stat: bytes) -> list[bytes]:
    """The comm in parentheses may hold parentheses and spaces: only the last one closes it."""
    return stat[stat.rfind(b")") + 2 :].split()


def _argv_bytes(stat: list[bytes]) -> int:
    """Both ends are 0 where there is no memory, or no permission to read it."""
    return max(int(stat[46]) - int(stat[45]), 0) if len(stat) > 46 else 0


def _within(cgroup: bytes, path: bytes) -> bool:
    """A cgroup's name holds no newline, so that a line that begins with `0::` is the kernel's own."""
    at = 0 if cgroup.startswith(b"0::") else cgroup.find(b"\n0::") + 1
    if not cgroup.startswith(b"0::", at):
        return False
    own = cgroup[at + 3 :].split(b"\n", 1)[0]
    return own == path or own.startswith(path.rstrip(b"/") + b"/")


def _tids(folder: int) -> list[int]:
    try:
        fd = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return []
    try:
        return sorted(map(int, os.listdir(fd)))
    except OSError:
        return []
    finally:
        os.close(fd)


def _base(folder: int, tgid: int, state: bytes, tids: list[int]) -> int:
    if state == b"Z":
        for tid in tids:
            if tid != tgid:
                try:
                    return os.open(f"task/{tid}", _FOLDER, dir_fd=folder)
                except OSError:
                    continue
    return folder


def _status(text: bytes) -> Record:
    lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value.strip() for name, _, value in lines if name in _STATUS}


def _inode(target: bytes | None) -> int:
    """Of `net:[4026531840]`."""
    number = (target or b"").partition(b"[")[2].rstrip(b"]")
    return int(number) if number.isdigit() else 0


def _own_files(tgid: int, tid: int) -> bool:
    """Whether a thread took its descriptors apart (unshare(CLONE_FILES)), where a look at its process misses them."""
    if _KCMP is None:
        return False
    return int(_libc.syscall(_KCMP, tgid, tid, _KCMP_FILES, 0, 0)) > 0
