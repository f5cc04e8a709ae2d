"""One record as one line of JSON.

Text from a sandbox is kept losslessly: the original bytes of what was not UTF-8 stand in base64
beside the field, under its name and `_b64`. Every line begins with its version and kind, in this
order, so that a reader can pass over what it does not want without parsing it.
"""

from __future__ import annotations

import time
from base64 import b64encode
from typing import Any

import orjson
from msgspec.structs import asdict

from sensor.events.activity import (
    AnyActivity,
    DeviceAccess,
    DnsQuery,
    FileAccess,
    FileChange,
    FileDelete,
    FileEvent,
    FileRename,
    NetworkBehavior,
    NetworkConnection,
    NetworkFlow,
    NetworkListen,
    NetworkProtocol,
    ProcessCreation,
    ProcessMigration,
    ProcessTermination,
    SandboxChange,
    SensorAccess,
    SystemCall,
)
from sensor.events.detection import Audit, Correlated, Detection, Response, event_id

VERSION = 1
_LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z: RFC 3339 has four digits for the year
_HEADS = {
    kind: b'{"v":%d,"kind":"event","category":"%b","id":"' % (VERSION, kind.category.encode())
    for kind in (
        ProcessCreation, NetworkConnection, DeviceAccess, ProcessTermination, NetworkFlow, NetworkProtocol, DnsQuery,
        NetworkListen, NetworkBehavior, ProcessMigration, SensorAccess, FileEvent, FileAccess, FileRename, FileDelete,
        FileChange, SystemCall,
    )
}  # fmt: skip
_DETECTION_FIELDS = (
    "SandboxId", "SandboxName", "SandboxClass", "ProcessId", "ProcessGuid", "Image", "CommandLine", "CurrentDirectory",
    "User", "ParentProcessId", "ParentImage", "ParentCommandLine", "EntryImage", "EntryCommandLine", "Existing",
)  # fmt: skip
_FLOW_FIELDS = (
    "Protocol", "Initiated", "DestinationIp", "DestinationPort", "DestinationHostname", "SourceIp", "SourcePort",
    "SocketCookie",
)  # fmt: skip
_FILE_FIELDS = ("Action", "TargetFilename", "SourceFilename", "Place", "Count")
_DETECTION_FIELDS_OF: dict[type, tuple[str, ...]] = {
    ProcessCreation: ("ImageInvoked",),
    NetworkConnection: (
        "Protocol", "Initiated", "DestinationIp", "DestinationPort", "DestinationHostname", "DestinationPath",
        "Verdict", "Count",
    ),
    DeviceAccess: (
        "DeviceClass", "DeviceType", "DeviceMajor", "DeviceMinor", "Access", "GpuGranted", "Verdict", "Count",
    ),
    ProcessTermination: ("ExitCode", "ExitSignal"),
    NetworkFlow: (*_FLOW_FIELDS, "Phase", "DurationMs", "BytesOut", "BytesIn", "Inversions"),
    NetworkProtocol: (
        *_FLOW_FIELDS, "ApplicationProtocol", "FromSandbox", "MessageKind", "Software", "ServerName", "Ja4", "Method",
        "Dialect", "ProtocolTarget", "Denied",
    ),
    DnsQuery: (*_FLOW_FIELDS, "QueryName", "QueryType", "Answered", "QueryStatus", "QueryResults"),
    NetworkListen: ("Protocol", "SourceIp", "SourcePort"),
    NetworkBehavior: (
        "Behavior", "Score", "ScoreParts", "Cookies", "Protocol", "DestinationIp", "DestinationPort",
        "DestinationHostname", "ApplicationProtocol", "Inner", "HolderProcessIds", "Repetitions", "Conservation",
        "DistinctDestinations", "DistinctPorts", "PeriodMs", "JitterPercent", "DurationMs", "BytesOut", "BytesIn",
        "CpuPercent", "GpuHeld", "QueriesPerMinute", "EntropyMilliBits", "Domain",
    ),
    ProcessMigration: (
        "Direction", "Way", "PreviousSandboxId", "DestinationSandboxId", "MoverProcessId", "MoverImage",
        "MoverSandboxed",
    ),
    SensorAccess: ("Attempt", "Signal", "Target", "TargetProcessId", "Refused", "Privileged", "Count"),
    FileEvent: _FILE_FIELDS,
    FileAccess: _FILE_FIELDS,
    FileRename: _FILE_FIELDS,
    FileDelete: _FILE_FIELDS,
    FileChange: _FILE_FIELDS,
    SystemCall: (
        "SystemCall", "Action", "Arguments", "Capability", "Granted", "HostUserNamespace", "TargetProcessId",
        "TargetImage", "TargetInSandbox", "Signal", "Count", "BroughtAlong",
    ),
}  # fmt: skip


