"""Activities for tests of the log, from defaults that a test overrides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from msgspec import structs

from sensor.events.activity import (
    Activity,
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
from sensor.events.detection import Detection, Response

Made = TypeVar("Made", bound=Activity)
COMMON: dict[str, Any] = {
    "generation": 0x1F,
    "position": 0xABC0,
    "time_ns": 1_700_000_000_000_000_042,
    "monotonic_ns": 77_000_000_001,
    "SandboxId": 4242,
    "SandboxName": "agent-1",
    "SandboxClass": "default",
    "CgroupId": 4243,
    "ProcessId": 999,
    "ProcessGuid": "999-123456789",
    "Image": "/usr/bin/ssh",
    "CommandLine": "ssh -R 1:localhost:22 host",
    "CurrentDirectory": "/home/u",
    "User": "root",
    "ParentProcessId": 998,
    "ParentImage": "/bin/bash",
    "ParentCommandLine": "bash -c x",
    "EntryImage": "/bin/bash",
    "EntryCommandLine": "bash -l",
    "Existing": False,
    "raw": None,
}


def process_creation(**fields: Any) -> ProcessCreation:
    own: dict[str, Any] = {
        "argv": b"ssh\0-R\x001:localhost:22\0host\0",
        "ImageInvoked": "ssh",
        "Uid": 0,
        "EffectiveUid": 0,
        "ImageDevice": 2049,
        "ImageInode": 1 << 63,
        "ImageChanged": 1700000000,
        "ImageDeleted": False,
        "ImageMemfd": False,
        "ImageTmpfs": False,
        "ImageWritable": True,
        "ImageSetId": False,
        "ArgvTruncated": False,
        "PidNamespace": 1,
        "MountNamespace": 2,
        "NetworkNamespace": 3,
        "UserNamespace": 4,
        "Killed": False,
        "DeniedBy": "",
        "StandardInput": "null",
        "StandardOutput": "pipe",
        "StandardError": "socket",
        "StandardInputInode": 0,
        "StandardOutputInode": 4711,
        "StandardErrorInode": 4712,
    }
    return ProcessCreation(**(COMMON | own | fields))


def network_connection(**fields: Any) -> NetworkConnection:
    own: dict[str, Any] = {
        "Protocol": "tcp",
        "Initiated": True,
        "DestinationIp": "203.0.113.7",
        "DestinationPort": 443,
        "DestinationIsIpv6": False,
        "DestinationHostname": "",
        "DestinationPath": "",
        "DestinationIsLoopback": False,
        "DestinationIsPrivate": False,
        "SourceIp": "",
        "SourcePort": 0,
        "Verdict": "allowed",
        "Count": 1,
        "FirstSeenNs": 1,
        "LastSeenNs": 2,
        "Repeat": False,
        "SocketCookie": 5,
        "SocketMakerProcessId": 999,
    }
    return NetworkConnection(**(COMMON | own | fields))


def device_access(**fields: Any) -> DeviceAccess:
    own: dict[str, Any] = {
        "DeviceClass": "nvidia",
        "DeviceType": "char",
        "DeviceMajor": 195,
        "DeviceMinor": 255,
        "Access": "read,write",
        "Granted": False,
        "GpuGranted": False,
        "Verdict": "refused",
        "PriorVerdict": "unknown",
        "Count": 3,
        "FirstSeenNs": 1,
        "LastSeenNs": 2,
        "Repeat": True,
    }
    return DeviceAccess(**(COMMON | own | fields))


def process_termination(**fields: Any) -> ProcessTermination:
    return ProcessTermination(**(COMMON | {"ExitCode": 0, "ExitSignal": 9} | fields))


def sandbox_change(**fields: Any) -> SandboxChange:
    own: dict[str, Any] = {
        "generation": 0x1F,
        "position": 0xAB00,
        "time_ns": 1_700_000_000_000_000_000,
        "monotonic_ns": 76,
        "change": "born",
        "SandboxId": 4242,
        "SandboxName": "agent-1",
        "SandboxClass": "default",
        "CgroupPath": "pinfold/agent-1",
        "CgroupId": 4242,
        "Runtime": "pinfold",
        "ProcessId": 1,
        "raw": None,
    }
    return SandboxChange(**(own | fields))


def detection(activity: AnyActivity | None = None, **fields: Any) -> Detection:
    activity = activity or process_creation()
    own: dict[str, Any] = {
        "id": f"{activity.generation:x}-{activity.position:x}:9ee2d1a6",
        "time_ns": activity.time_ns + 1_000_000,
        "rule_id": "9ee2d1a6-0000-4000-8000-000000000001",
        "rule_title": "Reverse SSH tunnel",
        "level": "high",
        "tags": ("attack.command-and-control", "attack.t1572"),
        "activity": activity,
    }
    return Detection(**(own | fields))


def response(**fields: Any) -> Response:
    own: dict[str, Any] = {
        "detection_id": detection().id,
        "time_ns": 1_700_000_000_002_000_000,
        "action": "kill",
        "mode": "enforce",
        "outcome": "intent",
        "reason": "",
        "targets": (999, 1000),
        "latency_ns": 0,
    }
    return Response(**(own | fields))


_NEUTRAL: dict[type, Any] = {str: "", int: 0, bool: False}
_SAID = {"Phase": "established", "Behavior": "relay", "ApplicationProtocol": "ssh", "DestinationIp": "203.0.113.7"} | {
    "Direction": "left", "Way": "moved", "Attempt": "bpf", "Action": "other", "Place": "sandbox", "Mechanism": "proc",
}  # fmt: skip


def _of(kind: type[Made]) -> Callable[..., Made]:
    """A maker of a kind whose own fields are neutral but for those that must say something."""

    def make(**fields: Any) -> Made:
        hints = get_type_hints(kind)
        own: dict[str, Any] = {f.name: _SAID.get(f.name, _NEUTRAL.get(hints[f.name])) for f in structs.fields(kind)}
        return kind(**(own | COMMON | fields))

    return make


network_flow = _of(NetworkFlow)
network_protocol = _of(NetworkProtocol)
dns_query = _of(DnsQuery)
network_listen = _of(NetworkListen)
network_behavior = _of(NetworkBehavior)
process_migration = _of(ProcessMigration)
sensor_access = _of(SensorAccess)
file_event = _of(FileEvent)
file_access = _of(FileAccess)
file_rename = _of(FileRename)
file_delete = _of(FileDelete)
file_change = _of(FileChange)
system_call = _of(SystemCall)

EVERY_ACTIVITY = (
    process_creation, network_connection, device_access, process_termination, network_flow, network_protocol,
    dns_query, network_listen, network_behavior, process_migration, sensor_access,
    file_event, file_access, file_rename, file_delete, file_change, system_call,
)  # fmt: skip
