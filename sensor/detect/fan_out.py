"""(e) Fan-out: many addresses, or many ports of one, in a window. Scans and lateral movement.

Attempts count, whatever became of them: a scan is mostly refused. A window slides by halves, each a bounded set.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections import Counter

from sensor.configdetect import FanOutSettings
from sensor.detect.behavior import behavior
from sensor.detect.bounded import SECOND_NS, Levels, PerSandbox
from sensor.events.activity import NetworkBehavior, NetworkConnection, NetworkFlow

Event = NetworkConnection | NetworkFlow
LOOPBACK = "loopback"  # all of 127/8 is one host


class _Window:
    """Distinct pairs of the current and the last half, as sorted keys: all of a host stand together. Eight bytes a
    pair, since every sandbox may fill its windows, and a dict of tuples takes twenty times as much."""

    __slots__ = ("began_ns", "factor", "full", "half_ns", "hosts", "most", "now", "old")

    def __init__(self, seconds: int, factor: int, most: int) -> None:
        self.half_ns = seconds * SECOND_NS // 2
        self.factor = factor
        self.most = most
        self.began_ns = 0
        self.full = False  # in this half
        self.now = array("Q")
        self.old = array("Q")
        self.hosts = [0, 0]  # public and private, without loopback

    def knows(self, key: int, now_ns: int) -> bool:
        if now_ns - self.began_ns > self.half_ns:
            self._turn(now_ns)
        if self.full or _has(self.now, key):
            return True
        at = bisect_left(self.old, key)
        if at < len(self.old) and self.old[at] == key:  # counted already; kept for another half
            del self.old[at]
            insort(self.now, key)
            return True
        self.full = len(self.now) + len(self.old) >= self.most
        return self.full

    def add(self, key: int) -> None:
        if key >> 32 != _LOOPBACK and not self.ports(key):
            self.hosts[key & 1] += 1
        insort(self.now, key)

    def ports(self, key: int) -> int:
        """Of the key's host."""
        first, last = key >> 32 << 32, key | _HASH
        return sum(bisect_right(half, last) - bisect_left(half, first) for half in (self.now, self.old) if half)

    def _turn(self, now_ns: int) -> None:
        lapsed = now_ns - self.began_ns > 2 * self.half_ns
        self.old = array("Q") if lapsed else self.now
        self.now = array("Q")
        self.began_ns = now_ns
        self.full = False
        self.hosts = [0, 0]
        host = _LOOPBACK
        for key in self.old:
            if key >> 32 not in {host, _LOOPBACK}:
                self.hosts[key & 1] += 1
            host = key >> 32


# A pair's key is its host's hash, its port, and whether it is private. Salted, as every hash of text here: nobody
# outside can make two hosts one.
_HASH = 0xFFFFFFFF
_LOOPBACK = hash(LOOPBACK) & _HASH


def _has(half: array[int], key: int) -> bool:
    at = bisect_left(half, key)
    return at < len(half) and half[at] == key


class _Sandbox:
    def __init__(self, settings: FanOutSettings) -> None:
        self.windows = (
            _Window(settings.window_s, 1, settings.remembered),
            _Window(settings.slow_window_s, settings.slow_factor, settings.remembered),
        )
        self.full_until_ns = 0  # until one turns, there is nothing that they would learn
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
        state = self._sandboxes.get(event.SandboxId)
        now_ns = event.monotonic_ns
        windows = state.windows
        if now_ns <= state.full_until_ns:
            self._counters["fan_out_windows_full"] += len(windows)
            return []
        host = LOOPBACK if event.DestinationIsLoopback else event.DestinationIp
        key = (hash(host) & _HASH) << 32 | event.DestinationPort << 1 | event.DestinationIsPrivate
        first = windows[0]
        if not first.full and now_ns - first.began_ns <= first.half_ns:
            # Most are met in this half already; the longer window has them then, too.
            at = bisect_left(first.now, key)
            if at < len(first.now) and first.now[at] == key:
                return []
        produced = []
        for window in windows:
            if window.knows(key, event.monotonic_ns):
                if window.full:
                    self._counters["fan_out_windows_full"] += 1
                continue
            window.add(key)
            if found := self._weigh(window, host, window.ports(key), event):
                produced.append(found)
        if all(window.full for window in windows):
            state.full_until_ns = min(window.began_ns + window.half_ns for window in windows)
        return produced[:1]

    def _weigh(self, window: _Window, host: str, ports: int, event: Event) -> NetworkBehavior | None:
        """What this event added to, if that passed a multiple of its threshold."""
        settings, private = self._settings, event.DestinationIsPrivate
        hosts = window.hosts[private]
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
            DistinctDestinations=sum(window.hosts),
            DistinctPorts=ports,
            DurationMs=window.half_ns * 2 // 10**6,
            **{field: getattr(event, field) for field in fields},
        )
