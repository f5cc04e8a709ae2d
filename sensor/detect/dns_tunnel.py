"""DNS tunnels: names that carry data, told by how much that was never seen before a domain's names hold.

A tunnel (iodine, dns2tcp, dnscat2) moves its bytes upstream in labels that cannot repeat, since no cache may
answer for its server, and downstream in record types with room. What looks like it repeats labels (search
paths, block lists with a customer's key, reverse look-ups), has short ones (CDNs, crawlers) or few names a
domain (analytics). So what counts is the length of the new labels of new names within a minute; entropy and
types confirm.

Statistics are by sandbox and registered domain. A server that is asked directly needs no domain: its client may ask
a new one each time, so names sent to an outside address that is no configured resolver are also taken
together, by that address (Domain is then "").
Not seen: less than about ten names a minute, and 16 bytes a name in the shape of reverse look-ups.
"""

from __future__ import annotations

import re
from collections import Counter
from math import log2

from sensor.configdetect import DnsTunnelSettings
from sensor.enrich.domains import labels_of
from sensor.events.activity import Activity, DnsQuery, NetworkBehavior

LEVELS = (40, 60, 80)
COOKIES_MAX = 16
SANDBOXES_MAX = 16384
LABELS_TOLD_APART = 8  # more below the domain are taken as one: two characters a label would soon all be known
_ROOMY = frozenset({"TXT", "NULL", "CNAME", "MX", "KEY", "SRV", "TYPE65399"})  # 65399: iodine's PRIVATE
_ORDINARY = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_*")  # `*`: asked for literally by some checkers
_REVERSE = re.compile(r"(?:[0-9]{1,3}\.){0,4}in-addr\.arpa|(?:[0-9a-f]\.){0,32}ip6\.arpa")
_ESCAPE = re.compile(r"\\([0-9]{3}|.)")
_ACTIVITY = tuple(name for name in Activity.__struct_fields__ if name != "position")
_NS = 1_000_000_000


class _Seen:
    """A set that forgets: labels and names of about the last 128 to 256 additions, 5 % more by mistake, 370 bytes."""

    __slots__ = ("_added", "_now", "_past")

    def __init__(self) -> None:
        self._now, self._past, self._added = bytearray(128), bytearray(128), 0

    def add(self, text: str) -> bool:
        """Whether it is new. Python's hash is keyed: nobody can aim at its bits."""
        key = hash(text)
        one, two = key & 1023, key >> 10 & 1023
        if self._has(self._now, one, two):
            return False
        new = not self._has(self._past, one, two)
        if self._added >= 128:
            self._past, self._now, self._added = self._now, bytearray(128), 0
        self._now[one >> 3] |= 1 << (one & 7)
        self._now[two >> 3] |= 1 << (two & 7)
        self._added += 1
        return new

    @staticmethod
    def _has(bits: bytearray, one: int, two: int) -> bool:
        return bool(bits[one >> 3] >> (one & 7) & 1 and bits[two >> 3] >> (two & 7) & 1)


_QUERIES, _NAMES, _CHARACTERS, _ENTROPY, _TYPES, _ODD, _ANSWERS, _ANSWER_BYTES, _MISSES, _COUNTS = range(10)


class _Domain:
    """Of one domain: counts of this window and of the one before it."""

    __slots__ = (
        "began_ns",
        "bytes_in",
        "bytes_out",
        "cookies",
        "first_ns",
        "last_ns",
        "now",
        "past",
        "seen",
        "told_ns",
    )

    def __init__(self, now_ns: int) -> None:
        self.first_ns = self.began_ns = self.last_ns = now_ns
        self.bytes_in = self.bytes_out = 0
        self.now = [0] * _COUNTS
        self.past = [0] * _COUNTS
        self.seen = _Seen()
        self.cookies: list[int] = []
        self.told_ns: dict[int, int] = {}  # level → when

    def turn(self, now_ns: int, window_ns: int) -> None:
        passed = (now_ns - self.began_ns) // window_ns
        if passed > 0:
            self.past = self.now if passed == 1 else [0] * _COUNTS
            self.now = [0] * _COUNTS
            self.began_ns += passed * window_ns
        self.last_ns = max(self.last_ns, now_ns)

    def counts(self, now_ns: int, window_ns: int) -> list[float]:
        """Of the last window's length, as if the one before had been even."""
        weight = min(1.0, max(0.0, 1 - (now_ns - self.began_ns) / window_ns))
        return [now + past * weight for now, past in zip(self.now, self.past, strict=True)]


