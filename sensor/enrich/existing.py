"""What was there before the sensor: processes of given sandboxes, their flows and listeners, and the
devices they hold open. Each becomes an activity like the kernel's, marked Existing.

A process may be gone, or its tgid another's, between any two reads: its start time is read first and
last, and what changed in between is left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct

from sensor.enrich import procfs
from sensor.enrich.addresses import Addresses
from sensor.enrich.devices import Classifier, class_name, device_table
from sensor.enrich.fields import Common, common
from sensor.enrich.processes import EntryProgram, Process, ProcessTable, guid_of
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.enrich.sockets import Endpoint, SocketEntry, namespace_sockets, socket_inode
from sensor.enrich.text import Raw, command_line, replaced
from sensor.enrich.users import Users
from sensor.events.activity import AnyActivity, DeviceAccess, NetworkConnection, ProcessCreation
from sensor.events.layouts import Device

ACTIVITIES_MAX = 65536  # flows and devices; processes have their own bound

When = tuple[int, int, int, int]  # ring generation, first position, UTC ns, CLOCK_MONOTONIC ns


class Existing(Struct, gc=False):
    """`processes`: (tgid, start_ns in whole clock ticks, sandbox_id), for the kernel's process map."""

    activities: list[AnyActivity]
    processes: list[tuple[int, int, int]]
    counters: Counter[str]


class _Found(Struct, gc=False):
    stat: procfs.Stat
    links: procfs.Links
    cgroup_id: int
    sandbox: Sandbox
    argv: bytes = b""