class Timestamps:
    """UTC nanoseconds as RFC 3339. Events come in order, so the second is formatted once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, time_ns: int) -> str:
        second, nanoseconds = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            shown = min(max(second, 0), _LAST_SECOND)
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(shown))
            self._second = second
        return f"{self._text}.{nanoseconds:09d}Z"


_timestamp = Timestamps()


def activity_line(activity: AnyActivity) -> bytes:
    """Some 2 µs for a ProcessCreation: asdict and orjson do the work in C."""
    fields = asdict(activity)
    identity = b'%x-%x","time":"%b",' % (
        fields.pop("generation"),
        fields.pop("position"),
        _timestamp(fields.pop("time_ns")).encode(),
    )
    raw = fields.pop("raw")
    argv = fields.pop("argv", None)
    if argv is not None:
        _add_arguments(fields, argv)
    if raw:
        _add_raw(fields, raw)
    return _HEADS[type(activity)] + identity + _encode(fields)[1:]


def detection_line(detection: Detection) -> bytes:
    activity = detection.activity
    fields: dict[str, Any] = {
        "v": VERSION,
        "kind": "detection",
        "id": detection.id,
        "time": _timestamp(detection.time_ns),
        "event": event_id(activity.generation, activity.position),
        "category": activity.category,
        "rule": {
            "id": detection.rule_id,
            "title": detection.rule_title,
            "level": detection.level,
            "tags": detection.tags,
        },
    }
    named = _DETECTION_FIELDS + _DETECTION_FIELDS_OF[type(activity)]
    for name in named:
        fields[name] = getattr(activity, name)
    if activity.raw:
        _add_raw(fields, {name: value for name, value in activity.raw.items() if name in named})
    if detection.correlation is not None:
        fields["Correlation"] = _correlated(detection.correlation)
    return _encode(fields)


def _correlated(seen: Correlated) -> dict[str, Any]:
    return {
        "type": seen.type,
        "group": dict(seen.group),
        "count": seen.count,
        "first": _timestamp(seen.first_ns),
        "last": _timestamp(seen.last_ns),
        "events": [{"event": event, "rule": rule} for event, rule in seen.events],
        "partial": seen.partial,
    }


def response_line(response: Response, sandbox: tuple[int, str] | None) -> bytes:
    """`sandbox`: id and name, where they are known."""
    fields: dict[str, Any] = {
        "v": VERSION,
        "kind": "response",
        "detection": response.detection_id,
        "time": _timestamp(response.time_ns),
        "action": response.action,
        "mode": response.mode,
        "outcome": response.outcome,
        "reason": response.reason,
        "targets": response.targets,
        "latency_ns": response.latency_ns,
    }
    if sandbox is not None:
        fields["SandboxId"], fields["SandboxName"] = sandbox
    return _encode(fields)


def sandbox_line(change: SandboxChange) -> bytes:
    fields = asdict(change)
    raw = fields.pop("raw")
    head = {
        "v": VERSION,
        "kind": "sandbox",
        "id": event_id(fields.pop("generation"), fields.pop("position")),
        "time": _timestamp(fields.pop("time_ns")),
    }
    if raw:
        _add_raw(fields, raw)
    return _encode(head | fields)


def notice_line(time_ns: int, text: str, fields: dict[str, Any]) -> bytes:
    return _encode({"v": VERSION, "kind": "notice", "time": _timestamp(time_ns), "text": text, "fields": fields})


def audit_line(audit: Audit) -> bytes:
    fields = asdict(audit)
    sandbox = fields.pop("sandbox")
    if sandbox is not None:
        fields["SandboxId"], fields["SandboxName"] = sandbox
    return _encode({"v": VERSION, "kind": "audit", "time": _timestamp(fields.pop("time_ns")), **fields})


def _add_arguments(fields: dict[str, Any], argv: bytes) -> None:
    try:
        text = argv.decode()
    except UnicodeDecodeError:
        text = argv.decode("utf-8", "replace")
        fields["Argv_b64"] = b64encode(argv).decode()
    fields["Argv"] = text.removesuffix("\0").split("\0") if text else []


def _add_raw(fields: dict[str, Any], raw: dict[str, bytes]) -> None:
    for name, value in raw.items():
        if name != "argv":  # Argv_b64 keeps it
            fields[f"{name}_b64"] = b64encode(value).decode()


def _encode(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # A lone surrogate, or a number beyond 64 bits: no decoder makes them, and one line that
        # cannot be written must not end the sensor.
        return orjson.dumps(_encodable(fields), option=orjson.OPT_APPEND_NEWLINE)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(str(key)): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_encodable(item) for item in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return (1 << 64) - 1 if value > 0 else -(1 << 63)
    if isinstance(value, int | float) or value is None:
        return value
    return _encodable(str(value))
