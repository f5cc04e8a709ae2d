"""Records in, activities out. No record, however malformed, raises: what is unknown is counted, and
what a process was is taken from the table, never from /proc, which by now may speak of another."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from sensor.config import Config
from sensor.enrich.actions import Actions
from sensor.enrich.addresses import Addresses
from sensor.enrich.calls import Calls
from sensor.enrich.clock import Clock, SystemClock, Timeline
from sensor.enrich.dnsevents import DnsSettings, DnsTracker
from sensor.enrich.escapes import Escapes
from sensor.enrich.existing import Existing, ExistingScan
from sensor.enrich.flows import FlowActivity, Flows
from sensor.enrich.names import Names
from sensor.enrich.outside import Outside
from sensor.enrich.processes import SHORT_BYTES, Process, ProcessTable, shortened
from sensor.enrich.sandboxes.attributes import AttributeStore
from sensor.enrich.sandboxes.named import HostFiles
from sensor.enrich.sandboxes.registry import Registry, Sandbox
from sensor.enrich.streams import STREAMS
from sensor.enrich.text import Paths, Raw, command_line, marked_cut, replaced
from sensor.enrich.users import Users
from sensor.events import layouts
from sensor.events.activity import AnyActivity, ProcessCreation, SandboxChange
from sensor.events.layouts import (
    Cgroup,
    Connect,
    ConnectUnix,
    DeviceAttempt,
    Exec,
    ExecDenied,
    Exit,
    File,
    Flag,
    Fork,
    Move,
    Split,
    Type,
)

ENTRY_LINE_MAX = 1024
_REASONS = ("", *(reason.name.lower() for reason in sorted(ExecDenied) if reason))
DENIED = _REASONS + ("unknown",) * (256 - len(_REASONS))  # for each value of the byte that tells it
FILES_KEPT = 4096  # programs by device and inode, so that processes of one program share the pair
# class_id of a birth or death that is not a tracked sandbox's (probes/include/common.h)
FileId = tuple[int, int]
WATCHED = 0xFFFFFFFF
UNTRACKED = 0xFFFFFFFE

_KILLED = int(Flag.KILLED)
_PATHS_CUT = int(File.IMAGE_CUT | File.CWD_CUT)
_IMAGE_CUT = int(File.IMAGE_CUT)
_CWD_CUT = int(File.CWD_CUT)
_SHORT_RECORD = SHORT_BYTES  # its texts are shorter than the whole


def _file_facts(flags: int) -> tuple[bool, bool, bool, bool, bool, bool]:
    wanted = (File.DELETED, File.MEMFD, File.TMPFS, File.WRITABLE, File.SETID, File.ARGV_CUT)
    deleted, memfd, tmpfs, writable, setid, cut = (bool(flags & bit) for bit in wanted)
    return deleted, memfd, tmpfs, writable, setid, cut


# Every combination of the nine flags, made once: an exec looks its six booleans up.
_FILE_FACTS = tuple(_file_facts(flags) for flags in range(512))

Result = AnyActivity | SandboxChange | None


class Enricher:
    """Keeps the processes and sandboxes of this host. `apply` for each record, in ring order;
    `handlers` are what it calls, by kind of record.

    `files` and `clock` are for tests; `cgroup_mount` is where cgroup2 is mounted."""

    def __init__(
        self, config: Config, cgroup_mount: str, clock: Clock | None = None, files: HostFiles | None = None
    ) -> None:
        self.sandboxes = Registry(config, cgroup_mount, files, AttributeStore(config.paths.state))
        self.processes = ProcessTable(config.limits.processes)
        self.users = Users()
        self._mount = cgroup_mount.rstrip("/")
        self._limit = config.limits.processes
        self.timeline = Timeline(clock or SystemClock(), self.tick)
        self.names = Names()
        self.addresses = Addresses()
        self._actions = Actions(self.sandboxes, self.processes, self.users, self.timeline, self.addresses, self.names)
        self.escapes = Escapes(self.sandboxes, self.processes, self.users, self.timeline)
        self.outside = Outside()
        self._calls = Calls(self.sandboxes, self.processes, self.users, self.timeline, self.outside)
        self.dns = DnsTracker(_dns_settings(config), self.names)
        self.flows = Flows(
            self.sandboxes,
            self.processes,
            self.timeline,
            self.addresses,
            self.names,
            self.dns,
            config.flows.table,
        )
        self._counters: Counter[str] = Counter()
        self._paths = Paths()
        # Bound once: an exec must cost few look-ups.
        self._find_paths = self._paths.find
        self._by_id = self.sandboxes.by_id
        self._files: dict[FileId, FileId] = {}
        self._current = self.processes.current
        self._user_names = self.users.known
        self._flow_handlers: dict[type[Struct], Callable[[Any, int, int], Iterable[FlowActivity]]] = {
            layouts.Flow: self.flows.flow,
            layouts.Payload: self.flows.payload,
            layouts.Listen: self.flows.listen,
        }
        self.handlers: dict[type[Struct], Callable[[Any, int, int], Result]] = {
            Exec: self._exec,
            Fork: self._fork,
            Exit: self._actions.exit,
            Cgroup: self._cgroup,
            Move: self._move,
            Connect: self._actions.connect,
            ConnectUnix: self._actions.connect_unix,
            DeviceAttempt: self._actions.device,
            layouts.SensorAccess: self.escapes.access,
            layouts.SystemCall: self._calls.call,
        }
        # By type of record: what a layouts.Split goes to.
        self.of_split: dict[int, Callable[[Split, int, int], AnyActivity]] = {
            Type.EXEC: self._executed,
            Type.CONNECT: self._actions.connected,
            Type.CONNECT_UNIX: self._actions.connected_unix,
        }

    def apply(self, record: Struct, generation: int, position: int) -> Result:
        """What a record of sensor/events/layouts.py means. None where it only changes state."""
        handler = self.handlers.get(type(record))
        if handler is None:
            self._counters["records_unknown"] += 1
            return None
        return handler(record, generation, position)

    def apply_flow(self, record: Struct, generation: int, position: int) -> Iterable[FlowActivity]:
        """The same for a record of a flow, which may mean several things, or nothing yet."""
        return self._flow_handlers[type(record)](record, generation, position)

    def discover(self, generation: int, position: int) -> list[SandboxChange]:
        """The sandboxes that exist and were not known: at start, or after a reload of the
        configuration. Ids count up from `position`; they are not a ring's, so give a generation that is
        no ring's either, lest a replay take one for a record's."""
        utc_ns, monotonic_ns = self.timeline.now()
        return [
            self._change("found", sandbox, (generation, position + index, utc_ns, monotonic_ns), sandbox.id, 0)
            for index, sandbox in enumerate(self.sandboxes.scan())
        ]

    def scan(self, existing: Iterable[Sandbox], generation: int, position: int) -> Existing:
        """What is in these sandboxes already: processes, flows, listeners, open devices."""
        utc_ns, monotonic_ns = self.timeline.now()
        scan = ExistingScan(self.processes, self.users, self.addresses, self._mount, self._limit)
        found = scan.run(list(existing), (generation, position, utc_ns, monotonic_ns))
        self._counters.update(found.counters)
        return found

    def tick(self) -> None:
        """Everything that is not any event's business; called every few seconds of record time, and by
        the daemon where no records come."""
        self.users.refresh()
        self.sandboxes.retry_names()
        for sandbox_id in self.sandboxes.forgotten():
            self.processes.forget(sandbox_id)
            self.flows.forget(sandbox_id)

    def utc(self, monotonic_ns: int) -> int:
        """UTC of a record's time."""
        return self.timeline.utc(monotonic_ns)

    @property
    def counters(self) -> Counter[str]:
        """What could not be known or kept, by reason."""
        impossible = Counter({"times_impossible": self.timeline.impossible})
        network = self.flows.counters + self.dns.counters
        return self._counters + self.sandboxes.counters + self.processes.counters + network + impossible

    # Processes.

    def _exec(self, r: Exec, generation: int, position: int) -> ProcessCreation:
        paths = r.filename + r.image_path + r.cwd_path
        split = (layouts.SPLIT_MEMBERS[Type.EXEC](r), r.argv, paths, len(r.filename), len(r.image_path))
        return self._executed(split, generation, position)

    def _executed(self, split: Split, generation: int, position: int) -> ProcessCreation:  # noqa: PLR0912, PLR0915
        """All in one: nothing runs more often, and each call would cost it a hundredth."""
        members, argv, paths, filename_length, image_length = split
        (
            _, flags, size, t, sandbox_id, cgroup_id, tgid, exec_id, start_ns, parent_start_ns, inode,
            parent_tgid, uid, euid, device, file_flags, pid_ns, mnt_ns, net_ns, user_ns,
            stdin_inode, stdout_inode, stderr_inode, changed, stdin, stdout, stderr, denied,
        ) = members  # fmt: skip
        time = self.timeline
        utc = t + time.offset if time.start <= t < time.end else time.utc(t)
        sandbox = self._by_id.get(sandbox_id) or self.sandboxes.get(sandbox_id)
        process = self._current.get(tgid)
        if process is None or process.start_ns != start_ns:
            ids = (tgid, start_ns, exec_id, sandbox_id, cgroup_id, parent_tgid)
            process = self.processes.at_exec(ids, parent_start_ns)
        raw: Raw = None
        texts = self._find_paths((paths, filename_length, image_length))
        if texts is None:
            invoked, image, cwd, raw, added = self._paths.read(paths, filename_length, image_length)
        else:
            invoked, image, cwd = texts
            added = None
        if file_flags & _PATHS_CUT:
            image = marked_cut(image) if file_flags & _IMAGE_CUT else image
            cwd = marked_cut(cwd) if file_flags & _CWD_CUT else cwd
        try:  # as `command_line`, which takes what is not UTF-8
            line = argv.removesuffix(b"\0").replace(b"\0", b" ").decode()
        except UnicodeDecodeError:
            line, raw = command_line(argv, raw)
        user = self._user_names.get(uid) or self.users.name(uid)

        # The program that it runs now, and for late repeats the one before.
        if process.image:
            if process.long_bytes:
                line_before = shortened(process.command_line)
                process.before = (process.exec_id, process.image, line_before, None, process.brought_along)
            else:
                process.before = (
                    process.exec_id, process.image, process.command_line, process.raw, process.brought_along,
                )  # fmt: skip
        process.exec_id = exec_id
        process.cgroup_id = cgroup_id
        process.image = image
        process.image_file = self._files.get((device, inode)) or self._file(device, inode)
        process.command_line = line
        # Mostly what it has of its parent; to look costs a third of storing it.
        if process.cwd is not cwd:
            process.cwd = cwd
        if process.user is not user:
            process.user = user
        if process.raw is not raw:
            process.raw = raw
        if not process.executed_inside:
            process.executed_inside = True
            process.brought_along = False
        if size > _SHORT_RECORD or process.long_bytes:
            self.processes.weigh(process, len(argv) + len(paths) - filename_length)
        guid = process.guid
        if not guid:
            guid = process.guid = f"{tgid}-{start_ns}"  # as guid_of
        entry = process.entry
        if not entry.settled and entry.tgid == tgid:
            entry.settled = True
            entry.image = image
            entry.command_line = line[:ENTRY_LINE_MAX]

        if added:  # the process keeps its own
            raw = {**(raw or {}), **added}
        parent = process.parent
        if parent is None:
            parent_tgid, parent_image, parent_line = self._parent_outside(process, parent_tgid, parent_start_ns)
        else:
            parent_tgid, parent_image, parent_line = parent.tgid, parent.image, parent.command_line
        deleted, memfd, tmpfs, writable, setid, cut = _FILE_FACTS[file_flags & 511]
        return ProcessCreation(
            generation, position, utc, t, sandbox_id, sandbox.name, sandbox.class_, cgroup_id, tgid, guid,
            image, line, cwd, user, parent_tgid, parent_image, parent_line, entry.image, entry.command_line, False, raw,
            argv, invoked, uid, euid, device, inode, changed, deleted, memfd, tmpfs, writable, setid, cut,
            pid_ns, mnt_ns, net_ns, user_ns, flags & _KILLED != 0, DENIED[denied],
            STREAMS[stdin],
            STREAMS[stdout],
            STREAMS[stderr],
            stdin_inode, stdout_inode, stderr_inode,
        )  # fmt: skip

    def _file(self, device: int, inode: int) -> FileId:
        if len(self._files) >= FILES_KEPT:
            self._files.clear()
        file = self._files[device, inode] = device, inode
        return file

    def _parent_outside(self, process: Process, tgid: int, start_ns: int) -> tuple[int, str, str]:
        if not process.parent_tgid:
            process.parent_tgid = tgid
        if not process.parent_image and process.parent_tgid == tgid:
            process.parent_image = self.outside.image(tgid, start_ns)
        return process.parent_tgid, process.parent_image, ""

    def _fork(self, r: Fork, _generation: int, _position: int) -> None:
        child = self.processes.forked(r)
        if child is not None and child.parent is None and not r.parent_sandbox_id:
            child.image = child.parent_image = self.outside.image(r.parent_tgid, r.parent_start_ns)
            child.entry.image = child.image

    # Sandboxes.

    def _cgroup(self, r: Cgroup, generation: int, position: int) -> SandboxChange | None:
        if r.class_id == WATCHED or (r.sandbox_id and r.sandbox_id != r.cgroup_id):
            return None
        if r.class_id == UNTRACKED:
            self._counters["births_untracked"] += 1
        born = r.type == Type.CGROUP_BIRTH
        if born:
            path = os.fsdecode(r.path.split(b"\0", 1)[0])
            sandbox = self.sandboxes.born(r.cgroup_id, path, r.time_ns)
        else:
            sandbox = self.sandboxes.ended(r.cgroup_id, r.time_ns)
        if sandbox is None:
            return None
        when = (generation, position, self.timeline.utc(r.time_ns), r.time_ns)
        return self._change("born" if born else "ended", sandbox, when, r.cgroup_id, r.tgid)

    def _move(self, r: Move, generation: int, position: int) -> SandboxChange:
        process = self.processes.moved(r)
        if not r.previous_sandbox_id and not process.image and not process.parent_tgid:
            self._brought_along(process)
        left = bool(r.previous_sandbox_id) and r.destination_sandbox_id != r.sandbox_id
        when = (generation, position, self.timeline.utc(r.time_ns), r.time_ns)
        return self._change("left" if left else "entered", self.sandboxes.get(r.sandbox_id), when, r.cgroup_id, r.tgid)

    def _brought_along(self, process: Process) -> None:
        """The image of one that just moved in: the host's program, until it executes another."""
        process.image = process.entry.image = self.outside.image(process.tgid, process.start_ns)
        above = self.outside.parent(process.tgid, process.start_ns)
        if above is not None:
            process.parent_tgid, started = above
            process.parent_image = self.outside.image(process.parent_tgid, started)

    def _change(
        self, change: str, sandbox: Sandbox, when: tuple[int, int, int, int], cgroup_id: int, tgid: int
    ) -> SandboxChange:
        raw: Raw = None
        path = sandbox.path
        if not path.isascii():
            encoded = os.fsencode(path)
            try:
                path = encoded.decode()
            except UnicodeDecodeError:
                path, raw = replaced(encoded, "CgroupPath", raw)
        return SandboxChange(
            *when, change, sandbox.id, sandbox.name, sandbox.class_, path, cgroup_id, sandbox.runtime, tgid, raw
        )


def _dns_settings(config: Config) -> DnsSettings:
    dns = config.dns
    return DnsSettings(
        resolvers=dns.resolvers, ttl_cap_s=dns.ttl_cap_seconds, private_answers=dns.private_answers == "allow"
    )
