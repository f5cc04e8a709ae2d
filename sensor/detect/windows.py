"""A relayed stretch: an outer flow to one peer, and the inner flows that were dialled for it."""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

from msgspec import Struct, structs

from sensor.configdetect import RelaySettings
from sensor.detect.conservation import NOTHING, UNKNOWN, Conserved, Framing, conserved, worth
from sensor.detect.flows import NONE, Flow, Peer, Totals
from sensor.detect.world import World
from sensor.events.activity import NetworkConnection, NetworkFlow

# How the inner flow came: after data on the outer; together with the outer; while the outer was busy; before it.
Kind = Literal["inversion", "pair", "unprompted", "late"]
REMEMBERED = 8  # windows of a peer that the score rests on
TARGETS = 16
MISSING = 3  # looks at an inner flow that the kernel does not know: its end was lost
STARTED = 2048  # bytes out: a first congestion window is 14 kB, so a slow line has sent more


class Pending(Struct, frozen=True, gc=False):
    """An inversion that waits for a dial. The flow is named by its cookie: it may end meanwhile."""

    at_ns: int
    flow: Flow
    before: Totals


class Join(NamedTuple):
    """`attached`: the dialler stands at the holder's pipes, and does not hold the flow."""

    kind: Kind
    attached: bool
    pending: Pending | None


class Leg:
    """An inner flow, which a flood may push out of the table: it is kept here as well."""

    __slots__ = ("event", "missing", "path", "totals")

    def __init__(self, event: NetworkFlow | NetworkConnection, path: str) -> None:
        self.event = event
        self.path = path  # of a unix socket, whose end is not told
        self.missing = 0
        self.totals: Totals = NONE

    def read(self, world: World) -> Totals:
        if (now := world.counters(self.event.SocketCookie)) is not None:
            self.totals = now.bytes_out, now.bytes_in, now.packets_out, now.packets_in
        else:
            self.missing += 1
        return self.totals


