"""Who holds a flow: its maker, the maker's forks, and, where a verdict hangs on it, whoever /proc shows."""

from __future__ import annotations

from collections import Counter

from sensor.configdetect import FlowSettings
from sensor.detect.bounded import Budget, PerSandbox
from sensor.detect.flows import Flow, FlowTable
from sensor.detect.world import World
from sensor.events.activity import Activity, ProcessCreation

ATTACHED = 256  # processes between pipes, remembered of a sandbox
HOPS = 4  # shells and wrappers between a flow's holder and a process at its pipes
FAMILY = 64  # forks looked at: a server that forks for each connection has more, and they are not a relay's
STREAMS = frozenset({"socket", "pipe"})


class _Sandbox:
    def __init__(self, scans: int) -> None:
        self.attached: dict[int, int] = {}  # a process that reads from and writes to pipes or sockets → its parent
        self.budget = Budget(scans)


class Holding:
    def __init__(self, world: World, settings: FlowSettings, counters: Counter[str]) -> None:
        self._world = world
        self._settings = settings
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(
            lambda: _Sandbox(settings.scans_a_minute), settings.sandboxes, counters, "holding"
        )

    def executed(self, table: FlowTable, event: ProcessCreation) -> None:
        """A program with a flow as its standard input holds it. One between two pipes may be a relay's other half:
        `ncat -e` copies between the flow and pipes to a child that dials."""
        if event.StandardInput == "socket" and (flow := table.by_inode(event.StandardInputInode)) is not None:
            table.held(flow, event.ProcessId)
        if event.StandardInput in STREAMS and event.StandardOutput in STREAMS:
            attached = self._sandboxes.get(event.SandboxId).attached
            attached.pop(event.ProcessId, None)
            if len(attached) >= ATTACHED:
                del attached[next(iter(attached))]
            attached[event.ProcessId] = event.ParentProcessId

    def left(self, sandbox_id: int, tgid: int) -> None:
        if (sandbox := self._sandboxes.peek(sandbox_id)) is not None:
            sandbox.attached.pop(tgid, None)

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)

    def holds(self, flow: Flow, process: Activity, family: tuple[int, ...]) -> bool:
        """As far as no scan is needed. A process of the maker's number may be another by now."""
        tgid = process.ProcessId
        if flow.tgid == tgid and flow.guid == process.ProcessGuid:
            return True
        return (flow.tgid != tgid and flow.tgid in family) or any(holder in family for holder in flow.holders)

    def behind(self, process: Activity) -> tuple[int, ...]:
        """Processes at the other end of the pipes that it stands between, by parentage, and their forks."""
        sandbox = self._sandboxes.peek(process.SandboxId)
        found: dict[int, None] = {}
        tgid = process.ProcessId
        for _ in range(HOPS):
            if sandbox is None or tgid not in sandbox.attached:
                break
            tgid = sandbox.attached[tgid]
            found.update(dict.fromkeys(self.family(tgid)))
        return tuple(found)

    def family(self, tgid: int) -> tuple[int, ...]:
        members = self._world.family(tgid)[:FAMILY]
        return members if tgid in members else (tgid, *members)

    def scan(self, table: FlowTable, flow: Flow, now_ns: int) -> tuple[int, ...]:
        """Current holders. Asks /proc at most once in `scan_again_ms` a flow, and within the sandbox's budget."""
        known = tuple(flow.holders)
        if not flow.inode or (flow.scanned_ns and now_ns - flow.scanned_ns < self._settings.scan_again_ms * 10**6):
            return known
        event = flow.event
        if not self.may_scan(event.SandboxId, now_ns):
            return known
        flow.scanned_ns = now_ns
        holders = self._world.holders(event.SandboxId, flow.inode)
        for tgid in holders:
            table.held(flow, tgid)
        return holders

    def may_scan(self, sandbox_id: int, now_ns: int) -> bool:
        if self._sandboxes.get(sandbox_id).budget.take(now_ns):
            return True
        self._counters["scans_over_budget"] += 1
        return False
