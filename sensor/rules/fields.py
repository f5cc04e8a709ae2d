"""The fields a rule may name, by category: the attributes of the activities, and Sigma's aliases.

The table is derived from the activity Structs, so that it cannot drift from what a compiled rule
reads; only the descriptions are written here, and a test demands one for each field.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any, Literal, get_type_hints

from msgspec import Struct, structs

from sensor.events.activity import Activity, DeviceAccess, NetworkConnection, ProcessCreation, ProcessTermination

Kind = Literal["text", "address", "number", "flag", "time"]


class Field(Struct, frozen=True):
    """`name` is what a rule writes, `attribute` what the activity has; they differ for an alias."""

    name: str
    attribute: str
    kind: Kind
    description: str


CATEGORIES: dict[str, type[Activity]] = {
    kind.category: kind for kind in (ProcessCreation, NetworkConnection, DeviceAccess, ProcessTermination)
}

# Identity and raw bytes are for the log: a rule that matched on them would not survive a replay.
_HIDDEN = frozenset({"generation", "position", "raw", "argv"})

_ALIASES = {"network_connection": {"SourceIsIpv6": "DestinationIsIpv6"}}  # one socket has one family

_ADDRESSES = frozenset({"DestinationIp", "SourceIp"})

# What `keywords` (values bound to no field) are looked for in: the text that says what was done.
_KEYWORDS = ("Image", "CommandLine", "CurrentDirectory", "ParentImage", "ParentCommandLine")
_KEYWORD_FIELDS = {
    "process_creation": (*_KEYWORDS, "ImageInvoked"),
    "network_connection": (*_KEYWORDS, "DestinationIp", "DestinationHostname", "DestinationPath"),
    "device_access": (*_KEYWORDS, "DeviceClass"),
    "process_termination": _KEYWORDS,
}

_ABSENT = {
    "OriginalFileName": "it is Windows version information",
    "IntegrityLevel": "it is a Windows notion",
    "LogonId": "a sandbox has no logon sessions",
    "Hashes": "programs are not hashed",
}

_DESCRIPTIONS = {
    "time_ns": "when, UTC, nanoseconds since 1970; also with minute, hour, day, week, month, year",
    "monotonic_ns": "when, CLOCK_MONOTONIC nanoseconds",
    "SandboxId": "cgroup id of the outermost sandbox",
    "SandboxName": "its name, from the runtime that made it, else its cgroup's",
    "SandboxClass": "its class in the configuration",
    "CgroupId": "cgroup the process is in; differs from SandboxId when nested",
    "ProcessId": "tgid in the host's pid namespace",
    "ProcessGuid": "tgid and start time: never reused",
    "Image": "path of the program that runs, links resolved",
    "CommandLine": "its arguments from exec time, joined by spaces",
    "CurrentDirectory": "working directory",
    "User": "user name, or the uid where it has none",
    "ParentProcessId": "tgid of the parent",
    "ParentImage": "the parent's program",
    "ParentCommandLine": "the parent's arguments",
    "EntryImage": "the program that entered the sandbox, or was its first",
    "EntryCommandLine": "that program's arguments",
    "Existing": "was there before the sensor started",
    "ImageInvoked": "path as given to execve, links and wrappers unresolved",
    "Uid": "real user id",
    "EffectiveUid": "effective user id",
    "ImageDevice": "device number of the program's file",
    "ImageInode": "inode of the program's file",
    "ImageDeleted": "the file has no name any more",
    "ImageMemfd": "the file is memory only (memfd_create)",
    "ImageTmpfs": "the file is on a tmpfs, such as /dev/shm",
    "ImageWritable": "whoever runs it could write it",
    "ImageSetId": "set-user-id or set-group-id",
    "ArgvTruncated": "the arguments were longer than what is kept",
    "PidNamespace": "inode number of the pid namespace",
    "MountNamespace": "inode number of the mount namespace",
    "NetworkNamespace": "inode number of the network namespace",
    "UserNamespace": "inode number of the user namespace",
    "Killed": "the probe killed it, since it could not be recorded",
    "Protocol": "tcp, udp, unix, icmp, or ip:<number>",
    "Initiated": "true: the sandbox connects; false: it was connected to",
    "DestinationIp": "remote address; empty for unix",
    "DestinationPort": "remote port; 0 for unix",
    "DestinationIsIpv6": "the address is IPv6",
    "DestinationHostname": "the name it was looked up by, where known",
    "DestinationPath": "path of a unix socket; an abstract name begins with @",
    "DestinationIsLoopback": "the address is a loopback address",
    "DestinationIsPrivate": "private, unique local, link local or loopback address",
    "SourceIp": "local address; empty before the kernel has chosen one",
    "SourcePort": "local port; 0 before the kernel has chosen one",
    "SourceIsIpv6": "the same as DestinationIsIpv6",
    "Verdict": "allowed, refused, would_refuse, unrecorded, protected",
    "Count": "how many attempts this event stands for",
    "FirstSeenNs": "first of them, CLOCK_MONOTONIC nanoseconds",
    "LastSeenNs": "last of them, CLOCK_MONOTONIC nanoseconds",
    "Repeat": "the same was seen before; this event only counts",
    "SocketCookie": "the kernel's id of the socket",
    "SocketMakerProcessId": "tgid of the process that made the socket",
    "DeviceClass": "nvidia, amd, drm, accel, kvm, tun, fuse, memory, block, vfio, infiniband, other",
    "DeviceType": "char or block",
    "DeviceMajor": "major number",
    "DeviceMinor": "minor number",
    "Access": "read, write, mknod, joined by commas in this order",
    "Granted": "the sandbox's class grants this device class",
    "GpuGranted": "the sandbox's class grants GPUs (nvidia, amd, drm or accel)",
    "PriorVerdict": "allowed, refused, unknown: of the runtime's own device program",
    "ExitCode": "0 to 255",
    "ExitSignal": "signal that ended it; 0: it exited by itself",
}


def _kind(attribute: str, hint: Any) -> Kind:
    if attribute in _ADDRESSES:
        return "address"
    if attribute == "time_ns":
        return "time"
    kinds: dict[Any, Kind] = {str: "text", int: "number", bool: "flag"}
    return kinds[hint]


@cache
def of_category(category: str) -> dict[str, Field]:
    """Every field of a category by the name a rule writes, aliases included."""
    activity = CATEGORIES[category]
    hints = get_type_hints(activity)
    attributes = [f.name for f in structs.fields(activity) if f.name not in _HIDDEN]
    table = {name: Field(name, name, _kind(name, hints[name]), _DESCRIPTIONS[name]) for name in attributes}
    for alias, attribute in _ALIASES.get(category, {}).items():
        table[alias] = Field(alias, attribute, table[attribute].kind, _DESCRIPTIONS[alias])
    return table


def keyword_fields(category: str) -> tuple[Field, ...]:
    table = of_category(category)
    return tuple(table[name] for name in _KEYWORD_FIELDS[category])


def why_absent(category: str, name: str) -> str:
    """One line for a rule that names a field which the category does not have."""
    line = f"{category} has no field {name!r}"
    if name in _ABSENT:
        return f"{line}: {_ABSENT[name]}"
    close = difflib.get_close_matches(name, of_category(category), n=1)
    return f"{line}; did you mean {close[0]!r}?" if close else line


def markdown() -> str:
    """The tables that the rules' README shows: what all categories have, then what each adds."""
    common = {f.name for f in structs.fields(Activity)}
    parts = [_table("every category", [f for f in of_category("process_creation").values() if f.name in common])]
    for category in CATEGORIES:
        parts.append(_table(category, [f for f in of_category(category).values() if f.name not in common]))
    return "\n".join(parts)


def _table(title: str, rows: list[Field]) -> str:
    lines = [f"### {title}", "", "| field | kind | meaning |", "|---|---|---|"]
    lines += [f"| `{row.name}` | {row.kind} | {row.description} |" for row in rows]
    return "\n".join([*lines, ""])
