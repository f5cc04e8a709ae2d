"""The fields a rule may name, by category: the attributes of the activities, and Sigma's aliases.

The table is derived from the activity Structs, so that it cannot drift from what a compiled rule
reads; only the descriptions are written here, and a test demands one for each field.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_type_hints

from msgspec import Struct, structs

from sensor.events.activity import (
    Activity,
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
    SensorAccess,
    SystemCall,
)

Kind = Literal["text", "address", "number", "flag", "time"]


class Field(Struct, frozen=True):
    """`name` is what a rule writes, `attribute` what the activity has; they differ for an alias."""

    name: str
    attribute: str
    kind: Kind
    description: str


CATEGORIES: dict[str, type[Activity]] = {
    kind.category: kind
    for kind in (
        ProcessCreation,
        NetworkConnection,
        DeviceAccess,
        ProcessTermination,
        NetworkFlow,
        NetworkProtocol,
        DnsQuery,
        NetworkListen,
        NetworkBehavior,
        ProcessMigration,
        SensorAccess,
        FileEvent,
        FileAccess,
        FileRename,
        FileDelete,
        FileChange,
        SystemCall,
    )
}

# Identity and raw bytes are for the log: a rule that matched on them would not survive a replay.
_HIDDEN = frozenset({"generation", "position", "raw", "argv"})

_ALIASES = {"network_connection": {"SourceIsIpv6": "DestinationIsIpv6"}}  # one socket has one family

_ADDRESSES = frozenset({"DestinationIp", "SourceIp"})

# What `keywords` (values bound to no field) are looked for in: the text that says what was done.
_KEYWORDS = ("Image", "CommandLine", "CurrentDirectory", "ParentImage", "ParentCommandLine")
_FILE_KEYWORDS = (*_KEYWORDS, "TargetFilename", "SourceFilename")
_KEYWORD_FIELDS = {
    "process_creation": (*_KEYWORDS, "ImageInvoked"),
    "network_connection": (*_KEYWORDS, "DestinationIp", "DestinationHostname", "DestinationPath"),
    "device_access": (*_KEYWORDS, "DeviceClass"),
    "process_termination": _KEYWORDS,
    "network_flow": (*_KEYWORDS, "DestinationIp", "DestinationHostname"),
    "network_protocol": (
        *_KEYWORDS, "DestinationIp", "DestinationHostname", "Software", "ServerName", "Path", "ProtocolUser",
        "ProtocolTarget",
    ),
    "dns_query": (*_KEYWORDS, "QueryName", "QueryResults"),
    "network_listen": (*_KEYWORDS, "SourceIp"),
    "network_behavior": (*_KEYWORDS, "DestinationIp", "DestinationHostname", "Domain"),
    "process_migration": (*_KEYWORDS, "MoverImage"),
    "sensor_access": _KEYWORDS,
    "file_event": _FILE_KEYWORDS,
    "file_access": _FILE_KEYWORDS,
    "file_rename": _FILE_KEYWORDS,
    "file_delete": _FILE_KEYWORDS,
    "file_change": _FILE_KEYWORDS,
    "system_call": (*_KEYWORDS, "SystemCall", "Capability", "TargetImage"),
}  # fmt: skip

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
    "ImageChanged": "change time of the program's inode, UTC in seconds",
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
    "Killed": "the probe killed it, before its first instruction",
    "DeniedBy": "quarantine, listed, memfd, deleted, written, shell; empty where the policy does not deny it",
    "StandardInput": "socket, pipe, pty, tty, null, device, file, other; empty where closed or unknown",
    "StandardOutput": "the same",
    "StandardError": "the same",
    "StandardInputInode": "inode of its socket, pipe or file; of a pty its number",
    "StandardOutputInode": "the same",
    "StandardErrorInode": "the same",
    "Phase": "established, sample (it lives still), ended",
    "EndReason": "closed, idle, evicted, cut; empty before the end",
    "DurationMs": "how long it has lasted",
    "IdleMs": "since its last packet with data",
    "BytesOut": "bytes the sandbox sent on it",
    "BytesIn": "bytes it received",
    "PacketsOut": "packets with payload that the sandbox sent on it",
    "PacketsIn": "packets with payload that it received",
    "Inversions": "how often data came in first, after a pause",
    "Late": "one of many to this peer that was told only because it lived on",
    "SocketInode": "inode of the socket's file",
    "ApplicationProtocol": "ssh, tls, quic, http, socks, dns, stratum, getblocktemplate, stratum2, wireguard, openvpn, "
    "frp, bore, chisel, wstunnel, devtunnels, yamux, shell; unknown",
    "FromSandbox": "the sandbox's socket sent these bytes; false: it received them",
    "ProtocolRole": "client or server, where the bytes tell",
    "MessageKind": "banner, client_hello, server_hello, request, response, greeting, login, notify, prompt, …",
    "ProtocolVersion": "version the bytes name",
    "Software": "SSH software, User-Agent, Server, or the miner's name",
    "ServerName": "SNI, Host, or the first DNS question",
    "ServerNameUnresolved": "the sandbox asked for this address, but never by this name",
    "Alpn": "protocols offered, joined by commas",
    "Ja4": "JA4 fingerprint of a TLS or QUIC client",
    "Method": "HTTP or Stratum method, SOCKS command, DNS record type",
    "Path": "HTTP path, without the query string",
    "Upgrade": "HTTP Upgrade",
    "Subprotocol": "Sec-WebSocket-Protocol",
    "Dialect": "Stratum: bitcoin, ethereum-stratum, eth-proxy, monero, named-params; TLS: tor-like",
    "ProtocolUser": "Stratum wallet or worker",
    "ProtocolTarget": "where a proxy is asked to go, host:port",
    "Certain": "false: other protocols may look so",
    "Denied": "the class's policy denies this protocol",
    "QueryName": "the name asked for, lower case",
    "QueryType": "A, AAAA, TXT, NULL, … or TYPE<number>",
    "Answered": "true: an answer; false: a question",
    "QueryStatus": "NOERROR, NXDOMAIN, …; empty in a question",
    "QueryResults": "answers, joined by `;`",
    "RegisteredDomain": "the name's last labels, up to below the public suffix",
    "Resolver": "the peer is a configured resolver",
    "MessageBytes": "size of the message",
    "SourceIsLoopback": "only this host can reach it",
    "SourceIsAny": "it listens on every address",
    "Behavior": "relay, reverse_shell, beacon, mining_session, fan_out, idle_tunnel, tun_flow, dns_tunnel, cpu_burn",
    "Score": "0 to 100",
    "ScoreParts": "what the score is made of: name=points, joined by blanks",
    "Cookies": "sockets that show it",
    "Inner": "relay: where it dials inside; reverse_shell: socket, pipe or pty",
    "InnerPort": "relay: the port it dials inside",
    "HolderProcessIds": "tgids that hold the flow",
    "Repetitions": "how often it was seen",
    "Conservation": "percent of the bytes that came in on one flow and left on the other",
    "DistinctDestinations": "addresses reached in the window",
    "DistinctPorts": "ports reached in the window",
    "PeriodMs": "median time between exchanges",
    "JitterPercent": "spread of that time",
    "CpuPercent": "of all CPUs, over the window",
    "GpuHeld": "the process holds a GPU device",
    "QueriesPerMinute": "DNS questions for this domain",
    "EntropyMilliBits": "entropy of the names' labels, thousandths of a bit a character",
    "Domain": "registered domain asked for",
    "Protocol": "tcp, udp, unix, icmp, or ip:<number>",
    "Initiated": "true: the sandbox connects; false: it was connected to",
    "DestinationIp": "remote address; empty for unix",
    "DestinationPort": "remote port; 0 for unix",
    "DestinationIsIpv6": "the address is IPv6",
    "DestinationHostname": "the name it was looked up by, where known",
    "HostnameTrusted": "a configured resolver gave the name; any other a sandbox can make up",
    "DestinationPath": "path of a unix socket, where an abstract name begins with @; of a migration's sandbox",
    "DestinationIsLoopback": "the address is a loopback address",
    "DestinationIsPrivate": "private, unique local, link local or loopback address",
    "SourceIp": "local address; empty before the kernel has chosen one",
    "SourcePort": "local port; 0 before the kernel has chosen one",
    "SourceIsIpv6": "the same as DestinationIsIpv6",
    "Verdict": "allowed, refused, would_refuse, unrecorded, protected, quarantine",
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
    "GpuGranted": "the sandbox's class grants GPUs (nvidia, amd, drm or accel)",
    "PriorVerdict": "allowed, refused, unknown: of the runtime's own device program",
    "ExitCode": "0 to 255",
    "ExitSignal": "signal that ended it; 0: it exited by itself",
    "Direction": "left: it is outside its sandbox's cgroup; entered: a sandboxed process pulled it in",
    "Way": "moved; cloned: born outside",
    "PreviousSandboxId": "the sandbox it left; 0: none",
    "DestinationSandboxId": "the sandbox it is in now; 0: none",
    "MoverProcessId": "tgid of who moved it, itself perhaps",
    "MoverImage": "the mover's program; empty where it is outside every sandbox",
    "MoverSandboxed": "the mover is in a sandbox",
    "Attempt": "signal, bpf, perfmon (a capability was asked for), trace (it traces the sensor)",
    "Signal": "number of the signal; 0: none",
    "Target": "core, api, launcher: which of the sensor's processes",
    "TargetProcessId": "tgid of the target",
    "Refused": "the kernel refused the capability",
    "Privileged": "the capability was granted over the whole host",
    "Action": "of a file: created, written, linked, read, renamed, deleted, attributes; of a system call: trace, "
    "mount, namespace, bpf, module, packet_socket, raw_socket, io_uring, memfd, credentials, capabilities, chroot, "
    "signal, device, kernel, file, perf, keys, other",
    "TargetFilename": "absolute path in the sandbox's own root; of a renamed file its new name",
    "SourceFilename": "of a renamed file its old name",
    "TargetIsDirectory": "it is a directory",
    "Place": "sandbox: a file of its own; host: one that the host or others have too",
    "Mechanism": "the hook that saw it",
    "SystemCall": "the kernel's name of the system call, else its number",
    "Arguments": "its first four arguments, hexadecimal, joined by blanks",
    "Capability": "what was asked for: CAP_SYS_ADMIN, …",
    "Granted": "the sandbox's class grants this device; of a system call: the capability was granted",
    "HostUserNamespace": "the capability was asked for over the whole host",
    "TargetImage": "program of the target",
    "TargetInSandbox": "the target is in the same sandbox",
    "BroughtAlong": "came into the sandbox from outside, and has executed no program there yet: a runtime, no payload",
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
    import difflib  # noqa: PLC0415 - only where something is wrong: the core need not hold it

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
