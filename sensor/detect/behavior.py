"""A NetworkBehavior from the activity of the process it accuses, the outward flow and the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from sensor.detect.flows import Flow
from sensor.events.activity import Activity, NetworkBehavior

MOST_LISTED = 16  # cookies or processes in one event

_COMMON = Activity.__struct_fields__
_EMPTY: dict[type, Any] = {str: "", int: 0, bool: False}
_NOTHING: dict[str, Any] = {
    field.name: _EMPTY[field.type] for field in structs.fields(NetworkBehavior) if field.name not in _COMMON
}
_OF_FLOW = (
    "Protocol", "DestinationIp", "DestinationPort", "DestinationIsIpv6", "DestinationHostname",
    "DestinationIsLoopback", "DestinationIsPrivate",
)  # fmt: skip


def behavior(
    name: str, accused: Activity, parts: Mapping[str, int], now_ns: int, flow: Flow | None, **evidence: Any
) -> NetworkBehavior:
    """`parts` sum up to the score, cut to 0..100. Its id and UTC time are set by who hands it on (detectors.py);
    `now_ns` is CLOCK_MONOTONIC."""
    fields = dict(_NOTHING)
    fields.update((field, getattr(accused, field)) for field in _COMMON)
    if flow is not None:
        fields.update((field, getattr(flow.event, field)) for field in _OF_FLOW)
        fields["ApplicationProtocol"] = flow.application
        fields["Cookies"] = cookies([flow.cookie])
        fields["DurationMs"] = max(0, now_ns - flow.started_ns) // 10**6
        fields["BytesOut"], fields["BytesIn"] = flow.bytes_out, flow.bytes_in
    fields.update(evidence)
    fields.update(generation=0, position=0, monotonic_ns=now_ns, Behavior=name, Score=total(parts))
    fields["ScoreParts"] = " ".join(f"{part}={points}" for part, points in parts.items() if points)
    return NetworkBehavior(**fields)


def total(parts: Mapping[str, int]) -> int:
    return max(0, min(100, sum(parts.values())))


def cookies(of: Iterable[int]) -> str:
    return " ".join(f"{cookie:x}" for cookie in list(of)[:MOST_LISTED])


def processes(tgids: Iterable[int]) -> str:
    return " ".join(str(tgid) for tgid in sorted(set(tgids))[:MOST_LISTED])


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
