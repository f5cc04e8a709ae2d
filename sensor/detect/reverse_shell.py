"""(b) Reverse shell: a program whose standard streams are a flow, or whose pipes or pty a holder of a flow feeds.

Directly, the evidence is the socket itself: nothing ordinary runs with an outgoing connection as its input and output,
whatever it is called. Where a pipe or pty stands between, an agent that keeps a shell and reads a model's replies has
the same shape: there, what the flow speaks, and commands that follow its data, decide. Accepted flows are what sshd and
inetd hand out. A socket that never becomes a flow is a unix socketpair: sshd, systemd and Node's pipes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from sensor.configdetect import ReverseShellSettings
from sensor.detect.behavior import behavior, processes, total
from sensor.detect.bounded import Budget, Levels, PerSandbox
from sensor.detect.flows import Flow, FlowTable
from sensor.detect.holding import Holding
from sensor.detect.world import World
from sensor.events.activity import NetworkBehavior, NetworkFlow, ProcessCreation

REVISITED = 4  # shells without a known feeder that a new flow is tried on
TOGETHER_NS = 10 * 10**9  # a pipeline's parts start together; its connect may wait for a name
KINDS = frozenset({"socket", "pipe", "pty"})
Streams = tuple[str, str, str, int, int, int]


Subject = ProcessCreation | NetworkFlow  # of the accused


class Case(Struct, frozen=True, gc=False):
    event: Subject
    flow: Flow | None
    inner: str  # socket, pipe, pty
    holders: tuple[int, ...] = ()
    steps: int = 0


class Later(Struct, gc=False):
    """To be looked at again: a program at a socket that is no flow yet, or a flow whose maker may put it there."""

    at_ns: int
    from_ns: int
    tries: int
    event: Subject


class Fed:
    """A shell at a pipe or pty."""

    __slots__ = ("event", "flow", "holders", "since_ns", "stepped_ns", "steps")

    def __init__(self, event: ProcessCreation) -> None:
        self.event = event
        self.since_ns = event.monotonic_ns
        self.flow: Flow | None = None
        self.holders: tuple[int, ...] = ()
        self.steps = 0
        self.stepped_ns = -1


class _Sandbox:
    def __init__(self, settings: ReverseShellSettings) -> None:
        self.budget = Budget(settings.scans_a_minute)
        self.later: list[Later] = []
        self.fed: dict[int, Fed] = {}
        self.levels = Levels(settings.marks, settings.keys, settings.events_an_hour)


class ReverseShell:
    def __init__(
        self, settings: ReverseShellSettings, sandboxes: int, world: World, holding: Holding, counters: Counter[str]
    ) -> None:
        self._settings = settings
        self._world = world
        self._holding = holding
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(
            lambda: _Sandbox(settings), sandboxes, counters, "reverse_shell"
        )
        self._waiting: dict[int, None] = {}  # sandboxes with something in `later`
        self._names: dict[str, tuple[bool, bool]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)
        self._waiting.pop(sandbox_id, None)

    def left(self, sandbox_id: int, tgid: int) -> None:
        if (sandbox := self._sandboxes.peek(sandbox_id)) is not None:
            sandbox.fed.pop(tgid, None)

    def executed(self, table: FlowTable, event: ProcessCreation) -> list[NetworkBehavior]:
        """A program whose standard input is a socket, pipe or pty."""
        sandbox = self._sandboxes.get(event.SandboxId)
        produced = self._step(sandbox, event)
        sandbox.fed.pop(event.ProcessId, None)
        if event.StandardInput == "socket":
            streams = _streams(event)
            if _same(streams) and (flow := table.by_inode(event.StandardInputInode)) is not None:
                return produced + self._at_flow(sandbox, table, event, flow, _all_three(streams))
            if _same(streams):
                self._wait(sandbox, event, event.monotonic_ns)
                return produced
        shell, _ = self._is_shell(event.Image)
        if shell and event.StandardOutput in KINDS:
            if len(sandbox.fed) >= self._settings.watched:
                del sandbox.fed[next(iter(sandbox.fed))]
                self._counters["reverse_shell_shells_evicted"] += 1
            sandbox.fed[event.ProcessId] = Fed(event)
            self._wait(sandbox, event, event.monotonic_ns)
        return produced

    def began(self, flow: Flow, event: NetworkFlow) -> None:
        """An outward flow: `bash -i >& /dev/tcp/…` and a script's dup2 put it on their streams after the connect."""
        sandbox = self._sandboxes.get(event.SandboxId)
        if not any(
            type(later.event) is NetworkFlow and later.event.ProcessId == event.ProcessId for later in sandbox.later
        ):
            self._wait(sandbox, event, event.monotonic_ns)
        unfed = [fed for fed in sandbox.fed.values() if fed.flow is None or fed.flow.ended]
        for fed in unfed:
            if event.ProcessId == fed.event.ParentProcessId or event.ProcessId in fed.holders:
                fed.flow = flow
        for fed in unfed[-REVISITED:]:
            if fed.flow is not flow and event.monotonic_ns - fed.since_ns <= TOGETHER_NS:
                self._wait(sandbox, fed.event, event.monotonic_ns)

    def inversion(self, flow: Flow) -> None:
        """Data came in on an outward flow: whom its maker feeds may only now be known."""
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        if sandbox is None or not flow.outward:
            return
        for fed in sandbox.fed.values():
            if (fed.flow is None or fed.flow.ended) and fed.event.ParentProcessId == flow.tgid:
                fed.flow = flow

    def recognised(self, flow: Flow, now_ns: int) -> list[NetworkBehavior]:
        """First bytes told what a flow speaks: a prompt that goes out weighs."""
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        if sandbox is None or not flow.outward:
            return []
        produced = []
        for fed in sandbox.fed.values():
            if fed.flow is flow:
                produced += self._tell_fed(sandbox, fed, now_ns)
        return produced

    def tick(self, tables: PerSandbox[FlowTable], now_ns: int) -> list[NetworkBehavior]:
        produced: list[NetworkBehavior] = []
        for sandbox_id in list(self._waiting):
            sandbox, table = self._sandboxes.peek(sandbox_id), tables.peek(sandbox_id)
            if sandbox is None or table is None:
                del self._waiting[sandbox_id]
                continue
            due = [later for later in sandbox.later if later.at_ns <= now_ns]
            sandbox.later = [later for later in sandbox.later if later.at_ns > now_ns]
            for later in due:
                found = self._look(sandbox, table, later.event, later.tries, now_ns)
                if found is None:
                    self._wait(sandbox, later.event, later.from_ns, later.tries + 1)
                else:
                    produced += found
            if not sandbox.later:
                del self._waiting[sandbox_id]
        return produced

    def _wait(self, sandbox: _Sandbox, event: Subject, from_ns: int, tries: int = 0) -> None:
        if tries >= len(self._settings.check_ms):
            return
        if len(sandbox.later) >= self._settings.waiting:
            del sandbox.later[0]
            self._counters["reverse_shell_checks_dropped"] += 1
        sandbox.later.append(Later(from_ns + self._settings.check_ms[tries] * 10**6, from_ns, tries, event))
        self._waiting[event.SandboxId] = None

    def _look(
        self, sandbox: _Sandbox, table: FlowTable, event: Subject, tries: int, now_ns: int
    ) -> list[NetworkBehavior] | None:
        """None: look again."""
        if isinstance(event, NetworkFlow):
            return self._look_at_maker(sandbox, table, event)
        fed = sandbox.fed.get(event.ProcessId)
        if fed is not None:
            return self._look_at_feeder(sandbox, table, fed, now_ns)
        streams = _streams(event)
        flow = table.by_inode(event.StandardInputInode) or self._without_inode(table, event, now_ns)
        if flow is not None:
            return self._at_flow(sandbox, table, event, flow, _all_three(streams))
        if tries + 1 < len(self._settings.check_ms):
            return None
        # Flows are told within a second, unless there were too many: without one it is a socketpair.
        if not table.evicted or not any(self._is_shell(event.Image)):
            return []
        return self._emit(sandbox, Case(event, None, "socket"), {"streams": 40}, now_ns)

    def _look_at_maker(self, sandbox: _Sandbox, table: FlowTable, event: NetworkFlow) -> list[NetworkBehavior] | None:
        """Whichever of its flows is on its streams: one look a process, however many it opens."""
        streams = self._world.standard_streams(event.ProcessId)
        if not _same(streams) or (flow := table.by_inode(streams[3])) is None or flow.tgid != event.ProcessId:
            return None
        return self._at_flow(sandbox, table, event, flow, _all_three(streams))

    def _without_inode(self, table: FlowTable, event: ProcessCreation, now_ns: int) -> Flow | None:
        """A flow whose inode was not known when it was told: that of a process which holds this socket."""
        unknown = [flow for flow in table.flows.values() if not flow.inode]
        if not unknown or not self._holding.may_scan(event.SandboxId, now_ns):
            return None
        holders = self._world.holders(event.SandboxId, event.StandardInputInode)
        return next((flow for flow in unknown if flow.tgid in holders), None)

    def _at_flow(
        self, sandbox: _Sandbox, table: FlowTable, event: Subject, flow: Flow, all_three: bool
    ) -> list[NetworkBehavior]:
        shell = any(self._is_shell(event.Image))
        to = flow.event
        near = to.DestinationIsPrivate and not to.DestinationIsLoopback
        far = to.Initiated and (flow.outward or self._chained(table, flow))
        if not to.Initiated:
            streams = 10
        elif not far:
            streams = 20
        else:
            streams = 45 if shell else 40 if all_three else 30
        parts = {
            "streams": streams,
            "outward": (15 if near else 30) if far else 0,
            "public": 5 if far and not near else 0,
            "program": 10 if shell else 0,
        }
        return self._emit(sandbox, Case(event, flow, "socket"), parts, event.monotonic_ns)

    def _chained(self, table: FlowTable, flow: Flow) -> bool:
        end = table.other_end(flow)
        return end is not None and any(True for tgid in self._holding.family(end.tgid) for _ in table.outward_of(tgid))

    def _look_at_feeder(
        self, sandbox: _Sandbox, table: FlowTable, fed: Fed, now_ns: int
    ) -> list[NetworkBehavior] | None:
        """By parentage first; by who holds the pipes, as in `mkfifo f; sh <f | nc host >f`, where a flow might fit."""
        if fed.flow is not None and not fed.flow.ended:
            return []
        event = fed.event
        fed.flow = self._outward(table, (event.ParentProcessId, *self._holding.family(event.ParentProcessId)))
        if fed.flow is None and any(flow.outward for flow in table.flows.values()):
            fed.holders = self._feeders(sandbox, event, now_ns)
            fed.flow = self._outward(table, fed.holders)
        return None if fed.flow is None else self._tell_fed(sandbox, fed, now_ns)

    def _feeders(self, sandbox: _Sandbox, event: ProcessCreation, now_ns: int) -> tuple[int, ...]:
        found: dict[int, None] = {}
        streams = _streams(event)
        for kind, inode in dict.fromkeys(zip(streams[:2], streams[3:5], strict=True)):
            if kind not in {"pipe", "pty"}:
                continue
            if not sandbox.budget.take(now_ns):
                self._counters["scans_over_budget"] += 1
                break
            if kind == "pty":
                found.update(dict.fromkeys(self._world.pty_masters(event.SandboxId, int(inode))))
            else:
                found.update(dict.fromkeys(self._world.pipe_peers(event.SandboxId, int(inode), event.ProcessId)))
        return tuple(found)

    def _outward(self, table: FlowTable, tgids: Iterable[int]) -> Flow | None:
        """The flow that says least of what it is: an agent's to its model must not hide another."""
        flows = [flow for tgid in tgids for flow in table.outward_of(tgid)]
        return min(flows, key=lambda flow: (not flow.shell, flow.http, flow.started_ns), default=None)

    def _step(self, sandbox: _Sandbox, event: ProcessCreation) -> list[NetworkBehavior]:
        """A program started by a watched shell, shortly after data came in on the flow that feeds it."""
        fed = sandbox.fed.get(event.ParentProcessId)
        if fed is None or fed.flow is None:
            return []
        came_ns = fed.flow.last_inversion_ns
        if came_ns == fed.stepped_ns or not 0 <= event.monotonic_ns - came_ns <= self._settings.step_ms * 10**6:
            return []
        fed.stepped_ns = came_ns
        fed.steps += 1
        return self._tell_fed(sandbox, fed, event.monotonic_ns)

    def _tell_fed(self, sandbox: _Sandbox, fed: Fed, now_ns: int) -> list[NetworkBehavior]:
        flow = fed.flow
        if flow is None:
            return []
        if flow.shell:
            wire = 45
        elif flow.http:
            wire = 0
        else:
            wire = 10 if flow.application else 20
        parts = {
            "fed": 20,
            "wire": wire,
            "steps": 25 if fed.steps >= self._settings.steps else 10 * (fed.steps > 0),
            "private_peer": -10 if flow.event.DestinationIsPrivate else 0,
        }
        case = Case(fed.event, flow, fed.event.StandardInput, (*fed.holders, flow.tgid), fed.steps)
        return self._emit(sandbox, case, parts, now_ns)

    def _emit(self, sandbox: _Sandbox, case: Case, parts: dict[str, int], now_ns: int) -> list[NetworkBehavior]:
        event, flow = case.event, case.flow
        key = flow.cookie if flow is not None else event.ProcessGuid
        if not sandbox.levels.passes(key, total(parts), now_ns, self._counters):
            return []
        if flow is not None:
            flow.read(self._world)
        holders = processes(case.holders or (event.ProcessId,))
        return [
            behavior(
                "reverse_shell", event, parts, now_ns, flow, Inner=case.inner, Repetitions=case.steps,
                HolderProcessIds=holders,
            )
        ]  # fmt: skip

    def _is_shell(self, image: str) -> tuple[bool, bool]:
        """(shell, other interpreter). Versions do not matter: python3.11, lua5.4."""
        known = self._names.get(image)
        if known is None:
            if len(self._names) >= 4096:
                self._names.clear()
            name = image.rpartition("/")[2]
            plain = name.rstrip("0123456789.-")
            known = self._names[image] = (
                name in self._settings.shells or plain in self._settings.shells,
                plain in self._settings.interpreters,
            )
        return known


def _streams(event: ProcessCreation) -> Streams:
    return (
        event.StandardInput, event.StandardOutput, event.StandardError,
        event.StandardInputInode, event.StandardOutputInode, event.StandardErrorInode,
    )  # fmt: skip


def _all_three(streams: Streams) -> bool:
    return streams[2] == "socket" and streams[5] == streams[3]


def _same(streams: Streams) -> bool:
    """Standard input and output are one socket."""
    return streams[0] == streams[1] == "socket" and streams[3] == streams[4] != 0
