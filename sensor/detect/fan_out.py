"""(e) Fan-out: many addresses, or many ports of one, in a window. Scans and lateral movement.

Attempts count, whatever became of them: a scan is mostly refused. A window slides by halves, each a bounded set.
"""

from __future__ import annotations

from collections import Counter

from sensor.configdetect import FanOutSettings
from sensor.detect.behavior import behavior
from sensor.detect.bounded import SECOND_NS, Levels, PerSandbox
from sensor.events.activity import NetworkBehavior, NetworkConnection, NetworkFlow

Event = NetworkConnection | NetworkFlow
LOOPBACK = "loopback"  # all of 127/8 is one host


class _Window:
    """Distinct pairs of the current and the last half."""

    __slots__ = ("began_ns", "factor", "full", "half_ns", "hosts", "most", "old", "pairs", "ports")

    def __init__(self, seconds: int, factor: int, most: int) -> None:
        self.half_ns = seconds * SECOND_NS // 2
        self.factor = factor
        self.most = most
        self.began_ns = 0
        self.full = False
        self.pairs: dict[tuple[str, int], bool] = {}  # → private
        self.old: dict[tuple[str, int], bool] = {}
        self.hosts: dict[bool, int] = {}
        self.ports: dict[str, int] = {}

    def fresh(self, pair: tuple[str, int], now_ns: int) -> bool:
        """Met in this half already: the longer window has it then, too."""
        return pair in self.pairs and now_ns - self.began_ns <= self.half_ns

    def knows(self, pair: tuple[str, int], now_ns: int) -> bool:
        if now_ns - self.began_ns > self.half_ns:
            self._turn(now_ns)
        if pair in self.pairs:
            return True
        if pair in self.old:  # counted already; kept for another half
            self.pairs[pair] = self.old.pop(pair)
            return True
        self.full = len(self.pairs) + len(self.old) >= self.most
        return self.full

    def add(self, pair: tuple[str, int], private: bool) -> None:
        self.pairs[pair] = private
        self._count(pair[0], private)

    def _count(self, host: str, private: bool) -> None:
        if host not in self.ports:
            self.hosts[private] = self.hosts.get(private, 0) + (host != LOOPBACK)
        self.ports[host] = self.ports.get(host, 0) + 1

    def _turn(self, now_ns: int) -> None:
        lapsed = now_ns - self.began_ns > 2 * self.half_ns
        self.old = {} if lapsed else self.pairs
        self.pairs = {}
        self.began_ns = now_ns
        self.hosts, self.ports = {}, {}
        for pair, private in self.old.items():
            self._count(pair[0], private)


class _Sandbox:
    def __init__(self, settings: FanOutSettings) -> None:
        self.windows = (
            _Window(settings.window_s, 1, settings.remembered),
            _Window(settings.slow_window_s, settings.slow_factor, settings.remembered),
        )
        self.levels = Levels(settings.factors, 128, settings.events_an_hour)


class FanOut:
    def __init__(self, settings: FanOutSettings, sandboxes: int, counters: Counter[str]) -> None:
        self._settings = settings
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(lambda: _Sandbox(settings), sandboxes, counters, "fan_out")

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)

    def reached(self, event: Event) -> list[NetworkBehavior]:
        """A connect or an initiated flow, over IP."""
        host = LOOPBACK if event.DestinationIsLoopback else event.DestinationIp
        pair = (host, event.DestinationPort)
        windows = self._sandboxes.get(event.SandboxId).windows
        if windows[0].fresh(pair, event.monotonic_ns):
            return []
        produced = []
        for window in windows:
            if window.knows(pair, event.monotonic_ns):
                self._counters["fan_out_windows_full"] += window.full
                continue
            window.add(pair, event.DestinationIsPrivate)
            if found := self._weigh(window, host, event):
                produced.append(found)
        return produced[:1]

    def _weigh(self, window: _Window, host: str, event: Event) -> NetworkBehavior | None:
        """What this event added to, if that passed a multiple of its threshold."""
        settings, private = self._settings, event.DestinationIsPrivate
        ports, hosts = window.ports[host], window.hosts.get(private, 0)
        most_ports = settings.loopback_ports if host == LOOPBACK else settings.ports
        most_hosts = settings.private_hosts if private else settings.hosts
        by_ports, by_hosts = ports // (most_ports * window.factor), hosts // (most_hosts * window.factor)
        if window.factor > 1 and not private:
            by_hosts = 0  # a browser's hour
        times = max(by_ports, by_hosts)
        if times < settings.factors[0]:
            return None
        what = f"ports {host}" if by_ports >= by_hosts else f"hosts {private}"
        levels = self._sandboxes.get(event.SandboxId).levels
        if not levels.passes(what, times, event.monotonic_ns, self._counters):
            return None
        at = sum(times >= factor for factor in settings.factors) - 1
        points = settings.scores[min(at, len(settings.scores) - 1)]
        lateral = settings.private if private and host != LOOPBACK else 0
        parts = {"ports" if by_ports >= by_hosts else "hosts": points, "private": lateral}
        fields = (
            "Protocol", "DestinationIp", "DestinationPort", "DestinationIsIpv6", "DestinationHostname",
            "DestinationIsLoopback", "DestinationIsPrivate",
        )  # fmt: skip
        return behavior(
            "fan_out",
            event,
            parts,
            event.monotonic_ns,
            None,
            DistinctDestinations=sum(window.hosts.values()),
            DistinctPorts=ports,
            DurationMs=window.half_ns * 2 // 10**6,
            **{field: getattr(event, field) for field in fields},
        )
