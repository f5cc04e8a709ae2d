"""(c) Beacon: small exchanges at regular times, on one flow or by successive short ones to one peer.

Regular alone is low: model keep-alives, WebSocket pings and pollers of queues are. What raises it is a peer outside,
half an hour of it, and bytes that no dissector knows.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise

from sensor.configdetect import BeaconSettings
from sensor.detect.behavior import behavior, processes, total
from sensor.detect.bounded import SECOND_NS, Levels, PerSandbox
from sensor.detect.flows import Flow, FlowTable
from sensor.detect.world import World
from sensor.events.activity import NetworkBehavior

Key = tuple[str, int, str]  # address, port, protocol


class _Exchanges:
    """Of one peer. Times are CLOCK_MONOTONIC; what is closer together than the least period is one exchange."""

    __slots__ = ("application", "flow", "last_ns", "since_ns", "small", "times")

    def __init__(self, flow: Flow, remembered: int) -> None:
        self.flow = flow
        self.application = flow.application  # of any flow to the peer: the first bytes come after the flow
        self.times: deque[int] = deque(maxlen=remembered)
        self.small: deque[bool] = deque(maxlen=remembered)
        self.last_ns = 0
        self.since_ns = -1  # when it became regular: more may have been than are remembered

    def add(self, at_ns: int, small: bool, least_ns: int) -> bool:
        near = bool(self.times) and at_ns - self.last_ns < least_ns
        self.last_ns = max(self.last_ns, at_ns)
        if near:  # still the same: it is as large as its largest part
            self.small[-1] = self.small[-1] and small
            return False
        self.times.append(at_ns)
        self.small.append(small)
        return True


class _Read:
    __slots__ = ("bytes", "changed_ns", "every_s", "flow", "next_ns")

    def __init__(self, flow: Flow, now_ns: int, every_s: int) -> None:
        self.flow = flow
        self.bytes = flow.bytes_in + flow.bytes_out
        self.every_s = every_s
        self.next_ns = now_ns + every_s * SECOND_NS
        self.changed_ns = now_ns


class _Sandbox:
    def __init__(self, settings: BeaconSettings) -> None:
        self.read: dict[int, _Read] = {}
        self.peers: dict[Key, _Exchanges] = {}
        self.levels = Levels(settings.marks, 128, settings.events_an_hour)


class Beacon:
    def __init__(self, settings: BeaconSettings, sandboxes: int, world: World, counters: Counter[str]) -> None:
        self._settings = settings
        self._world = world
        self._counters = counters
        self._least_ns = int(settings.period_min_s * SECOND_NS * 0.5)
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(lambda: _Sandbox(settings), sandboxes, counters, "beacon")

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)

    def began(self, flow: Flow) -> list[NetworkBehavior]:
        """An outward flow: an exchange in itself, small until it ends large; and to be read while it lives."""
        sandbox = self._sandboxes.get(flow.event.SandboxId)
        if len(sandbox.read) >= self._settings.flows:
            # What has never changed since it was read goes first, then the oldest.
            del sandbox.read[min(sandbox.read, key=lambda cookie: sandbox.read[cookie].changed_ns)]
            self._counters["beacon_flows_evicted"] += 1
        sandbox.read[flow.cookie] = _Read(flow, flow.last_ns, self._settings.every_s)
        return self._exchange(sandbox, flow, flow.started_ns, small=True)

    def recognised(self, flow: Flow) -> None:
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        if sandbox is not None and (exchanges := sandbox.peers.get(_key(flow))) is not None:
            exchanges.application = flow.application or exchanges.application

    def ended(self, flow: Flow) -> None:
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        if sandbox is None:
            return
        sandbox.read.pop(flow.cookie, None)
        exchanges = sandbox.peers.get(_key(flow))
        short = flow.last_ns - flow.started_ns < self._settings.every_s * SECOND_NS
        if exchanges is not None and exchanges.small and short:
            large = flow.bytes_in + flow.bytes_out > self._settings.small_bytes
            exchanges.small[-1] = exchanges.small[-1] and not large

    def tick(self, tables: PerSandbox[FlowTable], now_ns: int) -> list[NetworkBehavior]:
        produced = []
        for sandbox_id, sandbox in self._sandboxes.items():
            table = tables.peek(sandbox_id)
            for cookie, read in list(sandbox.read.items()):
                if now_ns < read.next_ns:
                    continue
                if table is None or table.flows.get(cookie) is not read.flow:
                    del sandbox.read[cookie]
                else:
                    produced += self._look(sandbox, read, now_ns)
        return produced

    def _look(self, sandbox: _Sandbox, read: _Read, now_ns: int) -> list[NetworkBehavior]:
        settings, flow = self._settings, read.flow
        now = self._world.counters(flow.cookie)
        moved = 0 if now is None else now.bytes_in + now.bytes_out - read.bytes
        produced: list[NetworkBehavior] = []
        if now is not None and moved > 0:
            read.bytes += moved
            # Two in a row: its period is below the rate of reading.
            read.every_s = (
                settings.fast_s if now_ns - read.changed_ns <= settings.every_s * SECOND_NS else settings.every_s
            )
            read.changed_ns = now_ns
            flow.counted(now)
            produced = self._exchange(sandbox, flow, now.last_ns, small=moved <= settings.small_bytes)
        elif now_ns - read.changed_ns > settings.slow_after_s * SECOND_NS:
            read.every_s = settings.slow_s
        elif now_ns - read.changed_ns > settings.every_s * SECOND_NS:
            read.every_s = settings.every_s
        read.next_ns = now_ns + read.every_s * SECOND_NS
        return produced

    def _exchange(self, sandbox: _Sandbox, flow: Flow, at_ns: int, *, small: bool) -> list[NetworkBehavior]:
        key = _key(flow)
        exchanges = sandbox.peers.pop(key, None)
        if exchanges is None:
            if len(sandbox.peers) >= self._settings.peers:
                del sandbox.peers[next(iter(sandbox.peers))]
                self._counters["beacon_peers_evicted"] += 1
            exchanges = _Exchanges(flow, self._settings.remembered)
        sandbox.peers[key] = exchanges
        exchanges.flow = flow
        if not exchanges.add(at_ns, small, self._least_ns) or len(exchanges.times) < self._settings.exchanges:
            return []
        return self._weigh(sandbox, key, exchanges, at_ns)

    def _weigh(self, sandbox: _Sandbox, key: Key, exchanges: _Exchanges, now_ns: int) -> list[NetworkBehavior]:
        settings, flow, times = self._settings, exchanges.flow, list(exchanges.times)
        gaps = sorted(later - earlier for earlier, later in pairwise(times))
        period = gaps[len(gaps) // 2]
        jitter = (gaps[len(gaps) * 3 // 4] - gaps[len(gaps) // 4]) * 100 // max(1, period)
        small = sum(exchanges.small) * 100 >= len(times) * settings.small_percent
        if not small or not settings.period_min_s <= period / SECOND_NS <= settings.period_max_s:
            exchanges.since_ns = -1
            return []
        if jitter > settings.jitter_percent:
            if jitter > 2 * settings.jitter_percent:  # a few samples of one that is random may seem so for a while
                exchanges.since_ns = -1
            return []
        if exchanges.since_ns < 0:
            exchanges.since_ns = times[0]
        lasted_ns = max(times[-1] - exchanges.since_ns, 0)
        private = flow.event.DestinationIsPrivate
        parts = {
            "regular": settings.regular,
            "precise": settings.precise if jitter * 3 <= settings.jitter_percent else 0,
            "long": settings.long if lasted_ns >= settings.long_s * SECOND_NS else 0,
            "raw": 0 if exchanges.application else settings.raw,
            "peer": settings.private_peer if private else settings.public,
        }
        if not sandbox.levels.passes(key, total(parts), now_ns, self._counters):
            return []
        return [
            behavior(
                "beacon",
                flow.event,
                parts,
                now_ns,
                flow,
                ApplicationProtocol=exchanges.application,
                PeriodMs=period // 10**6,
                JitterPercent=jitter,
                DurationMs=lasted_ns // 10**6,
                Repetitions=len(times),
                HolderProcessIds=processes([flow.tgid]),
            )
        ]


def _key(flow: Flow) -> Key:
    return flow.event.DestinationIp, flow.event.DestinationPort, flow.event.Protocol
