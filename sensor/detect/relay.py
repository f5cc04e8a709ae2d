"""(a) Relay: data comes in on an outward flow, and whoever holds it dials inwards and carries the bytes on.

How an inner flow is joined to an outer one:
- inversion: data came after a pause, and within `dial_ms` a holder dialled. The shape of every reverse tunnel, and the
  first half of an agent's turn: it counts by itself, but reaches a verdict only with conservation or a protocol.
- pair: both were dialled within `pair_ms`, outer first (socat, `ncat -e`, a client that is used at once).
- unprompted: a holder dials while the outer flow is busy: chatter of less than a pause must not hide a relay.
- late: the inner was there first.
The last three, and dials from behind a holder's pipes, are what proxies, ETL jobs and MCP bridges do all day: they are
told by conserved bytes only. Accepted flows are never outer ones: ROCK's and SWE-ReX's servers have that shape.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from sensor.configdetect import RelaySettings
from sensor.detect.bounded import Levels, PerSandbox
from sensor.detect.flows import NONE, Flow, FlowTable, Peer, Totals
from sensor.detect.holding import Holding
from sensor.detect.relay_score import accuse, parts_of
from sensor.detect.windows import Join, Leg, Pending, Relayed, Window
from sensor.detect.world import Inversion, World
from sensor.events.activity import NetworkBehavior, NetworkConnection, NetworkFlow

SLEEP_NS = 10 * 10**9  # between looks at inner flows that are silent; data on the outer one wakes them
OPEN = 16  # windows of a sandbox that are looked at
LEGS = 1024  # live inner flows of a sandbox
SCANNED = 4  # outer flows that one dial may ask /proc about
PEER_FLOWS = 8  # of a peer, that one window compares
JOINS = 4  # peers that one dial is joined to without an inversion

# Connected to by libc and loggers, whatever the program does.
ORDINARY_SOCKETS = ("/run/nscd/", "/var/run/nscd/", "/dev/log", "/run/systemd/", "/run/dbus/", "/var/run/dbus/")


class _Sandbox:
    def __init__(self, settings: RelaySettings) -> None:
        self.pending: dict[int, Pending] = {}  # by cookie, latest last
        self.dials: deque[tuple[int, FlowTable, NetworkFlow]] = deque(maxlen=8)  # for records that come swapped
        self.peers: dict[Peer, Relayed] = {}
        self.legs: dict[int, list[Relayed]] = {}  # by cookie of a live inner flow
        self.open: dict[Peer, None] = {}
        self.levels = Levels(settings.marks, 256, settings.events_an_hour)


class Relay:
    def __init__(self, settings: RelaySettings, sandboxes: int, world: World, holding: Holding, counters: Counter[str]):
        self._settings = settings
        self._world = world
        self._holding = holding
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(lambda: _Sandbox(settings), sandboxes, counters, "relay")
        self._open: dict[tuple[int, Peer], Relayed] = {}
        self.busy = False

    def forget(self, sandbox_id: int) -> None:
        sandbox = self._sandboxes.peek(sandbox_id)
        if sandbox is not None:
            for peer in sandbox.peers:
                self._open.pop((sandbox_id, peer), None)
            self._sandboxes.forget(sandbox_id)

    def began(self, table: FlowTable, flow: Flow, event: NetworkFlow) -> list[NetworkBehavior]:
        """A flow that was not known."""
        produced: list[NetworkBehavior] = []
        if flow.outward:
            produced += self._outward(table, flow, event)
        if flow.local and flow.event.Protocol == "tcp":  # not the datagrams that ask a resolver on loopback
            produced += self._dialled(table, flow, event)
        return produced

    def told(self, event: NetworkFlow) -> list[NetworkBehavior]:
        """A sample or the end of an inner flow, whether the table still has it or not."""
        sandbox = self._sandboxes.peek(event.SandboxId)
        relayed = None if sandbox is None else sandbox.legs.get(event.SocketCookie)
        if sandbox is None or relayed is None or event.Phase == "established":
            return []
        produced = []
        for peer in relayed:
            window = peer.window
            if window is None or (leg := window.legs.get(event.SocketCookie)) is None:
                continue
            if event.Phase == "ended":
                window.left(leg, (event.BytesOut, event.BytesIn, event.PacketsOut, event.PacketsIn))
            if window.over():
                window.closing_ns = event.monotonic_ns
                self.busy = True
            produced += self._evaluate(sandbox, peer, event.monotonic_ns)
        if event.Phase == "ended":
            del sandbox.legs[event.SocketCookie]
        return produced

    def inversion(self, table: FlowTable, flow: Flow, inversion: Inversion) -> list[NetworkBehavior]:
        if not flow.outward and not (flow.event.Initiated and flow.event.DestinationIsLoopback):
            return []
        sandbox = self._sandboxes.get(inversion.SandboxId)
        before: Totals = (inversion.bytes_out, inversion.bytes_in, inversion.packets_out, inversion.packets_in)
        pending = Pending(inversion.monotonic_ns, flow, before)
        sandbox.pending.pop(flow.cookie, None)
        if len(sandbox.pending) >= self._settings.inversions:
            del sandbox.pending[next(iter(sandbox.pending))]
        sandbox.pending[flow.cookie] = pending
        if (relayed := sandbox.peers.get(flow.peer)) is not None and relayed.window is not None:
            relayed.window.next_ns = inversion.monotonic_ns  # it may have slept
        for at_ns, _, event in list(sandbox.dials):
            if self._in_time(pending, at_ns) and event.SocketCookie != flow.cookie:
                inner = table.flows.get(event.SocketCookie)
                if inner is not None and (produced := self._by_inversion(sandbox, table, inner, event, [pending])):
                    return produced[0]
        return []

    def recognised(self, flow: Flow, now_ns: int) -> list[NetworkBehavior]:
        """First bytes told what an outer flow speaks."""
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        relayed = None if sandbox is None else sandbox.peers.get(flow.peer)
        return [] if sandbox is None or relayed is None else self._tell(sandbox, relayed, now_ns)

    def unix(self, table: FlowTable, event: NetworkConnection) -> list[NetworkBehavior]:
        """A unix socket's bytes are not counted: it tells by repetition and the outer flow's protocol alone."""
        sandbox = self._sandboxes.peek(event.SandboxId)
        if sandbox is None or event.Verdict not in {"allowed", "would_refuse"}:
            return []
        if not event.DestinationPath or event.DestinationPath.startswith(ORDINARY_SOCKETS):
            return []
        timely = [pending for pending in self._timely(sandbox, event.monotonic_ns) if pending.flow.outward]
        family = self._holding.family(event.ProcessId) if timely else ()
        for pending in timely:
            if self._holding.holds(pending.flow, event, family):
                leg = Leg(event, event.DestinationPath)
                return self._join(sandbox, table, pending.flow, leg, Join("inversion", False, pending))
        return []

    def tick(self, now_ns: int) -> list[NetworkBehavior]:
        produced = []
        self.busy = False
        for (sandbox_id, peer), relayed in list(self._open.items()):
            sandbox, window = self._sandboxes.peek(sandbox_id), relayed.window
            if sandbox is None or window is None:
                self._open.pop((sandbox_id, peer), None)
                continue
            if window.over():
                window.closing_ns = window.closing_ns or now_ns
                produced += self._evaluate(sandbox, relayed, now_ns)
                if now_ns - window.closing_ns >= self._settings.grace_ms * 10**6:
                    self._finish(sandbox_id, relayed)
            elif now_ns >= window.next_ns or now_ns < window.young_ns:
                produced += self._evaluate(sandbox, relayed, now_ns)
            self.busy = self.busy or bool(window.closing_ns) or now_ns < window.young_ns
        return produced

    def _outward(self, table: FlowTable, flow: Flow, event: NetworkFlow) -> list[NetworkBehavior]:
        """A new outer flow: re-dialled for an open window, or dialled by one that has inner flows already."""
        sandbox = self._sandboxes.get(event.SandboxId)
        relayed = sandbox.peers.get(flow.peer)
        if relayed is not None and (window := relayed.window) is not None:
            since = relayed.last_inversion_ns if window.kind == "inversion" else window.opened_ns
            if flow.started_ns - since <= self._settings.dial_ms * 10**6 and len(window.flows) < PEER_FLOWS:
                window.trunk(flow, NONE, fresh=True)
            return []
        produced = []
        family = self._holding.family(event.ProcessId)
        inner = [near for tgid in family for near in table.local_of(tgid) if near is not flow]
        for near in inner[-JOINS:]:
            apart = flow.started_ns - near.started_ns
            if 0 < apart <= self._settings.pair_ms * 10**6 and isinstance(near.event, NetworkFlow):
                leg = Leg(near.event, "")
                produced += self._join(sandbox, table, flow, leg, Join("late", False, None))
        return produced

    def _dialled(self, table: FlowTable, inner: Flow, event: NetworkFlow) -> list[NetworkBehavior]:
        sandbox = self._sandboxes.get(event.SandboxId)
        sandbox.dials.append((inner.started_ns, table, event))
        joined = self._by_inversion(sandbox, table, inner, event, self._timely(sandbox, inner.started_ns))
        if joined:
            return joined[0]
        produced: list[NetworkBehavior] = []
        done: set[Peer] = {inner.peer}
        holders = self._holding.family(event.ProcessId)
        for attached, tgids in ((False, holders), (True, self._holding.behind(event))):
            for outer in self._outers(table, inner, tgids, chained=not attached):
                if outer.peer in done or not (attached or self._holding.holds(outer, event, holders)):
                    continue
                young = inner.started_ns - outer.started_ns <= self._settings.pair_ms * 10**6
                if (attached and not young) or len(done) > JOINS:
                    break
                done.add(outer.peer)
                join = Join("pair" if young else "unprompted", attached, None)
                produced += self._join(sandbox, table, outer, Leg(event, ""), join)
        return produced

    def _outers(self, table: FlowTable, inner: Flow, tgids: tuple[int, ...], *, chained: bool) -> Iterator[Flow]:
        """Outward flows of these processes, latest first; then those that another process here carries outward."""
        for tgid in tgids:
            yield from reversed(list(table.outward_of(tgid)))
        if not chained:
            return
        for tgid in tgids:
            for near in list(table.local_of(tgid))[-JOINS:]:
                older = near.started_ns < inner.started_ns and near.event.Initiated
                if older and near is not inner and self._chained(table, near) is not None:
                    yield near

    def _timely(self, sandbox: _Sandbox, dialled_ns: int) -> list[Pending]:
        """Inversions that a dial at this time may have come of, latest first."""
        found = []
        for pending in reversed(sandbox.pending.values()):
            if self._in_time(pending, dialled_ns):
                found.append(pending)
            elif dialled_ns - pending.at_ns > 2 * self._settings.dial_ms * 10**6:
                break  # in the order of the ring, so nearly in that of time
        return found

    def _by_inversion(
        self, sandbox: _Sandbox, table: FlowTable, inner: Flow, event: NetworkFlow, pendings: list[Pending]
    ) -> list[list[NetworkBehavior]]:
        """At most one list: what the join produced."""
        timely = [
            pending
            for pending in pendings
            if pending.flow.peer != inner.peer
            and (pending.flow.outward or self._chained(table, pending.flow) is not None)
        ]
        if not timely:
            return []
        family = self._holding.family(event.ProcessId)
        for pending in timely:
            if self._holding.holds(pending.flow, event, family):
                return [self._join(sandbox, table, pending.flow, Leg(event, ""), Join("inversion", False, pending))]
        for pending in timely[:SCANNED]:
            if event.ProcessId in self._holding.scan(table, pending.flow, event.monotonic_ns):
                return [self._join(sandbox, table, pending.flow, Leg(event, ""), Join("inversion", False, pending))]
        behind = self._holding.behind(event)
        for pending in timely:
            if pending.flow.tgid in behind:
                return [self._join(sandbox, table, pending.flow, Leg(event, ""), Join("inversion", True, pending))]
        return []

    def _chained(self, table: FlowTable, outer: Flow) -> Flow | None:
        """The outward flow of whoever accepted this one over loopback: ssh through stunnel or socat."""
        end = table.other_end(outer)
        if end is None:
            return None
        for tgid in (*self._holding.family(end.tgid), *end.holders):
            for flow in table.outward_of(tgid):
                return flow
        return None

    def _in_time(self, pending: Pending, dialled_ns: int) -> bool:
        after = dialled_ns - pending.at_ns
        return -self._settings.reorder_ms * 10**6 <= after <= self._settings.dial_ms * 10**6

    def _join(self, sandbox: _Sandbox, table: FlowTable, outer: Flow, leg: Leg, join: Join) -> list[NetworkBehavior]:
        event, now_ns = leg.event, leg.event.monotonic_ns
        kind, attached, pending = join
        relayed = self._relayed(sandbox, event.SandboxId, outer.peer)
        window = relayed.window
        if window is not None and attached and not window.attached:
            return []
        if window is not None and (window.attached > attached or (kind == "inversion" and window.over())):
            self._finish(event.SandboxId, relayed)
            window = None
        if window is None:
            window = relayed.window = self._window(table, outer, leg, join, now_ns)
            self._opened(sandbox, event.SandboxId, relayed)
        elif pending is not None and window.kind != "inversion" and window.outer is outer:
            window.kind = "inversion"
            window.trunk(outer, pending.before)
        self._leg(sandbox, relayed, window, leg)
        relayed.outer, relayed.via = outer, outer if outer.outward else self._chained(table, outer)
        if pending is not None:
            if not attached:
                relayed.dial = self._settings.dial
                relayed.episodes += pending.at_ns != relayed.last_inversion_ns
            relayed.last_inversion_ns = pending.at_ns
        return self._tell(sandbox, relayed, now_ns)

    def _opened(self, sandbox: _Sandbox, sandbox_id: int, relayed: Relayed) -> None:
        sandbox.open.pop(relayed.peer, None)
        if len(sandbox.open) >= OPEN:
            self._finish(sandbox_id, sandbox.peers[next(iter(sandbox.open))])
            self._counters["relay_windows_evicted"] += 1
        sandbox.open[relayed.peer] = None
        self._open[sandbox_id, relayed.peer] = relayed

    def _leg(self, sandbox: _Sandbox, relayed: Relayed, window: Window, leg: Leg) -> None:
        event = leg.event
        window.closing_ns = 0
        window.every_ns = 0
        window.next_ns = window.young_ns = event.monotonic_ns + self._settings.evaluate_ms * 10**6
        self.busy = True
        if leg.path:
            window.spoiled = True
        elif len(window.legs) >= self._settings.legs:
            window.spoiled = True
            self._counters["relay_legs_not_followed"] += 1
        else:
            window.legs[event.SocketCookie] = leg
            waiting = sandbox.legs.setdefault(event.SocketCookie, [])
            if relayed not in waiting:
                waiting.append(relayed)
            if len(sandbox.legs) > LEGS:
                del sandbox.legs[next(iter(sandbox.legs))]
        if window.over():
            window.closing_ns = event.monotonic_ns
        relayed.accused = event
        relayed.joined(event.SocketCookie)
        relayed.aim(leg.path or f"{event.DestinationIp}|{event.DestinationPort}", event.DestinationPort)

    def _window(self, table: FlowTable, outer: Flow, leg: Leg, join: Join, now_ns: int) -> Window:
        pending = join.pending
        window = Window(join.kind, join.attached, outer, now_ns)
        at_dial = None if leg.path else self._world.counters_at_dial(leg.event.SocketCookie, outer.cookie)
        current = outer.read(self._world)
        if at_dial is not None:
            current = (at_dial.bytes_out, at_dial.bytes_in, at_dial.packets_out, at_dial.packets_in)
        window.in_at_dial = current[1]
        window.trunk(outer, current if pending is None else pending.before)
        began = now_ns if pending is None else pending.at_ns - self._settings.reorder_ms * 10**6
        for flow in list(table.to(outer.peer))[-PEER_FLOWS:]:
            if flow is outer or not flow.event.Initiated:
                continue
            fresh = flow.started_ns >= began
            window.trunk(flow, NONE if fresh else flow.read(self._world), fresh=fresh)
        return window

    def _relayed(self, sandbox: _Sandbox, sandbox_id: int, peer: Peer) -> Relayed:
        relayed = sandbox.peers.pop(peer, None)
        if relayed is None:
            if len(sandbox.peers) >= self._settings.peers:
                oldest = next(iter(sandbox.peers))
                self._finish(sandbox_id, sandbox.peers.pop(oldest))
                self._counters["relay_peers_evicted"] += 1
            relayed = Relayed(peer)
        sandbox.peers[peer] = relayed
        return relayed

    def _evaluate(self, sandbox: _Sandbox, relayed: Relayed, now_ns: int) -> list[NetworkBehavior]:
        window = relayed.window
        if window is None:
            return []
        moved = window.measure(self._world, now_ns, self._settings)
        slept = 0 if moved or now_ns <= window.young_ns else window.every_ns * 2
        window.every_ns = min(SLEEP_NS, max(self._settings.evaluate_ms * 10**6, slept))
        window.next_ns = now_ns + window.every_ns
        if not moved:
            return []
        if window.closing_ns:
            # What an agent posts afterwards must not undo what a relay has shown, nor may late bytes go missing.
            window.closed = window.result = max(window.closed, window.result, key=lambda result: result.percent)
        if window.proven(self._settings):
            dial = {"unprompted": self._settings.dial_unprompted, "late": self._settings.dial_late}
            relayed.dial = max(relayed.dial, dial.get(window.kind, self._settings.dial))
            relayed.asked_after_dial = relayed.asked_after_dial or window.asked_after_dial
        return self._tell(sandbox, relayed, now_ns)

    def _finish(self, sandbox_id: int, relayed: Relayed) -> None:
        window, relayed.window = relayed.window, None
        self._open.pop((sandbox_id, relayed.peer), None)
        if (sandbox := self._sandboxes.peek(sandbox_id)) is not None:
            sandbox.open.pop(relayed.peer, None)
        if window is None:
            return
        proven = window.proven(self._settings)
        if proven and (window.kind != "inversion" or window.attached):
            relayed.episodes += 1
        if window.counts(self._settings):
            relayed.results.append(window.result)

    def _tell(self, sandbox: _Sandbox, relayed: Relayed, now_ns: int) -> list[NetworkBehavior]:
        parts = parts_of(relayed, self._settings, self._world)
        score = sum(parts.values())
        if not sandbox.levels.passes(relayed.peer, score, now_ns, self._counters):
            return []
        return accuse(relayed, parts, now_ns, self._world, self._settings)