class DnsTunnel:
    """Times are the events' CLOCK_MONOTONIC nanoseconds."""

    def __init__(self, settings: DnsTunnelSettings | None = None) -> None:
        self._settings = settings or DnsTunnelSettings()
        self._window_ns = self._settings.window_s * _NS
        self._internal = tuple(f".{zone}" for zone in self._settings.internal)
        self._trusted = frozenset(self._settings.trusted)
        self._sandboxes: dict[int, dict[str, _Domain]] = {}  # the domain longest not asked first
        self._told: dict[int, tuple[int, int]] = {}  # sandbox → begin of its hour, events told in it
        self._count = 0
        self._swept_ns = 0
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._count

    def observe(self, event: DnsQuery) -> list[NetworkBehavior]:
        # What others ask of a sandbox is no way out of it. Loopback counts: Docker's resolver is there.
        if not event.Initiated or self._is_ordinary(event):
            return []
        name = event.RegisteredDomain
        domain = self._domain(event, name)
        found = self._take(event, domain, name)
        if event.Resolver or event.DestinationIsPrivate or domain.now[_NAMES] + domain.past[_NAMES] > 2:
            return found
        return found + self._take(event, self._domain(event, f"@{event.DestinationIp}"), "")

    def tick(self, monotonic_ns: int, utc_ns: int) -> list[NetworkBehavior]:
        """Forgets what is idle. Silence shows no tunnel, so nothing is ever told from here."""
        if monotonic_ns - self._swept_ns < self._window_ns:
            return []
        self._swept_ns = monotonic_ns
        oldest = monotonic_ns - self._settings.idle_s * _NS
        for sandbox_id, held in list(self._sandboxes.items()):
            while held and (first := next(iter(held.values()))).last_ns < oldest:
                if any(at_ns > monotonic_ns - self._settings.again_s * _NS for at_ns in first.told_ns.values()):
                    break  # else it would be told again too soon
                del held[next(iter(held))]
                self._count -= 1
            if not held:
                del self._sandboxes[sandbox_id]
        return []

    def forget(self, sandbox_id: int) -> None:
        self._count -= len(self._sandboxes.pop(sandbox_id, ()))
        self._told.pop(sandbox_id, None)

    def _is_ordinary(self, event: DnsQuery) -> bool:
        name = event.QueryName
        if name.endswith(".arpa") and _REVERSE.fullmatch(name):
            return True
        if event.RegisteredDomain in self._trusted:
            return True
        return name.endswith(self._internal) and (event.Resolver or event.DestinationIsPrivate)

    def _domain(self, event: DnsQuery, key: str) -> _Domain:
        held = self._sandboxes.get(event.SandboxId, {})
        domain = held.pop(key, None)
        if domain is None:
            self._make_room(held)
            domain = _Domain(event.monotonic_ns)
            self._count += 1
        self._sandboxes.setdefault(event.SandboxId, held)[key] = domain
        domain.turn(event.monotonic_ns, self._window_ns)
        return domain

    def _make_room(self, held: dict[str, _Domain]) -> None:
        if len(held) >= self._settings.domains_per_sandbox:
            del held[next(iter(held))]
            self._count -= 1
            self.counters["dns_domains_dropped_sandbox"] += 1
        if self._count >= self._settings.domains:
            # A quarter of the sandbox that holds most: a flood costs itself, and the search is paid by many.
            sandbox_id, largest = max(self._sandboxes.items(), key=lambda item: len(item[1]))
            dropped = list(largest)[: max(1, len(largest) // 4)]
            for key in dropped:
                del largest[key]
            self._count -= len(dropped)
            self.counters["dns_domains_dropped_all"] += len(dropped)
            if not largest:
                del self._sandboxes[sandbox_id]

    def _take(self, event: DnsQuery, domain: _Domain, told_as: str) -> list[NetworkBehavior]:
        counts = domain.now
        if event.Answered:
            domain.bytes_in += event.MessageBytes
            counts[_ANSWERS] += 1
            counts[_ANSWER_BYTES] += event.MessageBytes
            counts[_MISSES] += event.QueryStatus == "NXDOMAIN"
            return []
        _count_name(event, domain, told_as)
        if event.SocketCookie not in domain.cookies:
            domain.cookies = [*domain.cookies[-COOKIES_MAX + 1 :], event.SocketCookie]
        now = domain.counts(event.monotonic_ns, self._window_ns)
        if now[_NAMES] <= self._settings.names[0]:
            return []
        parts = _score(now, self._settings)
        score = max(0, min(100, sum(parts.values())))
        due_ns = event.monotonic_ns - self._settings.again_s * _NS
        reached = [level for level in LEVELS if score >= level]
        if all(domain.told_ns.get(level, due_ns - 1) > due_ns for level in reached):
            return []
        for level in reached:
            domain.told_ns[level] = event.monotonic_ns
        if not self._may_tell(event):
            return []
        position = event.position + (1 if told_as else 2)
        return [_behavior(event, domain, told_as, position, score, parts, now)]

    def _may_tell(self, event: DnsQuery) -> bool:
        began_ns, count = self._told.get(event.SandboxId, (event.monotonic_ns, 0))
        if event.monotonic_ns - began_ns > 3600 * _NS:
            began_ns, count = event.monotonic_ns, 0
        if count >= self._settings.events_an_hour:
            self.counters["behaviors_over_hourly_limit"] += 1
            return False
        if len(self._told) >= SANDBOXES_MAX:  # events that trail behind their sandbox's end
            del self._told[next(iter(self._told))]
        self._told[event.SandboxId] = (began_ns, count + 1)
        return True


def _count_name(event: DnsQuery, domain: _Domain, told_as: str) -> None:
    counts = domain.now
    counts[_QUERIES] += 1
    counts[_TYPES] += event.QueryType in _ROOMY
    labels = labels_of(event.QueryName)
    # Taken together by address, all but the top level may be data.
    labels = labels[: -len(labels_of(told_as))] if told_as else labels[:-1]
    below = [_unescaped(label) for label in labels]
    whole = "".join(below)
    domain.bytes_out += len(whole)
    if len(below) > LABELS_TOLD_APART:
        below = [whole]
    new = sum(len(label) for label in below if domain.seen.add(label))
    if not domain.seen.add(f"{event.QueryName}."):  # A and AAAA of one name; a resolver's second try
        return
    counts[_NAMES] += 1
    counts[_CHARACTERS] += new
    counts[_ENTROPY] += entropy(whole)
    counts[_ODD] += not _ORDINARY.issuperset(whole)


def _score(now: list[float], settings: DnsTunnelSettings) -> dict[str, int]:
    """Parts, in a fixed order. Length is needed for a verdict: types and entropy of short names say little."""
    names = now[_NAMES]
    length = now[_CHARACTERS] / names
    many = _ramp(names, *settings.names)
    long = _ramp(length, *settings.length)
    random = _ramp(now[_ENTROPY] / names, *settings.entropy) * _ramp(length, 12, 32)
    roomy = _ramp(100 * now[_TYPES] / now[_QUERIES], *settings.types) * _ramp(length, 6, 16) * many
    heavy = _ramp(now[_ANSWER_BYTES] / now[_ANSWERS] if now[_ANSWERS] else 0, *settings.answers) * long * many
    # Names that do not exist bring nothing back: search paths, block lists. Data may go out by them all the same.
    missing = _ramp(now[_MISSES] / now[_ANSWERS] if now[_ANSWERS] else 0, 0.5, 0.9)
    return {
        "names": round(20 * many + 5 * _ramp(names, 20, 100)),
        "length": round(30 * long * many),
        "entropy": round(15 * random * many),
        "types": round(25 * roomy),
        "answers": round(10 * heavy),
        "characters": round(10 * _ramp(now[_ODD] / names, 0.1, 0.5) * many),
        "nxdomain": -round(10 * missing),
    }


def _ramp(value: float, begin: float, full: float) -> float:
    """0 up to `begin`, 1 from `full` on."""
    if value >= full:
        return 1.0
    return 0.0 if value <= begin else (value - begin) / (full - begin)


def entropy(text: str) -> int:
    """Of its characters' frequencies, thousandths of a bit a character."""
    size = len(text)
    if size < 2:
        return 0
    return round(1000 * (log2(size) - sum(n * log2(n) for n in map(text.count, set(text))) / size))


def _unescaped(label: str) -> str:
    """One character a byte."""
    return label if "\\" not in label else _ESCAPE.sub(_byte, label)


def _byte(match: re.Match[str]) -> str:
    return chr(int(match[1])) if match[1].isdecimal() else match[1]


def _behavior(  # noqa: PLR0917
    event: DnsQuery, domain: _Domain, told_as: str, position: int, score: int, parts: dict[str, int], now: list[float]
) -> NetworkBehavior:
    return NetworkBehavior(
        **{name: getattr(event, name) for name in _ACTIVITY},
        position=position,
        Behavior="dns_tunnel",
        Score=score,
        ScoreParts=" ".join(f"{name}={value}" for name, value in parts.items()),
        Cookies=" ".join(f"{cookie:x}" for cookie in domain.cookies),
        Protocol=event.Protocol,
        DestinationIp=event.DestinationIp,
        DestinationPort=event.DestinationPort,
        DestinationIsIpv6=event.DestinationIsIpv6,
        DestinationHostname=event.DestinationHostname,
        DestinationIsLoopback=event.DestinationIsLoopback,
        DestinationIsPrivate=event.DestinationIsPrivate,
        ApplicationProtocol="dns",
        Inner="",
        InnerPort=0,
        HolderProcessIds=str(event.ProcessId),
        Repetitions=round(now[_NAMES]),
        Conservation=0,
        DistinctDestinations=0,
        DistinctPorts=0,
        PeriodMs=0,
        JitterPercent=0,
        DurationMs=(event.monotonic_ns - domain.first_ns) // 1_000_000,
        BytesOut=domain.bytes_out,
        BytesIn=domain.bytes_in,
        CpuPercent=0,
        GpuHeld=False,
        QueriesPerMinute=round(now[_QUERIES]),
        EntropyMilliBits=round(now[_ENTROPY] / now[_NAMES]),
        Domain=told_as,
    )
