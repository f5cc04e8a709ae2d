"""The processes of sandboxes: who forked whom, what each runs, what entered the sandbox first.

A process is (tgid, start time): a tgid is used again, its start time is not. `current` has the newest
incarnation of each tgid, exited ones too until they are evicted, since repeats are told after the exit
of whoever made them, and since a child whose parent is gone still has the parent's name.

Parents are held by reference, so that a child's parent fields are the parent's own strings. What is
evicted lets go of its own parent: however long a chain of short-lived parents grows, one entry pins
at most one evicted other.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from sensor.enrich.text import CUT, Raw
from sensor.events.layouts import Exit, Flag, Fork, Move

TICK_NS = 10_000_000  # /proc/PID/stat field 22 is in USER_HZ, 100 a second on every Linux ABI
LINEAGE_MAX = 128
EXITED_KEPT = 4096  # over all sandboxes, shared evenly; but for each at least
EXITED_LEAST = 16
REPLACED_KEPT = 256
EVICT_AT_ONCE = 64  # finding the largest sandbox costs a pass over all of them
SHORT_BYTES = 512  # image, working directory and argv of a process, together: kept in any case
LONG_MAX_BYTES = 4 * 1024 * 1024  # of longer ones in one sandbox; beyond, what the table keeps is cut
CUT_CHARACTERS = 256

_CLONE_INTO = int(Flag.CLONE_INTO)

Key = tuple[int, int]
Ids = tuple[int, int, int, int, int, int]  # a Process's first six


class EntryProgram(Struct, gc=False):
    """What the process that entered the sandbox ran: one object for all its descendants.

    `settled` once it has executed a program inside; before that, the image that it brought along."""

    tgid: int
    start_ns: int
    image: str = ""
    command_line: str = ""
    settled: bool = False


class Process(Struct, gc=False, eq=False):
    """One incarnation of a tgid. Until it executes, a child has its parent's image and argv."""

    tgid: int
    start_ns: int  # CLOCK_BOOTTIME at its fork; from /proc until a record has it exactly
    exec_id: int  # CLOCK_MONOTONIC at its last exec or its fork; 0: not known yet
    sandbox_id: int
    cgroup_id: int
    parent_tgid: int  # who forked it, also after it was reparented
    parent: Process | None
    entry: EntryProgram
    parent_image: str = ""  # of a parent outside the sandboxes, which has no entry here
    guid: str = ""  # made when first needed: most forks never speak
    image: str = ""
    image_file: tuple[int, int] = (0, 0)  # device (major << 20 | minor) and inode; zeros: not known
    command_line: str = ""
    cwd: str = ""
    user: str = ""
    raw: Raw = None
    executed_inside: bool = False  # its image was executed while it was in the sandbox
    # Seen to come from outside, and has executed nothing since. False where nobody saw what it did before: what was
    # found at start, a parent that is not known, an exec whose record was lost.
    brought_along: bool = False
    exited: bool = False
    ended_ns: int = 0  # CLOCK_MONOTONIC, before it closed its files; 0: not known
    children: int = 0  # entries of the table whose parent this is
    long_bytes: int = 0  # counted against its sandbox's LONG_MAX_BYTES
    # exec_id, image, command line, raw and brought_along of its program before
    before: tuple[int, str, str, Raw, bool] | None = None


class Group(Struct, gc=False, eq=False):
    """The processes of one sandbox. `exited` and `parents` by (tgid, exec_id), oldest first."""

    live: dict[int, Process]
    exited: dict[Key, Process]
    parents: dict[Key, Process]  # exited, with children in the table
    long_bytes: int = 0

    def __len__(self) -> int:
        return len(self.live) + len(self.exited) + len(self.parents)


def shortened(text: str) -> str:
    return text if len(text) <= CUT_CHARACTERS else text[:CUT_CHARACTERS] + CUT


