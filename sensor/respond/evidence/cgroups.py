"""The cgroup and those nested in it: members, and what the controllers count. Of the child.

Where a hybrid host has the controllers in v1 hierarchies, their counterparts are read by a process's own cgroups.
"""

from __future__ import annotations

import os
from collections import deque

from sensor.respond.evidence.bounded import LIMITS, Notes, Record, put, read, try_read

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_V2 = (
    *("cgroup.type", "cgroup.controllers", "cgroup.events", "cgroup.stat", "cgroup.freeze", "cpu.stat", "cpu.max"),
    *("memory.current", "memory.peak", "memory.max", "memory.events", "memory.stat", "memory.swap.current"),
    *("pids.current", "pids.max", "pids.events", "io.stat", "io.max", "cpuset.cpus.effective"),
)
_V1 = {
    "memory": ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.stat"),
    "cpuacct": ("cpuacct.usage", "cpuacct.stat"),
    "cpu": ("cpu.stat", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "pids": ("pids.current", "pids.max"),
    "blkio": ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
    "devices": ("devices.list",),
    "freezer": ("freezer.state",),
}
_PROCS_BYTES = 1 << 19
_V1_PATHS = 64


class Cgroups:
    """`processes`: tgids in the tree, each once, in the order found. `ids`: of it and of all below."""

    def __init__(self, notes: Notes) -> None:
        self.processes: dict[int, None] = {}
        self.ids: set[int] = set()
        self.records: list[Record] = []
        self._notes = notes
        self._bytes = 0

    def walk(self, mount: bytes, path: bytes, cgroup_id: int) -> None:
        try:
            top = os.open(mount.rstrip(b"/") + path, _DIRECTORY)
        except OSError:
            self._notes.lost("the cgroup is gone: of its processes only those are described that were known outside it")
            return
        try:
            if os.fstat(top).st_ino != cgroup_id:
                self._notes.lost("another cgroup has its name: it is gone, and what is there now was left alone")
                return
            self._walk(top)
        finally:
            os.close(top)

    def _walk(self, top: int) -> None:
        queue: deque[bytes] = deque([b""])
        while queue:
            if len(self.records) >= LIMITS["cgroups"]:
                self._notes.cut(f"cgroups beyond {LIMITS['cgroups']} were not looked at, nor the processes in them")
                return
            below = queue.popleft()
            try:
                fd = os.open(b"./" + below, _DIRECTORY, dir_fd=top)
            except OSError:
                continue  # removed meanwhile, hence empty; or deeper than a path can say
            try:
                self._one(fd, below)
                with os.scandir(fd) as entries:
                    names = [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
                queue.extend(below + name + b"/" for name in names)
            except OSError:
                continue
            finally:
                os.close(fd)

    def _one(self, fd: int, below: bytes) -> None:
        record: Record = {"id": os.fstat(fd).st_ino}
        self.ids.add(record["id"])
        put(record, "below", below.rstrip(b"/"))
        members = _members(fd)
        record["processes"] = len(members)
        for tgid in members:
            self.processes[tgid] = None
        self.processes.pop(0, None)  # in none of our pid namespaces
        record["files"] = self._files(_V2, fd)
        self.records.append(record)

    def _files(self, names: tuple[str, ...], fd: int) -> Record:
        found: Record = {}
        for name in names:
            if self._bytes >= LIMITS["cgroup_bytes"]:
                self._notes.cut("statistics of cgroups were cut: too many bytes of them")
                break
            content = try_read(name, LIMITS["cgroup_file_bytes"], fd)
            if content is not None:
                put(found, name, content, LIMITS["cgroup_file_bytes"])
                self._bytes += len(content)
        return found

    def older(self, memberships: list[bytes]) -> list[Record]:
        """v1's, by /proc/TGID/cgroup of the processes. A root is the host's own, and left out."""
        mounts = _v1_mounts()
        wanted: dict[tuple[str, bytes], None] = {}
        for text in memberships:
            for line in text.splitlines():
                _, _, rest = line.partition(b":")
                controllers, _, path = rest.partition(b":")
                for controller in controllers.decode(errors="replace").split(","):
                    if controller in _V1 and controller in mounts and path.strip(b"/"):
                        wanted[controller, path] = None
        return [record for each in list(wanted)[:_V1_PATHS] if (record := self._older(mounts, *each)) is not None]

    def _older(self, mounts: dict[str, bytes], controller: str, path: bytes) -> Record | None:
        try:
            fd = os.open(mounts[controller] + path, _DIRECTORY)
        except OSError:
            return None
        try:
            record: Record = {"controller": controller, "files": self._files(_V1[controller], fd)}
            put(record, "path", path)
            return record
        finally:
            os.close(fd)


def _members(fd: int) -> list[int]:
    try:
        return list(map(int, read("cgroup.procs", _PROCS_BYTES, fd).split()))
    except OSError:
        pass
    # EOPNOTSUPP: a threaded cgroup lists threads only.
    tids = (try_read("cgroup.threads", _PROCS_BYTES, fd) or b"").split()
    status = (try_read(b"/proc/" + tid + b"/status", 4096) or b"" for tid in tids)
    tgids = (text.partition(b"\nTgid:")[2].split(None, 1)[:1] for text in status)
    return list(dict.fromkeys(int(found[0]) for found in tgids if found))


def _v1_mounts() -> dict[str, bytes]:
    """Controller → mount point, of ours."""
    found: dict[str, bytes] = {}
    for line in (try_read("/proc/self/mounts", 1 << 20) or b"").splitlines():
        fields = line.split(b" ")
        if len(fields) > 3 and fields[2] == b"cgroup":
            for option in fields[3].decode(errors="replace").split(","):
                if option in _V1:
                    found.setdefault(option, fields[1])
    return found
