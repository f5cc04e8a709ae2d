"""Repeats of a detection folded into the first: the same rule, sandbox, process and object within a while; and what is
more of one rule in one sandbox than anybody reads. Whatever would be answered is not for here."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from sensor.events.detection import Detection

MOST_KEYS = 16_384
MINUTE_NS = 60_000_000_000
# What tells a process's deeds apart; the first that an activity has, and all that stand with it.
_OBJECTS = (
    ("QueryName",),
    ("TargetFilename", "SourceFilename", "Action"),
    ("DeviceMajor", "DeviceMinor", "DeviceType"),
    ("SystemCall", "Action", "TargetProcessId"),
    ("Behavior", "DestinationIp", "DestinationPort", "Domain"),
    ("ApplicationProtocol", "DestinationIp", "DestinationPort", "DestinationHostname"),
    ("DestinationPath", "DestinationIp", "DestinationPort"),
    ("DestinationIp", "DestinationPort"),
    ("SourceIp", "SourcePort"),
    ("ExitCode",),
)


class Folded(Struct, frozen=True):
    """`count` repeats of `detection`, the first, that were not told; times are UTC in nanoseconds. `why`: `repeated`,
    or `many` where the rule was over its rate in the sandbox."""

    detection: str
    rule_id: str
    rule_title: str
    level: str
    sandbox_id: int
    sandbox_name: str
    count: int
    first_ns: int
    last_ns: int
    why: str


class _Window:
    __slots__ = ("count", "first", "first_ns", "folded", "last_ns", "until_ns")

    def __init__(self, first: tuple[str, str, str, str, int, str], until_ns: int) -> None:
        self.first = first
        self.until_ns = until_ns
        self.count = 0
        self.folded = 0
        self.first_ns = self.last_ns = 0

    def fold(self, utc_ns: int) -> None:
        self.folded += 1
        self.first_ns = self.first_ns or utc_ns
        self.last_ns = utc_ns

    def told(self, why: str) -> list[Folded]:
        return [Folded(*self.first, self.folded, self.first_ns, self.last_ns, why)] if self.folded else []


class Folding:
    """`seconds`: how long repeats are folded; `most_per_minute`: of one rule in one sandbox. 0: not at all. Replaced by
    a reload. `now_ns` is CLOCK_MONOTONIC throughout."""

    def __init__(self, seconds: int, most_per_minute: int) -> None:
        self.seconds, self.most_per_minute = seconds, most_per_minute
        self._repeats: dict[int, _Window] = {}  # in the order in which they end, but for a reload
        self._rates: dict[tuple[str, int], _Window] = {}
        self._evicted: list[Folded] = []

    def fold(self, detection: Detection, now_ns: int) -> bool:
        """Whether it is folded; the first never is. A correlation folds by itself."""
        if detection.correlation is not None:
            return False
        activity = detection.activity
        if self.seconds:
            key = _key(detection)
            window = self._repeats.get(key)
            if window is not None and now_ns < window.until_ns:
                window.fold(activity.time_ns)
                return True
            if window is not None:
                self._evicted += self._repeats.pop(key).told("repeated")
            self._repeats[key] = _Window(_first(detection), now_ns + self.seconds * 1_000_000_000)
            if len(self._repeats) > MOST_KEYS:
                self._evicted += self._repeats.pop(next(iter(self._repeats))).told("repeated")
        return bool(self.most_per_minute) and self._over_rate(detection, now_ns)

    def _over_rate(self, detection: Detection, now_ns: int) -> bool:
        place = (detection.rule_id, detection.activity.SandboxId)
        rate = self._rates.get(place)
        if rate is None or now_ns >= rate.until_ns:
            if rate is not None:
                self._evicted += self._rates.pop(place).told("many")
            rate = self._rates[place] = _Window(_first(detection), now_ns + MINUTE_NS)
            if len(self._rates) > MOST_KEYS:
                self._evicted += self._rates.pop(next(iter(self._rates))).told("many")
        rate.count += 1
        if rate.count <= self.most_per_minute:
            return False
        rate.fold(detection.activity.time_ns)
        return True

    def tick(self, now_ns: int | None) -> list[Folded]:
        """What was folded in windows that are over; None: in all."""
        over, self._evicted = self._evicted, []
        return over + _ended(self._repeats, "repeated", now_ns) + _ended(self._rates, "many", now_ns)


def _ended(windows: dict[Any, _Window], why: str, now_ns: int | None) -> list[Folded]:
    ended = []
    for key, window in windows.items():
        if now_ns is not None and window.until_ns > now_ns:
            break
        ended.append(key)
    return [folded for key in ended for folded in windows.pop(key).told(why)]


def _first(detection: Detection) -> tuple[str, str, str, str, int, str]:
    activity = detection.activity
    return (
        detection.id, detection.rule_id, detection.rule_title, detection.level, activity.SandboxId,
        activity.SandboxName[:256],
    )  # fmt: skip


def _key(detection: Detection) -> int:
    activity = detection.activity
    for names in _OBJECTS:
        if hasattr(activity, names[0]):
            thing = tuple(getattr(activity, name, "") for name in names)
            break
    else:
        thing = (activity.CommandLine,)
    return hash((detection.rule_id, activity.SandboxId, activity.ProcessGuid, activity.category, thing))
