"""A rule's verdict on an activity, and what was done about it."""

from __future__ import annotations

from msgspec import Struct

from sensor.events.activity import AnyActivity

LEVELS = ("informational", "low", "medium", "high", "critical")


class Correlated(Struct, frozen=True, gc=False):
    """What a correlation saw. `events`: the last that contributed, at most 16, each with the rule that matched it."""

    type: str  # event_count, value_count, temporal, …
    group: tuple[tuple[str, str | int | bool], ...]  # field, value
    count: float  # what was counted, summed or measured
    first_ns: int  # UTC
    last_ns: int
    events: tuple[tuple[str, str], ...]
    partial: bool  # something before may be missing: the sensor started within the timespan


class Detection(Struct, frozen=True, gc=False):
    """`id` is the event's id and the rule's: the same after a replay, so that nothing is told twice. Of a correlation
    `activity` is the last event."""

    id: str
    time_ns: int  # UTC, when the rule matched
    rule_id: str
    rule_title: str
    level: str  # one of LEVELS
    tags: tuple[str, ...]
    activity: AnyActivity
    correlation: Correlated | None = None


class Response(Struct, frozen=True, gc=False):
    """Journalled twice: as `intent` before acting, then with its outcome; before a grace period as `announced`."""

    detection_id: str
    time_ns: int
    action: str  # kill, freeze, quarantine, kill-sandbox
    mode: str  # monitor, enforce
    outcome: str  # intent, done, would, gone, never_touch, failed; announced; silenced, acknowledged, excepted, budget
    reason: str  # one line; when done "", or the quarantine's id
    targets: tuple[int, ...]  # tgids
    latency_ns: int  # from the event's time in the kernel to the outcome; 0 for an intent


class Audit(Struct, frozen=True, gc=False):
    """What somebody asked to have changed, through the control socket."""

    time_ns: int  # UTC
    operation: str
    target: str  # a sandbox's name, a quarantine's id, …; "" where there is one only
    uid: int
    tgid: int
    executable: str
    reason: str
    outcome: str  # intent, done, refused, failed
    detail: str = ""  # one line: why it was refused or failed, or what came of it
    sandbox: tuple[int, str] | None = None  # id and name


def event_id(generation: int, position: int) -> str:
    return f"{generation:x}-{position:x}"
