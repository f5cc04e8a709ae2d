"""What sandboxed processes do against their confinement: leaving the sandbox's cgroup, and attempts on the sensor."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sensor.enrich.clock import Timeline
from sensor.enrich.fields import common
from sensor.enrich.processes import Process, ProcessTable
from sensor.enrich.sandboxes.registry import Registry
from sensor.enrich.users import Users
from sensor.events.activity import ProcessMigration, SensorAccess
from sensor.events.layouts import Access, Flag, Fork, Move
from sensor.events.layouts import SensorAccess as AccessRecord

_MIGRATED = int(Flag.MIGRATED)
_REPEAT = int(Flag.REPEAT)
INIT_USER_NS = 0xEFFFFFFD  # PROC_USER_INIT_INO in include/linux/proc_ns.h
CAPABILITIES = {38: "perfmon", 39: "bpf"}
_SIGNAL = int(Access.SIGNAL)


class Escapes:
    def __init__(self, sandboxes: Registry, processes: ProcessTable, users: Users, timeline: Timeline) -> None:
        self._sandboxes = sandboxes
        self._processes = processes
        self._users = users
        self._timeline = timeline
        self.guarded: Mapping[int, str] = {}  # our own processes by tgid: core, api, launcher

    def migration(self, r: Move | Fork, generation: int, position: int) -> ProcessMigration | None:
        """That a process left its sandbox's cgroup, or that a sandboxed process pulled one of the host's into its
        own. None where a process entered as it should. After the record was applied to the table."""
        if type(r) is Fork:
            if not r.flags & _MIGRATED:
                return None
            left, destination, mover, inside = True, 0, r.parent_tgid, True
        else:
            assert type(r) is Move
            left = bool(r.previous_sandbox_id) and r.destination_sandbox_id != r.sandbox_id
            destination, mover, inside = r.destination_sandbox_id, r.mover_tgid, bool(r.mover_sandbox_id)
            if not left and (r.previous_sandbox_id or not inside):
                return None
        process = self._processes.known(r.tgid, r.start_ns)
        by = self._processes.current.get(mover)
        return ProcessMigration(
            *common(self._where(r, generation, position), process, process.user if process else ""),
            "left" if left else "entered",
            "cloned" if type(r) is Fork else "moved",
            r.sandbox_id if left else 0,
            destination,
            self._path(r.cgroup_id, destination),
            mover,
            by.image if by is not None else "",
            inside,
        )

    def access(self, r: AccessRecord, generation: int, position: int) -> SensorAccess:
        process, before = self._processes.actor(r.tgid, r.exec_id, r.sandbox_id)
        where = self._where(r, generation, position)
        signal = r.access == _SIGNAL
        return SensorAccess(
            *common(where, process, self._users.name(r.uid), before=before),
            "signal" if signal else CAPABILITIES.get(r.number, "capability"),
            r.number if signal else 0,
            self.guarded.get(r.target_tgid, "") if signal else "",
            r.target_tgid,
            not signal and r.result != 0,  # a signal that is told of was allowed
            not signal and r.result == 0 and r.user_ns == INIT_USER_NS,
            r.count,
            r.flags & _REPEAT != 0,
        )

    def traced(self, tracer: Process, target: int, when: tuple[int, int]) -> SensorAccess:
        """Found in /proc and not told by a record; `when`: an id that is no ring's."""
        utc, now = self._timeline.now()
        sandbox = self._sandboxes.get(tracer.sandbox_id)
        where = (*when, utc, now, sandbox.id, sandbox.name, sandbox.class_, tracer.cgroup_id, tracer.tgid)
        name = self.guarded.get(target, "")
        return SensorAccess(*common(where, tracer, tracer.user), "trace", 0, name, target, False, False, 1, False)

    def _where(
        self, r: Move | Fork | AccessRecord, generation: int, position: int
    ) -> tuple[int, int, int, int, int, str, str, int, int]:
        sandbox = self._sandboxes.get(r.sandbox_id)
        utc = self._timeline.utc(r.time_ns)
        return (generation, position, utc, r.time_ns, r.sandbox_id, sandbox.name, sandbox.class_, r.cgroup_id, r.tgid)

    def _path(self, cgroup_id: int, sandbox_id: int) -> str:
        """Of the destination, where it is a sandbox's; any other cgroup is told by its id alone."""
        sandbox = self._sandboxes.by_id.get(sandbox_id or cgroup_id)
        return os.fsencode(sandbox.path).decode("utf-8", "replace") if sandbox is not None else ""
