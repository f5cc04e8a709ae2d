"""What `top` shows, put together of what the sensor tells: rates from /v1/top, loss and the ring from /v1/status, the
latest detections from /v1/detections, where /v1/top has them not."""

from __future__ import annotations

from calendar import timegm
from time import strptime
from typing import TYPE_CHECKING, Any

from sensor.cli.reach import row, rows
from sensor.cli.show import Row

if TYPE_CHECKING:
    from sensor.control.client import Client

_DETECTIONS = 20
_SANDBOX = {"events_s": "events_per_s", "bytes_out_s": "out_per_s", "bytes_in_s": "in_per_s"}
_TALKER = {"destination": "remote", "bytes_out_s": "out_per_s", "bytes_in_s": "in_per_s"}


def told(client: Client) -> Row:
    """:raises PinfoldError: in one line, why there is no answer."""
    found = dict(row(client.get("/v1/top")))
    found["sandboxes"] = [_sandbox(one) for one in _dicts(found.get("sandboxes"))]
    found["talkers"] = [_talker(one) for one in _dicts(found.get("talkers"))]
    found.setdefault("events_s", sum(_number(one.get("events_s")) for one in found["sandboxes"]))
    if "lost" not in found or "ring_size" not in found:
        status = row(client.get("/v1/status"))
        found = {**{name: status.get(name) for name in ("lost", "ring_used", "ring_size")}, **found}
    if "detections" not in found:
        latest = rows(client.get("/v1/detections", limit=_DETECTIONS), "detections")
        latest.sort(key=lambda one: str(one.get("time")), reverse=True)
        found["detections"] = [_detection(one) for one in latest]
    return found


def _sandbox(one: Row) -> Row:
    found = _named(one, _SANDBOX)
    events = found.get("events")
    if "connects_s" not in found and isinstance(events, dict):
        found["connects_s"] = events.get("network_connection")
    return found


def _talker(one: Row) -> Row:
    """A process without a name is called by its number."""
    return {**_named(one, _TALKER), "process": one.get("process") or one.get("tgid")}


def _named(one: Row, names: dict[str, str]) -> Row:
    return {**one, **{name: one[other] for name, other in names.items() if name not in one and other in one}}


def _detection(one: Row) -> Row:
    rule = one.get("rule")
    rule = rule if isinstance(rule, dict) else {}
    try:
        seconds = timegm(strptime(str(one.get("time"))[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        seconds = 0
    return {
        "time_ns": seconds * 1_000_000_000,
        "level": rule.get("level"),
        "rule": rule.get("title"),
        "sandbox": one.get("SandboxName"),
    }


def _dicts(value: Any) -> list[Row]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