class ExistingScan:
    def __init__(self, table: ProcessTable, users: Users, addresses: Addresses, mount: str, limit: int) -> None:
        self._table = table
        self._users = users
        self._addresses = addresses
        self._mount = mount
        self._limit = limit
        self._counters: Counter[str] = Counter()
        self._activities: list[AnyActivity] = []
        self._when: When = (0, 0, 0, 0)

    def run(self, sandboxes: Sequence[Sandbox], when: When) -> Existing:
        self._when = when
        found = self._processes(sandboxes)
        known = [(one, self._note(one)) for one in found]
        for one, process in known:
            self._activities.append(self._creation(one, process))
        self._descriptors(known)
        ids = [(one.stat.tgid, one.stat.start_ns, one.sandbox.id) for one in found]
        return Existing(self._activities, ids, self._counters)

    def _processes(self, sandboxes: Sequence[Sandbox]) -> list[_Found]:
        """Parents before their children."""
        found: dict[int, _Found] = {}
        for sandbox in sandboxes:
            members, whole = procfs.members(f"{self._mount}/{sandbox.path}", self._limit - len(found))
            self._counters["existing_cut"] += not whole
            for tgid, cgroup_id in members:
                status = procfs.read_stat(tgid)
                links = procfs.read_links(tgid)
                if status is None or links is None or status.zombie:
                    self._counters["existing_gone"] += 1
                    continue
                found[tgid] = _Found(status, links, cgroup_id, sandbox)
        lines, late = procfs.command_lines(list(found))
        self._counters["existing_lines_late"] += late
        for tgid, one in list(found.items()):
            one.argv = lines.get(tgid, b"")
            if not procfs.is_same(tgid, one.stat.start_ns):
                self._counters["existing_gone"] += 1
                del found[tgid]
        # Equal ticks are common; a tgid below its parent's only after a wrap.
        return sorted(found.values(), key=lambda one: (one.stat.start_ns, one.stat.tgid))

    def _note(self, one: _Found) -> Process:
        """Its entry in the process table."""
        tgid, start_ns, sandbox_id = one.stat.tgid, one.stat.start_ns, one.sandbox.id
        parent = self._table.get(one.stat.parent_tgid)
        inside = parent is not None and parent.sandbox_id == sandbox_id
        raw: Raw = None
        image, raw = _text(one.links.image, "Image", raw)
        cwd, raw = _text(one.links.cwd, "CurrentDirectory", raw)
        line, raw = command_line(one.argv[: procfs.ARGV_MAX_BYTES], raw)
        entry = parent.entry if inside and parent is not None else EntryProgram(tgid, start_ns, image, line, True)
        process = Process(
            tgid,
            start_ns,
            0,
            sandbox_id,
            one.cgroup_id,
            one.stat.parent_tgid,
            parent if inside else None,
            entry,
            guid=guid_of(tgid, start_ns),
            image=image,
            command_line=line,
            cwd=cwd,
            user=self._users.name(one.links.uid),
            raw=raw,
            executed_inside=_executed_inside(one, parent if inside else None, image),
        )
        kept = self._table.found(process)
        if kept is process:
            self._table.weigh(process, len(one.argv) + len(one.links.image) + len(one.links.cwd))
        return kept

    def _creation(self, one: _Found, process: Process) -> ProcessCreation:
        return ProcessCreation(
            *self._base(one, process),
            one.argv[: procfs.ARGV_MAX_BYTES],
            process.image,
            one.links.uid,
            one.links.euid,
            0,
            0,
            0,
            one.links.deleted,
            one.links.image.startswith(b"/memfd:"),
            False,
            False,
            False,
            len(one.argv) > procfs.ARGV_MAX_BYTES,
            0,
            one.links.mount_namespace,
            one.links.net_namespace,
            0,
            False,
            "",
            *procfs.standard_streams(process.tgid),
        )

    def _descriptors(self, known: Sequence[tuple[_Found, Process]]) -> None:
        """Sockets and devices. A socket that several processes hold is each one's."""
        classify = Classifier(device_table(procfs.text("/proc/devices"), procfs.text("/proc/misc"))).classify
        namespaces: dict[int, dict[int, SocketEntry]] = {}
        for one, process in known:
            namespace = one.links.net_namespace
            if namespace not in namespaces:
                namespaces[namespace] = namespace_sockets(process.tgid)
            told: set[object] = set()
            for fd, link in procfs.descriptors(process.tgid):
                if len(self._activities) >= ACTIVITIES_MAX + len(known):
                    self._counters["existing_overflow"] += 1
                    return
                inode = socket_inode(link)
                entry = namespaces[namespace].get(inode) if inode is not None else None
                if entry is not None and inode not in told:
                    told.add(inode)
                    self._activities.append(self._flow(one, process, entry))
                if inode is None:
                    self._device(one, process, fd, told, classify)

    def _flow(self, one: _Found, process: Process, entry: SocketEntry) -> NetworkConnection:
        """An accepted connection goes from the peer to here, as Initiated False says."""
        inbound = entry.accepted or entry.listening
        source, destination = (entry.remote, entry.local) if inbound else (entry.local, entry.remote)
        if entry.listening:
            source = Endpoint(entry.local.family, bytes(16), 0)
        to = self._addresses.get(destination.family, destination.packed)
        start = self._addresses.get(source.family, source.packed)
        now = self._when[3]
        return NetworkConnection(
            *self._base(one, process),
            entry.protocol,
            not inbound,
            to.text,
            destination.port,
            to.is_ipv6,
            "",
            "",
            to.is_loopback,
            to.is_private,
            "" if entry.listening else start.text,
            source.port,
            "allowed",
            1,
            now,
            now,
            False,
            0,
            process.tgid,
        )

    def _device(
        self,
        one: _Found,
        process: Process,
        fd: int,
        told: set[object],
        classify: Callable[[int, int, int], Device],
    ) -> None:
        number = procfs.device_number(process.tgid, fd)
        if number is None or number in told:
            return
        told.add(number)
        kind, major, minor = number
        device = classify(kind, major, minor)
        if device is Device.ORDINARY:
            return
        mode = procfs.open_mode(process.tgid, fd) & os.O_ACCMODE
        access = {os.O_RDONLY: "read", os.O_WRONLY: "write"}.get(mode, "read,write")
        now = self._when[3]
        name = class_name(device)
        self._activities.append(
            DeviceAccess(
                *self._base(one, process),
                name,
                "block" if kind == 1 else "char",
                major,
                minor,
                access,
                name in one.sandbox.granted or number in one.sandbox.single,
                one.sandbox.gpu_granted,
                "allowed",
                "unknown",
                1,
                now,
                now,
                False,
            )
        )

    def _base(self, one: _Found, process: Process) -> Common:
        generation, position, utc_ns, monotonic_ns = self._when
        sandbox = one.sandbox
        where = (
            generation,
            position + len(self._activities),
            utc_ns,
            monotonic_ns,
            sandbox.id,
            sandbox.name,
            sandbox.class_,
            one.cgroup_id,
            process.tgid,
        )
        return common(where, process, process.user, existing=True)


def _executed_inside(one: _Found, parent: Process | None, image: str) -> bool:
    """Whether what it runs was executed in the sandbox, as far as can be told afterwards: it was forked
    there and is not its parent's program, or it has a root of its own, which only a container's has."""
    if one.links.mount_namespace != procfs.own_mount_namespace():
        return True
    return parent is not None and (image != parent.image or parent.executed_inside)


def _text(content: bytes, field: str, raw: Raw) -> tuple[str, Raw]:
    try:
        return content.decode(), raw
    except UnicodeDecodeError:
        return replaced(content, field, raw)
