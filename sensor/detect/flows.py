"""The detectors' shared view of live flows: by cookie, by inode, by process and by peer, bounded per sandbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sensor.configdetect import FlowSettings
from sensor.detect.bounded import PerSandbox
from sensor.detect.world import Counters, Inversion, World
from sensor.events import activity
from sensor.events.activity import NetworkFlow, NetworkProtocol

TUNNELS = frozenset({"ssh", "wireguard", "openvpn", "frp", "bore", "chisel", "wstunnel", "devtunnels", "yamux"})
OWN_ADDRESSES = 32  # remembered of a sandbox
HOLDERS = 16

Peer = tuple[str, int]  # address and 0; for loopback, where every address is the host's, its port too
Totals = tuple[int, int, int, int]  # bytes out, bytes in, packets out, packets in
NONE: Totals = (0, 0, 0, 0)


def trusted_name(event: activity.Flow) -> str:
    """A name that the sandbox made up must not open anything."""
    return event.DestinationHostname if event.HostnameTrusted else ""


class Flow:
    """`event` is the first that told of it. Ports of a peer do not matter: who relays through one server re-dials it
    on another port (localtunnel, FTP-like data ports), and another service on the peer's address is the peer's."""

    __slots__ = (
        "alpn", "application", "begun", "bytes_in", "bytes_out", "certain", "cookie", "ended", "event", "guid",
        "holders", "http", "inode", "inversions", "last_inversion_ns", "last_ns", "local", "outward", "packets_in",
        "packets_out", "peer", "reversed", "scanned_ns", "shell", "started_ns", "tgid", "tunnel",
    )  # fmt: skip

    def __init__(self, event: activity.Flow, started_ns: int, own: Iterable[str]) -> None:
        self.event = event
        self.cookie = event.SocketCookie
        self.inode = event.SocketInode
        self.tgid = event.ProcessId
        self.guid = event.ProcessGuid
        self.started_ns = started_ns
        self.last_ns = event.monotonic_ns
        loopback = event.DestinationIsLoopback
        self.peer: Peer = (event.DestinationIp, event.DestinationPort if loopback else 0)
        mine = event.DestinationIp == event.SourceIp or event.DestinationIp in own
        self.outward = event.Initiated and not loopback and not mine
        self.local = event.Initiated and (loopback or event.DestinationIsPrivate or mine)
        self.holders: dict[int, None] = {}  # besides the maker and its forks
        self.scanned_ns = 0
        self.last_inversion_ns = -1
        self.begun = False  # a NetworkFlow told of it
        self.ended = False
        self.bytes_out = self.bytes_in = self.packets_out = self.packets_in = self.inversions = 0
        self.application = ""
        self.certain = False
        self.tunnel = False
        self.reversed = False  # the sandbox connected, and is the server
        self.http = False  # requests and replies, so far as its first bytes tell
        self.shell = False
        self.alpn = ""

    @property
    def totals(self) -> Totals:
        return self.bytes_out, self.bytes_in, self.packets_out, self.packets_in

    @property
    def marked(self) -> bool:
        return self.tunnel or self.reversed or self.shell or self.inversions > 0

    def told(self, event: NetworkFlow) -> None:
        self.bytes_out, self.bytes_in = max(self.bytes_out, event.BytesOut), max(self.bytes_in, event.BytesIn)
        self.packets_out = max(self.packets_out, event.PacketsOut)
        self.packets_in = max(self.packets_in, event.PacketsIn)
        self.inversions = max(self.inversions, event.Inversions)
        self.last_ns = max(self.last_ns, event.monotonic_ns - event.IdleMs * 10**6)
        self.inode = self.inode or event.SocketInode

    def counted(self, now: Counters | Inversion) -> None:
        self.bytes_out, self.bytes_in = max(self.bytes_out, now.bytes_out), max(self.bytes_in, now.bytes_in)
        self.packets_out = max(self.packets_out, now.packets_out)
        self.packets_in = max(self.packets_in, now.packets_in)

    def read(self, world: World) -> Totals:
        """Its counters now, or those it ended with."""
        if not self.ended and (now := world.counters(self.cookie)) is not None:
            self.counted(now)
            self.last_ns = max(self.last_ns, now.last_ns)
        return self.totals

    def recognised(self, event: NetworkProtocol) -> None:
        name = event.ApplicationProtocol
        if name in TUNNELS:
            self.tunnel = self.tunnel or event.Certain
        if event.Initiated and (event.ProtocolRole, event.FromSandbox) in {("server", True), ("client", False)}:
            self.reversed = True
        if name == "shell":
            self.shell = True
        self.alpn = self.alpn or event.Alpn
        web = name == "http" and not event.Upgrade and event.Method != "CONNECT"
        self.http = self.http or web or (name == "tls" and ("h2" in event.Alpn or "http/" in event.Alpn))
        if event.Upgrade:
            self.http = False
        # A tunnel inside says more than the HTTP around it.
        if name != "unknown" and (not self.application or name in TUNNELS or name == "shell"):
            self.application, self.certain = name, event.Certain


_NONE: dict[int, Flow] = {}


class FlowTable:
    """Of one sandbox. `flows` is in order of last activity, as far as anything told of it."""

    def __init__(self) -> None:
        self.flows: dict[int, Flow] = {}
        self.evicted = 0
        self.own: dict[str, None] = {}
        self._inodes: dict[int, Flow] = {}
        self._outward: dict[int, dict[int, Flow]] = {}  # by process, of its making or in its hands
        self._local: dict[int, dict[int, Flow]] = {}
        self._held: dict[int, dict[int, Flow]] = {}  # by process that did not make them
        self._peers: dict[Peer, dict[int, Flow]] = {}
        self._accepted: dict[tuple[str, int, str, int], Flow] = {}

    def add(self, flow: Flow) -> None:
        self.flows[flow.cookie] = flow
        self._by_process(flow, flow.tgid)
        self._peers.setdefault(flow.peer, {})[flow.cookie] = flow
        self.index(flow)
        event = flow.event
        if not event.Initiated:
            self._accepted[_local_first(event)] = flow
        if event.SourceIp and event.SourceIp not in self.own and len(self.own) < OWN_ADDRESSES:
            self.own[event.SourceIp] = None

    def index(self, flow: Flow) -> None:
        if flow.inode:
            self._inodes[flow.inode] = flow

    def remove(self, flow: Flow) -> None:
        del self.flows[flow.cookie]
        for tgid in (flow.tgid, *flow.holders):
            for index in (self._outward, self._local, self._held):
                _drop(index, tgid, flow)
        _drop(self._peers, flow.peer, flow)
        if self._inodes.get(flow.inode) is flow:
            del self._inodes[flow.inode]
        if not flow.event.Initiated and self._accepted.get(key := _local_first(flow.event)) is flow:
            del self._accepted[key]

    def touch(self, flow: Flow) -> None:
        if self.flows.pop(flow.cookie, None) is not None:
            self.flows[flow.cookie] = flow

    def held(self, flow: Flow, tgid: int) -> None:
        """Another process was seen to hold it."""
        if len(flow.holders) < HOLDERS and tgid != flow.tgid and flow.cookie in self.flows:
            flow.holders[tgid] = None
            self._held.setdefault(tgid, {})[flow.cookie] = flow
            self._by_process(flow, tgid)

    def left(self, tgid: int) -> None:
        """The process ended: the number will be another's. Flows that it made may live on in its forks."""
        for flow in self._held.pop(tgid, {}).values():
            flow.holders.pop(tgid, None)
            _drop(self._outward, tgid, flow)
            _drop(self._local, tgid, flow)

    def outward_of(self, tgid: int) -> Iterable[Flow]:
        """Oldest first."""
        return self._outward.get(tgid, _NONE).values()

    def local_of(self, tgid: int) -> Iterable[Flow]:
        return self._local.get(tgid, _NONE).values()

    def by_inode(self, inode: int) -> Flow | None:
        return self._inodes.get(inode) if inode else None

    def to(self, peer: Peer) -> Iterable[Flow]:
        return self._peers.get(peer, {}).values()

    def _by_process(self, flow: Flow, tgid: int) -> None:
        if flow.outward:
            self._outward.setdefault(tgid, {})[flow.cookie] = flow
        if flow.local:
            self._local.setdefault(tgid, {})[flow.cookie] = flow

    def other_end(self, flow: Flow) -> Flow | None:
        """Of a flow over loopback: the accepted flow that is its other end."""
        event = flow.event
        return self._accepted.get((event.DestinationIp, event.DestinationPort, event.SourceIp, event.SourcePort))

    def evict(self) -> None:
        """From the peer with most flows, so that a flood of them pushes out its own; the quietest that nothing marks
        as a tunnel, else the quietest."""
        crowd = max(self._peers.values(), key=len)
        candidates = crowd if len(crowd) > 1 else self.flows
        plain = (flow for flow in candidates.values() if not flow.marked)
        self.remove(next(plain, None) or next(iter(candidates.values())))
        self.evicted += 1