def guid_of(tgid: int, start_ns: int) -> str:
    return f"{tgid}-{start_ns}"


def same_start(one_ns: int, other_ns: int) -> bool:
    """Whether two start times are of one process, where either may come from /proc/PID/stat.

    /proc shows whole clock ticks (nsec_to_clock_t of start_boottime), the kernel's records nanoseconds."""
    if one_ns == other_ns:
        return True
    truncated = one_ns % TICK_NS == 0 or other_ns % TICK_NS == 0
    return truncated and one_ns // TICK_NS == other_ns // TICK_NS


class ProcessTable:
    """At most `limit` entries. Of the sandbox that holds most, exited ones go first, oldest first."""

    def __init__(self, limit: int) -> None:
        self.limit = max(limit, EVICT_AT_ONCE)
        self.current: dict[int, Process] = {}
        self.replaced: dict[int, Process] = {}  # by tgid, who had it before its newest, of the last that were replaced
        self.counters: Counter[str] = Counter()
        self._groups: dict[int, Group] = {}
        self._size = 0
        self._exited_share = EXITED_KEPT

    def __len__(self) -> int:
        return self._size

    @property
    def living(self) -> int:
        return sum(len(group.live) for group in self._groups.values())

    # What responses ask.

    def get(self, tgid: int) -> Process | None:
        process = self.current.get(tgid)
        return None if process is None or process.exited else process

    def in_sandbox(self, sandbox_id: int) -> list[Process]:
        group = self._groups.get(sandbox_id)
        return list(group.live.values()) if group else []

    def descendants(self, tgid: int) -> list[Process]:
        """Live processes that it forked, and theirs, in its sandbox; by creation, so that those whose
        parents exited are among them. `tgid` may have exited itself."""
        root = self.current.get(tgid)
        if root is None:
            return []
        below: dict[int, bool] = {id(root): True}
        return [p for p in self.in_sandbox(root.sandbox_id) if p is not root and _is_below(p, below)]

    def lineage(self, process: Process) -> list[Process]:
        """From the process up to the one that entered its sandbox, or as far as is known."""
        chain = [process]
        while (above := chain[-1].parent) is not None and len(chain) < LINEAGE_MAX:
            if above.sandbox_id != process.sandbox_id:
                break
            chain.append(above)
        return chain

    # What records do.

    def forked(self, record: Fork) -> Process | None:
        """The new child; None where it was known already (a replay)."""
        child = self.current.get(record.tgid)
        if child is not None and same_start(child.start_ns, record.start_ns):
            return None
        parent = self.known(record.parent_tgid, record.parent_start_ns)
        ids = (
            record.tgid, record.start_ns, record.exec_id, record.sandbox_id, record.cgroup_id, record.parent_tgid
        )  # fmt: skip
        made = self._make(ids, parent)
        if parent is not None:
            made.image = parent.image
            made.image_file = parent.image_file
            made.command_line = parent.command_line
            made.cwd = parent.cwd
            made.user = parent.user
            made.raw = parent.raw
            same_sandbox = parent.sandbox_id == record.sandbox_id
            made.executed_inside = parent.executed_inside and same_sandbox
            if parent.brought_along:
                made.brought_along = same_sandbox and parent.exec_id == record.parent_exec_id
            if parent.long_bytes:
                self.weigh(made, parent.long_bytes)
        elif record.flags & _CLONE_INTO and not record.parent_sandbox_id:
            made.brought_along = True  # without the flag, its parent was in the cgroup already, unknown to the kernel
        return made

    def at_exec(self, ids: Ids, parent_start_ns: int) -> Process:
        """Whoever executes; made where no fork was seen. The caller sets what it runs."""
        tgid, start_ns = ids[:2]
        process = self.current.get(tgid)
        if process is not None and same_start(process.start_ns, start_ns):
            if process.start_ns != start_ns and process.start_ns % TICK_NS == 0:
                process.guid = process.guid or guid_of(tgid, process.start_ns)
                process.start_ns = start_ns
            return process
        return self._make(ids, self.known(ids[5], parent_start_ns))

    def moved(self, record: Move) -> Process:
        """A process that crossed a sandbox's border, or a nested cgroup's."""
        process = self.known(record.tgid, record.start_ns)
        if process is None:
            entry = EntryProgram(record.tgid, record.start_ns)
            # Who comes in is known to the kernel from then on, by the time of it.
            exec_id = record.exec_id if record.previous_sandbox_id else record.time_ns
            ids = (record.tgid, record.start_ns, exec_id, record.sandbox_id, record.cgroup_id)
            process = self._insert(Process(*ids, parent_tgid=0, parent=None, entry=entry))
            process.brought_along = not record.previous_sandbox_id and not record.mover_sandbox_id
        process.cgroup_id = record.cgroup_id
        return process

    def found(self, process: Process) -> Process:
        """One that was there before the sensor; the one already in the table where there is one."""
        return self.known(process.tgid, process.start_ns) or self._insert(process)

    def weigh(self, process: Process, size: int) -> None:
        """Count what a process's texts take; cut what is kept of them where its sandbox has too much.

        Its own exec event has them whole. Without this, 65,536 processes with 4 KiB of argv would
        take 256 MiB."""
        group = self._groups[process.sandbox_id]
        group.long_bytes -= process.long_bytes
        process.long_bytes = 0
        if size <= SHORT_BYTES:
            return
        while group.long_bytes + size > LONG_MAX_BYTES and group.exited:
            self._remove(group, next(iter(group.exited.values())))
        if group.long_bytes + size <= LONG_MAX_BYTES:
            process.long_bytes = size
            group.long_bytes += size
            return
        self.counters["texts_cut"] += 1
        process.raw = None
        process.command_line = shortened(process.command_line)
        process.cwd = shortened(process.cwd)
        if len(process.image) > CUT_CHARACTERS:
            process.image = CUT + process.image[-CUT_CHARACTERS:]

    def actor(self, tgid: int, exec_id: int, sandbox_id: int) -> tuple[Process | None, bool]:
        """Who acted as (tgid, exec_id), and whether with the program that it ran before its last exec."""
        process = self.current.get(tgid)
        if process is not None and (process.exec_id == exec_id or not exec_id):
            return process, False  # exec_id 0: the kernel's process map was full
        if process is not None and process.before is not None and process.before[0] == exec_id:
            return process, True
        gone = self._gone(tgid, exec_id, sandbox_id)
        if gone is not None:
            return gone, False
        if process is None or process.exited or exec_id < process.exec_id:
            self.counters["actors_unknown"] += 1
            return None, False
        # Found at start, or the record of its last exec was lost.
        process.exec_id = exec_id
        process.brought_along = False
        return process, False

    def exited(self, record: Exit) -> Process | None:
        process = self.known(record.tgid, record.start_ns)
        if process is None:
            return self._gone(record.tgid, record.exec_id, record.sandbox_id)
        if not process.exited:
            process.exec_id = record.exec_id or process.exec_id  # by which its late repeats are told
            process.ended_ns = record.time_ns
            self._retire(process)
        return process

    def known(self, tgid: int, start_ns: int) -> Process | None:
        """The process, where this incarnation is its tgid's newest. It may have exited."""
        process = self.current.get(tgid)
        return process if process is not None and same_start(process.start_ns, start_ns) else None

    def forget(self, sandbox_id: int) -> None:
        """A sandbox is over. Processes that live on outside its cgroup stay until they exit."""
        group = self._groups.get(sandbox_id)
        if group is None:
            return
        for process in [*group.exited.values(), *group.parents.values()]:
            self._remove(group, process)
        if not group.live:
            del self._groups[sandbox_id]
            self._exited_share = max(EXITED_LEAST, EXITED_KEPT // max(1, len(self._groups)))

    # Keeping count.

    def _gone(self, tgid: int, exec_id: int, sandbox_id: int) -> Process | None:
        group = self._groups.get(sandbox_id)
        if group is None:
            return None
        return group.exited.get((tgid, exec_id)) or group.parents.get((tgid, exec_id))

    def _make(self, ids: Ids, parent: Process | None) -> Process:
        inside = parent is not None and parent.sandbox_id == ids[3]
        entry = parent.entry if inside and parent is not None else EntryProgram(ids[0], ids[1])
        return self._insert(Process(*ids, parent, entry))

    def _insert(self, process: Process) -> Process:
        tgid = process.tgid
        if process.parent is not None:
            process.parent.children += 1
        old = self.current.get(tgid)
        if old is not None and not old.exited:
            self.counters["exits_missed"] += 1
            self._retire(old)
        if old is not None and self.current.get(tgid) is old:
            self.replaced.pop(tgid, None)
            self.replaced[tgid] = old
            if len(self.replaced) > REPLACED_KEPT:
                del self.replaced[next(iter(self.replaced))]
        self.current[tgid] = process
        group = self._groups.get(process.sandbox_id)
        if group is None:
            group = self._groups[process.sandbox_id] = Group({}, {}, {})
            self._exited_share = max(EXITED_LEAST, EXITED_KEPT // len(self._groups))
        group.live[tgid] = process
        self._size += 1
        if self._size > self.limit:
            self._evict()
        return process

    def _retire(self, process: Process) -> None:
        process.exited = True
        group = self._groups[process.sandbox_id]
        if group.live.get(process.tgid) is process:
            del group.live[process.tgid]
        key = (process.tgid, process.exec_id)
        held = group.parents if process.children else group.exited
        if held.setdefault(key, process) is not process:  # two without an exec_id: one can be told apart
            self._remove(group, process)
        elif held is group.exited and len(held) > self._exited_share:
            self._remove(group, next(iter(held.values())))

    def _evict(self) -> None:
        group = max(self._groups.values(), key=len)
        for _ in range(min(EVICT_AT_ONCE, len(group) // 4 + 1)):
            if group.exited:
                self._remove(group, next(iter(group.exited.values())))
            elif group.parents:
                self.counters["parents_evicted"] += 1
                self._remove(group, next(iter(group.parents.values())))
            else:
                self.counters["live_evicted"] += 1
                self._remove(group, next(iter(group.live.values())))

    def _remove(self, group: Group, process: Process) -> None:
        if self.current.get(process.tgid) is process:
            del self.current[process.tgid]
        if self.replaced.get(process.tgid) is process:
            del self.replaced[process.tgid]
        if process.exited:
            key = (process.tgid, process.exec_id)
            for held in (group.exited, group.parents):
                if held.get(key) is process:
                    del held[key]
        elif group.live.get(process.tgid) is process:
            del group.live[process.tgid]
        group.long_bytes -= process.long_bytes
        process.long_bytes = 0
        process.before = None
        self._size -= 1
        self._let_go(process)

    def _let_go(self, process: Process) -> None:
        """Cut the evicted process from its parent, which may now be evicted like any that exited."""
        parent, process.parent = process.parent, None
        if parent is None:
            return
        parent.children -= 1
        if parent.children == 0 and parent.exited:
            group = self._groups.get(parent.sandbox_id)
            key = (parent.tgid, parent.exec_id)
            if group is not None and group.parents.get(key) is parent:
                del group.parents[key]
                group.exited[key] = parent


def _is_below(process: Process, below: dict[int, bool]) -> bool:
    """Whether its chain of parents meets a process known to be below; remembers for all on the way."""
    path: list[int] = []
    at: Process | None = process
    while at is not None and id(at) not in below:
        path.append(id(at))
        at = at.parent
    found = at is not None and below[id(at)]
    below.update(dict.fromkeys(path, found))
    return found