class Window:
    def __init__(self, kind: Kind, attached: bool, outer: Flow, opened_ns: int) -> None:
        self.kind: Kind = kind
        self.attached = attached
        self.outer = outer
        self.opened_ns = opened_ns
        self.next_ns = opened_ns
        self.every_ns = 0
        self.young_ns = 0  # until then, looked at with each tick
        self.lag_ns = 0  # since when an answer waits to go out; 0: none does
        self.lagged = False
        self.closing_ns = 0
        self.closed: Conserved = NOTHING  # best since the last inner flow ended
        self.base: dict[int, Totals] = {}
        self.flows: dict[int, Flow] = {}
        self.fresh: set[int] = set()  # of them, those dialled for this stretch
        self.in_at_dial = 0
        self.legs: dict[int, Leg] = {}  # that live
        self.done: Totals = NONE  # of those that ended
        self.spoiled = False  # an inner flow whose bytes are not known
        self.measured: Totals = NONE
        self.asked_after_dial = False
        self.result: Conserved = NOTHING

    def trunk(self, flow: Flow, base: Totals, *, fresh: bool = False) -> None:
        self.flows[flow.cookie] = flow
        self.base[flow.cookie] = base
        if fresh:
            self.fresh.add(flow.cookie)

    def measure(self, world: World, now_ns: int, settings: RelaySettings) -> bool:
        """Compare anew. False: nothing moved since."""
        inner = _sum([self.done, *(leg.read(world) for leg in self.legs.values())])
        for leg in [leg for leg in self.legs.values() if leg.missing >= MISSING]:
            self.left(leg, leg.totals)
        now = {cookie: flow.read(world) for cookie, flow in self.flows.items()}
        moved = _sum([inner, *now.values()])
        if moved == self.measured:
            return False
        self.measured = moved
        if self.spoiled:
            self.result = NOTHING
            return True
        since = {cookie: _less(totals, self.base[cookie]) for cookie, totals in now.items()}
        outer = self.outer.cookie
        # The flow that spoke, the ones re-dialled for it, all of the peer's: other business with the same peer must
        # not hide a relay. For flows dialled together, from their beginning as well, since no pause marked one.
        candidates = [[since[outer]], list(since.values()), [since[cookie] for cookie in self.fresh]]
        if self.kind in {"pair", "late"}:
            candidates.append([now[outer]])
        results = [
            conserved(_sum(candidate), inner, self._framing(fresh=number in {1, 2}, settings=settings), settings)
            for number, candidate in enumerate(candidates)
            if candidate
        ]
        self.result = max(results, key=lambda result: (worth(result, settings), result.percent))
        self._follow(inner[1], sum(totals[0] for totals in since.values()), now_ns, settings)
        came = now[outer][1] - self.in_at_dial + sum(since[cookie][1] for cookie in self.fresh if cookie != outer)
        self.asked_after_dial = inner[0] > 0 and came * 5 >= inner[0] * 4
        return True

    def _follow(self, came: int, gone: int, now_ns: int, settings: RelaySettings) -> None:
        """A relay sends on while it receives, give or take the copying through a pipe. An agent has the whole answer,
        and thinks, before it posts anything: once that was seen, equal numbers later are worth no more than little
        data is."""
        waits = came >= settings.weak_bytes and gone < min(came // 4, STARTED)
        if waits and not self.lag_ns:
            self.lag_ns = now_ns
        if self.lag_ns:
            # By the flow that took it; what another began meanwhile, a client's next dial, is not the answer.
            least = came // 4
            went = [
                flow.last_ns for cookie, flow in self.flows.items() if flow.bytes_out - self.base[cookie][0] >= least
            ]
            went_ns = now_ns if waits else min(went, default=now_ns)
            self.lagged = self.lagged or went_ns - self.lag_ns > settings.lag_ms * 10**6
        if not waits:
            self.lag_ns = 0
        if self.lagged and self.result.percent > settings.weak_percent:
            self.result = structs.replace(self.result, percent=settings.weak_percent, strong=False)

    def _framing(self, *, fresh: bool, settings: RelaySettings) -> Framing:
        secured = sum(self.flows[cookie].application in {"tls", "ssh"} for cookie in self.fresh) if fresh else 0
        out, in_ = secured * settings.handshake_out_bytes, secured * settings.handshake_in_bytes
        if any(flow.tunnel for flow in self.flows.values()):
            return Framing(settings.fixed_tunnel_bytes, settings.packet_tunnel_bytes, out, in_)
        return Framing(settings.fixed_bytes, settings.packet_bytes, out, in_)

    def proven(self, settings: RelaySettings) -> bool:
        result, least = self.result, settings.conserved_percent
        if any(flow.tunnel for flow in self.flows.values()):
            least = settings.compressed_percent  # dbclient compresses unasked; what speaks SSH is no ETL job
        return result.both and result.strong and result.percent >= least

    def counts(self, settings: RelaySettings) -> bool:
        """Whether it says anything: the joins that ordinary programs show all day speak by conserved bytes only."""
        return (self.kind == "inversion" and not self.attached) or self.proven(settings)

    def left(self, leg: Leg, totals: Totals) -> None:
        del self.legs[leg.event.SocketCookie]
        self.done = _sum([self.done, totals])

    def over(self) -> bool:
        return not self.legs


class Relayed:
    """What is known of one peer of a sandbox. `via`: the outward flow, where the outer one is over loopback."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.episodes = 0
        self.dial = 0
        self.last_inversion_ns = -1
        self.targets: dict[str, int] = {}
        self.results: deque[Conserved] = deque(maxlen=REMEMBERED)
        self.window: Window | None = None
        self.outer: Flow | None = None
        self.via: Flow | None = None
        self.legs: dict[int, None] = {}
        self.asked_after_dial = False
        self.unix = False
        self.accused: NetworkFlow | NetworkConnection | None = None

    def joined(self, cookie: int) -> None:
        self.legs.pop(cookie, None)
        if len(self.legs) >= TARGETS:
            del self.legs[next(iter(self.legs))]
        self.legs[cookie] = None

    def aim(self, target: str, port: int) -> None:
        self.targets.pop(target, None)
        if len(self.targets) >= TARGETS:
            del self.targets[next(iter(self.targets))]
        self.targets[target] = port

    def conservation(self, settings: RelaySettings) -> Conserved:
        """Mean percent of the better half of the last windows, one more than half of them: one lucky turn among an
        agent's many does not lift it, nor does one noisy stretch of a relay sink it."""
        results = [result for result in self.results if result.percent != UNKNOWN]
        window = self.window
        if window is not None and window.result.percent != UNKNOWN and window.counts(settings):
            results.append(window.result)
        if not results:
            return NOTHING
        results.sort(key=lambda result: (result.both, result.percent), reverse=True)
        best = results[: len(results) // 2 + 1]
        percent = sum(result.percent for result in best) // len(best)
        return Conserved(percent, all(result.both for result in best), all(result.strong for result in best))


def _sum(of: list[Totals]) -> Totals:
    out = in_ = packets_out = packets_in = 0
    for totals in of:
        out += totals[0]
        in_ += totals[1]
        packets_out += totals[2]
        packets_in += totals[3]
    return out, in_, packets_out, packets_in


def _less(now: Totals, base: Totals) -> Totals:
    return max(0, now[0] - base[0]), max(0, now[1] - base[1]), max(0, now[2] - base[2]), max(0, now[3] - base[3])
