"""Records of flows to activities: who talks with whom, what the first bytes are, names asked and answered.

A flow is known by its socket's cookie and its start. The table is bounded; the oldest go and are counted. Nothing here
raises for what a sandbox sends: dissectors say None to what they do not know.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from msgspec import Struct

from sensor.enrich.addresses import NONE, PROTOCOLS, Address, Addresses
from sensor.enrich.clock import Timeline
from sensor.enrich.dnsevents import DnsFlow, DnsTracker
from sensor.enrich.fields import Common, common
from sensor.enrich.flowtable import Flow, FlowTable, Key, of_payload, of_record
from sensor.enrich.names import Names
from sensor.enrich.processes import ProcessTable
from sensor.enrich.protocols.recognise import recognise, recognise_pair
from sensor.enrich.protocols.result import Found
from sensor.enrich.protocols.whole import is_whole
from sensor.enrich.reassembly import HANDSHAKE, Beginning
from sensor.enrich.sandboxes.registry import Registry
from sensor.events import layouts
from sensor.events.activity import DnsQuery, NetworkFlow, NetworkListen, NetworkProtocol
from sensor.events.layouts import FlowFlag, Payload, Phase, Prefix, Way

# Of events.activity.Flow: protocol; whether begun here; the remote end's address, port, IPv6, name, whether that is
# trusted, loopback, private; the local end's address and port; cookie and inode
Ends = tuple[str, bool, str, int, bool, str, bool, bool, bool, str, int, int, int]
FlowActivity = NetworkFlow | NetworkProtocol | DnsQuery | NetworkListen

_PHASES = ("established", "sample", "ended")
_ENDS = ("", "closed", "idle", "evicted")
_INITIATED, _LATE, _CUT = int(FlowFlag.INITIATED), int(FlowFlag.LATE), int(FlowFlag.CUT)
_ENDED = int(Phase.ENDED)
_PLAIN_WAY = int(Way.OTHER)
_DNS_PORT = 53
_TCP, _UDP = 6, 17
_OUT, _IN = 1, 2  # bits of Flow.told
_RECORD_HEAD = 5  # bytes of a TLS record's
SHORT = 16  # bytes that are looked at whenever there is one more
HELD_MAX = 4096  # flows whose first bytes wait for more
HOLD_NS = 200_000_000
# What a fixed prefix showed in the kernel, as a dissector would call it.
_DENIED = {
    Prefix.SSH: ("ssh", "banner"),
    Prefix.STRATUM: ("stratum", ""),
    Prefix.SOCKS: ("socks", "greeting"),
    Prefix.WIREGUARD: ("wireguard", "handshake"),
    Prefix.BORE: ("bore", "hello"),
    Prefix.HTTP_CONNECT: ("http", "request"),
}


class FlowPolicy(Struct):
    """`denied(class, protocol)`: whether a class's policy denies it. `granted(class, sandbox, name, address, until)`:
    a resolver gave an address for a name."""

    denied: Callable[[str, str], bool] = lambda _class, _protocol: False
    granted: Callable[[str, int, str, str, int], None] = lambda *_: None


class Flows:
    """`limit`: living flows that are kept."""

    def __init__(  # noqa: PLR0917 - the tables it reads
        self,
        sandboxes: Registry,
        processes: ProcessTable,
        timeline: Timeline,
        addresses: Addresses,
        names: Names,
        dns: DnsTracker,
        limit: int,
        policy: FlowPolicy | None = None,
    ) -> None:
        self.names = names
        self.dns = dns
        self.policy = policy or FlowPolicy()
        self.counters: Counter[str] = Counter()
        self.table = FlowTable(limit, self.counters)
        self._held: OrderedDict[Key, Flow] = OrderedDict()
        self._index = 0  # of the activities that one record gives: each has a position of its own
        self._sandboxes = sandboxes
        self._processes = processes
        self._timeline = timeline
        self._addresses = addresses

    # Records.

    def flow(self, r: layouts.Flow, generation: int, position: int) -> Iterator[FlowActivity]:
        """A flow's record. One of no cookie stands for flows that were only counted."""
        self._index = 0
        ended = r.phase == _ENDED
        key = (r.cookie, r.started_ns)
        flow = self.table.living.get(key)
        if flow is None:
            flow = of_record(r)
            if not ended and r.cookie:
                self._keep(key, flow)
        elif r.inode and not flow.inode:
            flow.inode = r.inode
        flow.checked_ns = flow.heard_ns = r.time_ns
        if r.outer_cookie:
            flow.outer = (
                r.outer_cookie, r.outer_bytes_out, r.outer_bytes_in, r.outer_packets_out, r.outer_packets_in,
            )  # fmt: skip
        where = (generation, position, r.time_ns)
        if ended:
            yield from self._protocols(flow, where, over=True)
            self._let_go(key)
        common_fields, ends = self._of(flow, where)
        cut = bool(r.flow_flags & _CUT)
        end = _ENDS[r.end] if r.end < len(_ENDS) else "closed"
        yield NetworkFlow(
            *common_fields,
            *ends,
            _PHASES[r.phase] if r.phase < len(_PHASES) else "sample",
            "cut" if cut else end,
            max(0, r.time_ns - r.started_ns) // 1_000_000,
            max(0, r.time_ns - r.last_ns) // 1_000_000,
            r.bytes_out,
            r.bytes_in,
            r.packets_out,
            r.packets_in,
            r.inversions,
            bool(r.flow_flags & _LATE),
            r.count,
            r.net_ns,
        )
        if cut and r.denied and not ended:
            name, kind = _DENIED.get(Prefix(r.denied) if r.denied < len(Prefix) else Prefix.NONE, ("unknown", ""))
            found = Found(name, "client", kind)
            yield self._protocol(flow, found, outward=True, where=where, denied=True)

    def payload(self, r: Payload, generation: int, position: int) -> Iterator[FlowActivity]:
        """First bytes, or a DNS message."""
        self._index = 0
        key = (r.cookie, r.started_ns)
        flow = self.table.living.get(key)
        if flow is None:
            flow = of_payload(r)
            self._keep(key, flow)
        where = (generation, position, r.time_ns)
        udp = r.protocol == _UDP
        if udp and _DNS_PORT in (r.remote_port, r.local_port):
            yield from self._dns_message(flow, r, where)
            return
        if self._add(flow, r):  # else there is nothing new to look at: a retransmit, or what waits for a gap
            yield from self._protocols(flow, where)
        if not udp and _DNS_PORT in (r.remote_port, r.local_port):
            yield from self._dns_message(flow, r, where)

    def listen(self, r: layouts.Listen, generation: int, position: int) -> Iterator[FlowActivity]:
        process, before = self._processes.actor(r.tgid, r.exec_id, r.sandbox_id)
        sandbox = self._sandboxes.get(r.sandbox_id)
        utc = self._timeline.utc(r.time_ns)
        where = (generation, position, utc, r.time_ns, r.sandbox_id, sandbox.name, sandbox.class_, r.cgroup_id, r.tgid)
        address = self._addresses.get(r.family, r.address)
        anywhere = not any(r.address)
        yield NetworkListen(
            *common(where, process, process.user if process is not None else "", before=before),
            PROTOCOLS.get(r.protocol) or f"ip:{r.protocol}",
            address.text,
            r.port,
            address.is_ipv6,
            address.is_loopback and not anywhere,
            anywhere,
            r.cookie,
        )

    def settle(self, now_ns: int) -> Iterator[FlowActivity]:
        """Protocols that were recognised by bytes which were to become more, and did not for a while."""
        self._index = 0
        while self._held:
            key, flow = next(iter(self._held.items()))
            if now_ns - flow.held_ns < HOLD_NS:
                return
            del self._held[key]
            yield from self._protocols(flow, (0, self._timeline.utc(now_ns), now_ns), settled=True)

    @property
    def holding(self) -> bool:
        return bool(self._held)

    def forget(self, sandbox_id: int) -> None:
        """A sandbox is over."""
        for key in self.table.of_sandbox(sandbox_id):
            self._let_go(key)
        self.names.forget(sandbox_id)
        self.dns.forget(sandbox_id)

    # What they say.

    def _keep(self, key: Key, flow: Flow) -> None:
        gone = self.table.add(key, flow)
        if gone is not None:
            self._held.pop(gone, None)

    def _let_go(self, key: Key) -> None:
        self.table.remove(key)
        self._held.pop(key, None)

    def _add(self, flow: Flow, r: Payload) -> bool:
        """Whether a direction that is not told yet has more bytes now."""
        if flow.told & (_IN if r.incoming else _OUT):
            return False
        beginning = flow.in_ if r.incoming else flow.out
        if beginning is None:
            beginning = Beginning()
            if r.incoming:
                flow.in_ = beginning
            else:
                flow.out = beginning
        if r.protocol == _UDP:
            # Datagrams are wholes: the first that is recognised counts, and QUIC's hello may be in the second.
            beginning.data = r.data
            return True
        return beginning.add(r.offset, r.data)

    def _protocols(
        self, flow: Flow, where: tuple[int, int, int], *, settled: bool = False, over: bool = False
    ) -> Iterator[NetworkProtocol]:
        """What can be told by now of both directions. What more bytes would make better waits, until they have
        `settled` or the flow is `over`. What settled is told again if the rest comes after all and says more: a
        pause in the middle of a hello must not hide its name."""
        udp = flow.protocol == _UDP
        waits = False
        for bit, beginning in ((_OUT, flow.out), (_IN, flow.in_)):
            if beginning is None or flow.told & bit or not beginning.data:
                continue
            if not (settled or over or _is_worth_a_try(flow, bit, beginning.data)):
                waits = True
                continue
            found = recognise(beginning.data, udp)
            hint = flow.hints[bit == _IN]
            if found is None:
                unknown = over or beginning.full
                flow.told |= bit if unknown else 0
                self.counters["protocols_unknown"] += unknown
            elif over or udp or is_whole(found, beginning.data):
                flow.told |= bit
                if found != hint:
                    yield self._protocol(flow, found, bit == _OUT, where)
            elif settled and hint is None:
                flow.hints = (found, flow.hints[1]) if bit == _OUT else (flow.hints[0], found)
                yield self._protocol(flow, found, bit == _OUT, where)
            else:
                waits = waits or hint is None
        yield from self._pair(flow, where)
        self._hold(flow, waits, where[2])
        if flow.told & _OUT and flow.out is not None:
            flow.out = _SPENT
        if flow.told & _IN and flow.in_ is not None:
            flow.in_ = _SPENT

    def _pair(self, flow: Flow, where: tuple[int, int, int]) -> Iterator[NetworkProtocol]:
        """What only both directions show."""
        if flow.told or any(flow.hints) or flow.out is None or flow.in_ is None:
            return
        client, server = (flow.out, flow.in_) if flow.initiated else (flow.in_, flow.out)
        found = recognise_pair(client.data, server.data)
        if found is not None:
            flow.told = _OUT | _IN
            yield self._protocol(flow, found, flow.initiated, where)

    def _hold(self, flow: Flow, waits: bool, now_ns: int) -> None:
        key = (flow.cookie, flow.started_ns)
        if not waits:
            self._held.pop(key, None)
        elif key not in self._held and len(self._held) < HELD_MAX:
            flow.held_ns = now_ns
            self._held[key] = flow

    def _protocol(
        self, flow: Flow, found: Found, outward: bool, where: tuple[int, int, int], *, denied: bool = False
    ) -> NetworkProtocol:
        common_fields, ends = self._of(flow, where)
        address = ends[2]
        unresolved = (
            bool(found.server_name)
            and found.protocol in ("tls", "quic")
            and flow.initiated
            and self.names.asked(flow.sandbox_id, address)
            and not self.names.has_name(flow.sandbox_id, address, found.server_name)
        )
        class_ = self._sandboxes.get(flow.sandbox_id).class_
        return NetworkProtocol(
            *common_fields,
            *ends,
            found.protocol,
            outward,
            found.role,
            found.kind,
            found.version,
            found.software,
            found.server_name,
            unresolved,
            found.alpn,
            found.ja4,
            found.method,
            found.path,
            found.upgrade,
            found.subprotocol,
            found.dialect,
            found.user,
            found.target,
            found.certain,
            denied or self.policy.denied(class_, denied_name(found)),
        )

    def _dns_message(self, flow: Flow, r: Payload, where: tuple[int, int, int]) -> Iterator[DnsQuery]:
        udp = r.protocol == _UDP
        remote = self._addresses.get(flow.family, flow.remote)
        asker = DnsFlow("udp" if udp else "tcp", flow.cookie, remote.text, flow.remote_port, flow.local_port)
        # `lo` and a tun device may have any address that the sandbox's root likes.
        aside = r.device != _PLAIN_WAY or remote.is_loopback
        said = self.dns.take(
            r.sandbox_id, asker, r.data, bool(r.incoming), r.time_ns, aside, offset=r.offset, length=r.length
        )
        for one in said:
            common_fields, ends = self._of(flow, where)
            yield DnsQuery(
                *common_fields,
                *ends,
                one.QueryName,
                one.QueryType,
                one.Answered,
                one.QueryStatus,
                one.QueryResults,
                one.RegisteredDomain,
                one.Resolver,
                one.MessageBytes,
            )
            class_ = common_fields[6]
            for name, address, until_ns in one.granted:
                self.policy.granted(class_, r.sandbox_id, name, address, until_ns)

    def _of(self, flow: Flow, where: tuple[int, int, int]) -> tuple[Common, Ends]:
        """The fields that all events of a flow share."""
        generation, position, monotonic_ns = where
        process, before = self._processes.actor(flow.tgid, flow.exec_id, flow.sandbox_id)
        sandbox = self._sandboxes.get(flow.sandbox_id)
        utc = self._timeline.utc(monotonic_ns)
        place = (
            generation, position + self._index, utc, monotonic_ns, flow.sandbox_id, sandbox.name, sandbox.class_,
            flow.cgroup_id, flow.tgid,
        )  # fmt: skip
        self._index += 1
        to = self._addresses.get(flow.family, flow.remote)
        start = self._addresses.get(flow.family, flow.local)
        user = process.user if process is not None else ""
        fields = common(place, process, user, before=before, existing=flow.adopted)
        return fields, self._ends(flow, to, start, monotonic_ns)

    def _ends(self, flow: Flow, to: Address, start: Address, now_ns: int) -> Ends:
        name = "" if to is NONE else self.names.name_of(flow.sandbox_id, to.text, now_ns)
        return (
            PROTOCOLS.get(flow.protocol) or f"ip:{flow.protocol}",
            flow.initiated,
            to.text,
            flow.remote_port,
            to.is_ipv6,
            name,
            bool(name) and self.names.trusted_name(flow.sandbox_id, to.text, now_ns) == name,
            to.is_loopback,
            to.is_private,
            start.text,
            flow.local_port,
            flow.cookie,
            flow.inode,
        )


def _is_worth_a_try(flow: Flow, bit: int, data: bytes) -> bool:
    """Whoever writes byte by byte must not have dissectors look at each: a line's end, or a quarter more."""
    if len(data) <= _RECORD_HEAD and data[0] == HANDSHAKE:
        return False  # a TLS record's head does not say what is in it
    tried = flow.tried_out if bit == _OUT else flow.tried_in
    fresh = data[tried:]
    if tried > SHORT and len(fresh) * 4 < tried and b"\n" not in fresh and b"\0" not in fresh:
        return False
    if bit == _OUT:
        flow.tried_out = len(data)
    else:
        flow.tried_in = len(data)
    return True


_SPENT = Beginning()  # of a direction that was told: never added to, shared by all


def denied_name(found: Found) -> str:
    """What a policy calls a protocol."""
    return "http-connect" if found.protocol == "http" and found.method == "CONNECT" else found.protocol