class Flows:
    def __init__(self, settings: FlowSettings, counters: Counter[str]) -> None:
        self._settings = settings
        self._counters = counters
        self.sandboxes: PerSandbox[FlowTable] = PerSandbox(FlowTable, settings.sandboxes, counters, "flows")

    def observe(self, event: NetworkFlow) -> tuple[FlowTable, Flow | None, bool]:
        """The flow, and whether it is new. None: the end of one that was not known."""
        table = self.sandboxes.get(event.SandboxId)
        flow = self._current(table, event)
        if event.Phase == "ended":
            if flow is not None:
                flow.told(event)
                flow.ended = True
                table.remove(flow)
            return table, flow, False
        started_ns = event.monotonic_ns - event.DurationMs * 10**6
        if flow is None:
            flow = self._add(table, event, started_ns)
        new = not flow.begun
        if new:
            flow.begun, flow.event, flow.started_ns = True, event, min(flow.started_ns, started_ns)
        flow.told(event)
        table.index(flow)
        return table, flow, new

    def recognise(self, event: NetworkProtocol) -> Flow:
        """What first bytes told of a flow; they may come before the flow does, by another CPU."""
        table = self.sandboxes.get(event.SandboxId)
        flow = self._current(table, event) or self._add(table, event, event.monotonic_ns)
        flow.recognised(event)
        return flow

    def find(self, sandbox_id: int, cookie: int) -> Flow | None:
        table = self.sandboxes.peek(sandbox_id)
        return None if table is None else table.flows.get(cookie)

    def _current(self, table: FlowTable, event: activity.Flow) -> Flow | None:
        """Under this cookie, unless that is another flow: an unconnected UDP socket has one to each peer."""
        flow = table.flows.get(event.SocketCookie)
        if flow is None:
            return None
        known = flow.event
        if known.DestinationIp == event.DestinationIp and known.DestinationPort == event.DestinationPort:
            return flow
        if getattr(event, "Phase", "") == "ended":
            return None
        table.remove(flow)
        self._counters["flow_cookies_reused"] += 1
        return None

    def _add(self, table: FlowTable, event: activity.Flow, started_ns: int) -> Flow:
        settings = self._settings
        share = min(settings.per_sandbox, max(settings.floor, settings.in_all // max(1, len(self.sandboxes))))
        while len(table.flows) >= share:
            table.evict()
            self._counters["flows_evicted"] += 1
        flow = Flow(event, started_ns, table.own)
        table.add(flow)
        return flow


def _local_first(event: activity.Flow) -> tuple[str, int, str, int]:
    return event.SourceIp, event.SourcePort, event.DestinationIp, event.DestinationPort


def _drop(index: dict[int, dict[int, Flow]] | dict[Peer, dict[int, Flow]], key: object, flow: Flow) -> None:
    flows = index.get(key)  # type: ignore[call-overload]
    if flows is not None and flows.pop(flow.cookie, None) is not None and not flows:
        del index[key]  # type: ignore[arg-type]
