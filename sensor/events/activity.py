"""What happened, enriched: the shapes that rules match and the log keeps.

Attribute names are Sigma's field names where Sigma has them, so that a compiled rule reads an
attribute and nothing is renamed on the way. Text is valid Unicode: bytes from the sandbox that are
not UTF-8 became U+FFFD, and `raw` keeps the original bytes under the field's name.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from sensor.events.derived import Derived


class Activity(Derived, Struct, frozen=True, gc=False, kw_only=False):
    """Common to all categories. A repeat counts `Count` attempts between FirstSeenNs and LastSeenNs."""

    category: ClassVar[str] = ""

    generation: int  # of the ring; with `position` the event's id, unique over restarts
    position: int
    time_ns: int  # UTC
    monotonic_ns: int
    SandboxId: int  # cgroup id of the outermost sandbox
    SandboxName: str
    SandboxClass: str
    CgroupId: int
    ProcessId: int  # tgid in the initial pid namespace
    ProcessGuid: str  # "<tgid>-<start_ns>": never reused
    Image: str
    CommandLine: str
    CurrentDirectory: str
    User: str
    ParentProcessId: int
    ParentImage: str
    ParentCommandLine: str
    EntryImage: str  # the program that entered the sandbox, or was its first
    EntryCommandLine: str
    Existing: bool  # was there before the sensor; read from /proc
    raw: dict[str, bytes] | None


class ProcessCreation(Activity, frozen=True, gc=False):
    category: ClassVar[str] = "process_creation"

    argv: bytes  # NUL-separated, as the kernel copied it
    ImageInvoked: str  # what execve was given
    Uid: int
    EffectiveUid: int
    ImageDevice: int
    ImageInode: int
    ImageChanged: int  # change time of its inode, UTC in seconds: nobody but the kernel sets it
    ImageDeleted: bool
    ImageMemfd: bool
    ImageTmpfs: bool
    ImageWritable: bool
    ImageSetId: bool
    ArgvTruncated: bool
    PidNamespace: int
    MountNamespace: int
    NetworkNamespace: int
    UserNamespace: int
    Killed: bool  # by the probe, before its first instruction
    DeniedBy: str  # quarantine, listed, memfd, deleted, written, shell; "" where nothing denies it
    StandardInput: str  # socket, pipe, pty, tty, null, device, file, other, "" where it is closed or unknown
    StandardOutput: str
    StandardError: str
    StandardInputInode: int  # of the socket, pipe or file; of a pty its number
    StandardOutputInode: int
    StandardErrorInode: int


class NetworkConnection(Activity, frozen=True, gc=False):
    category: ClassVar[str] = "network_connection"

    Protocol: str  # tcp, udp, unix, icmp, or ip:<number>
    Initiated: bool  # True: the sandbox did
    DestinationIp: str  # "" for unix
    DestinationPort: int  # 0 for unix
    DestinationIsIpv6: bool
    DestinationHostname: str  # "" while unknown
    DestinationPath: str  # unix socket path; an abstract name begins with @
    DestinationIsLoopback: bool
    DestinationIsPrivate: bool  # RFC 1918, unique local, link local, loopback
    SourceIp: str  # "" before the kernel has chosen one
    SourcePort: int
    Verdict: str  # allowed, refused, would_refuse, unrecorded, protected
    Count: int
    FirstSeenNs: int  # CLOCK_MONOTONIC
    LastSeenNs: int
    Repeat: bool
    SocketCookie: int
    SocketMakerProcessId: int  # who made the socket, where that is another process; else ProcessId


class DeviceAccess(Activity, frozen=True, gc=False):
    category: ClassVar[str] = "device_access"

    DeviceClass: str  # nvidia, amd, drm, accel, kvm, tun, fuse, memory, block, vfio, infiniband, other
    DeviceType: str  # char, block
    DeviceMajor: int
    DeviceMinor: int
    Access: str  # read, write, mknod, joined by commas in this order
    Granted: bool
    GpuGranted: bool  # the sandbox may use GPUs (nvidia, amd, drm or accel is granted)
    Verdict: str
    PriorVerdict: str  # allowed, refused, unknown: of device programs before ours
    Count: int
    FirstSeenNs: int
    LastSeenNs: int
    Repeat: bool


class Flow(Activity, frozen=True, gc=False):
    """What events about one flow share. A flow is one socket's exchange with one peer; its process is the one
    that made the socket, or that made the listener of an accepted one."""

    Protocol: str  # tcp, udp, icmp, or ip:<number>
    Initiated: bool  # True: connected from here, or the first datagram left from here; False: accepted
    DestinationIp: str  # the remote end, whoever began
    DestinationPort: int
    DestinationIsIpv6: bool
    DestinationHostname: str  # "" while unknown
    HostnameTrusted: bool  # a configured resolver gave the name; any other a sandbox can make up
    DestinationIsLoopback: bool
    DestinationIsPrivate: bool
    SourceIp: str
    SourcePort: int
    SocketCookie: int
    SocketInode: int  # 0 where it was not known yet


class NetworkFlow(Flow, frozen=True, gc=False):
    """Established, still alive after a while, or ended. Counters are payload of IP, so retransmits count."""

    category: ClassVar[str] = "network_flow"

    Phase: str  # established, sample, ended
    EndReason: str  # "", closed, idle, evicted, cut
    DurationMs: int
    IdleMs: int  # since its last packet with data
    BytesOut: int
    BytesIn: int
    PacketsOut: int  # with payload
    PacketsIn: int
    Inversions: int  # times that data came in first, after a pause
    Late: bool  # told later than it began: it was one of many, and lived on
    Count: int  # flows to this peer that this event stands for
    NetworkNamespace: int


class NetworkProtocol(Flow, frozen=True, gc=False):
    """What the first bytes of one direction of a flow are (sensor/enrich/protocols/result.py)."""

    category: ClassVar[str] = "network_protocol"

    ApplicationProtocol: str  # ssh, tls, quic, http, socks, dns, stratum, …; unknown
    FromSandbox: bool  # the sandbox's socket sent these bytes
    ProtocolRole: str  # client, server, ""
    MessageKind: str
    ProtocolVersion: str
    Software: str
    ServerName: str  # SNI, Host, first question
    ServerNameUnresolved: bool  # the sandbox looked up this address, but never by this name: fronting
    Alpn: str
    Ja4: str
    Method: str
    Path: str
    Upgrade: str
    Subprotocol: str
    Dialect: str
    ProtocolUser: str
    ProtocolTarget: str
    Certain: bool
    Denied: bool  # the policy denies this protocol; in enforce mode it was cut


class DnsQuery(Flow, frozen=True, gc=False):
    """A DNS question that left the sandbox, or the answer to one."""

    category: ClassVar[str] = "dns_query"

    QueryName: str  # lower case, without the final dot
    QueryType: str  # A, AAAA, TXT, NULL, …; TYPE<number>
    Answered: bool  # True: this is the answer
    QueryStatus: str  # "", NOERROR, NXDOMAIN, …
    QueryResults: str  # addresses and names, joined by `;`, at most 1024 characters
    RegisteredDomain: str  # as far as a short list of public suffixes tells
    Resolver: bool  # one of the configured resolvers
    MessageBytes: int


class NetworkListen(Activity, frozen=True, gc=False):
    """A socket that waits for others: TCP listen, UDP bound."""

    category: ClassVar[str] = "network_listen"

    Protocol: str
    SourceIp: str
    SourcePort: int
    SourceIsIpv6: bool
    SourceIsLoopback: bool
    SourceIsAny: bool  # 0.0.0.0 or ::
    SocketCookie: int


class NetworkBehavior(Activity, frozen=True, gc=False):
    """What no single event shows: derived by a detector (sensor/detect/), with its evidence. The process is the one
    that holds the flow, or does it. Fields that a behaviour does not have are 0 or ""."""

    category: ClassVar[str] = "network_behavior"

    Behavior: str  # relay, reverse_shell, beacon, mining_session, fan_out, idle_tunnel, tun_flow, dns_tunnel, cpu_burn
    Score: int  # 0 to 100
    ScoreParts: str  # "conservation=40 repetition=20", in a fixed order
    Cookies: str  # of the flows that show it, hexadecimal, joined by blanks, at most 16
    Protocol: str  # of the outward flow
    DestinationIp: str
    DestinationPort: int
    DestinationIsIpv6: bool
    DestinationHostname: str
    DestinationIsLoopback: bool
    DestinationIsPrivate: bool
    ApplicationProtocol: str  # of the outward flow, where its first bytes told
    Inner: str  # relay: where it dials, "127.0.0.1:22" or a path; reverse_shell: socket, pipe, pty; else ""
    InnerPort: int
    HolderProcessIds: str  # tgids that hold the flow, joined by blanks, at most 16
    Repetitions: int
    Conservation: int  # percent
    DistinctDestinations: int
    DistinctPorts: int
    PeriodMs: int
    JitterPercent: int
    DurationMs: int
    BytesOut: int
    BytesIn: int
    CpuPercent: int  # of all CPUs, over the window
    GpuHeld: bool
    QueriesPerMinute: int
    EntropyMilliBits: int  # mean of the labels, thousandths of a bit a character
    Domain: str


class ProcessMigration(Activity, frozen=True, gc=False):
    """A process left its sandbox's cgroup, and is its sandbox's still; or a sandboxed process pulled one of the host's
    into its own. The process is the one that moved."""

    category: ClassVar[str] = "process_migration"

    Direction: str  # left, entered
    Way: str  # moved; cloned: born outside (CLONE_INTO_CGROUP)
    PreviousSandboxId: int  # 0: it was in none
    DestinationSandboxId: int  # 0: it is in none
    DestinationPath: str  # of the cgroup, where that is a sandbox
    MoverProcessId: int
    MoverImage: str  # "" of a process outside every sandbox
    MoverSandboxed: bool


class SensorAccess(Activity, frozen=True, gc=False):
    """A sandboxed process reached for the sensor itself, or for what gives power over it."""

    category: ClassVar[str] = "sensor_access"

    Attempt: str  # signal, bpf, perfmon, trace
    Signal: int  # 0: none
    Target: str  # core, api, launcher; "" where it is none of these
    TargetProcessId: int
    Refused: bool
    Privileged: bool  # the capability was granted over the whole host
    Count: int
    Repeat: bool


class FileActivity(Activity, frozen=True, gc=False):
    """Something done to a file in one of the places that loaded rules, or the sensor itself, look at. Other places
    are not watched: a rule that names none is told so when it is loaded."""

    Action: str  # created, written, linked; read; renamed; deleted; attributes (mode, owner, times, links)
    TargetFilename: str  # absolute, in the sandbox's own root; of a renamed file its new name
    SourceFilename: str  # of a renamed file its old name; "" where unknown, and otherwise
    TargetIsDirectory: bool
    Place: str  # sandbox: a file of its own; host: one that the host or others have too (a shared root, a mount)
    Mechanism: str  # fanotify, lsm, proc
    Count: int
    FirstSeenNs: int  # CLOCK_MONOTONIC
    LastSeenNs: int
    Repeat: bool


class FileEvent(FileActivity, frozen=True, gc=False):
    """Created, written (closed after it was open for writing) or linked."""

    category: ClassVar[str] = "file_event"


class FileAccess(FileActivity, frozen=True, gc=False):
    """Opened for reading."""

    category: ClassVar[str] = "file_access"


class FileRename(FileActivity, frozen=True, gc=False):
    category: ClassVar[str] = "file_rename"


class FileDelete(FileActivity, frozen=True, gc=False):
    category: ClassVar[str] = "file_delete"


class FileChange(FileActivity, frozen=True, gc=False):
    """Mode, owner, times or number of links changed."""

    category: ClassVar[str] = "file_change"


class SystemCall(Activity, frozen=True, gc=False):
    """A system call that rules care for, seen where the kernel decides about it and not at the gate of system calls:
    each by the hook that `Mechanism` names, and only as far as that hook is passed (`pinfold doctor` lists them)."""

    category: ClassVar[str] = "system_call"

    SystemCall: str  # the kernel's name: ptrace, mount, setns, unshare, finit_module, socket, …; or its number
    Action: str  # trace, mount, namespace, bpf, module, packet_socket, raw_socket, io_uring, memfd, credentials,
    # capabilities, chroot, signal, device, kernel (clock, reboot, swap, accounting, ports), file, perf, keys, other
    Arguments: str  # the first four, hexadecimal without 0x, joined by blanks; "" where unknown. Of clone3 the flags
    # stand first; of io_uring_setup there are the entries of both queues, flags, descriptor
    Capability: str  # CAP_SYS_ADMIN, …; "" where none was asked for
    Granted: bool  # the capability; True where none was asked for
    HostUserNamespace: bool  # it was asked for over the whole host, not over a user namespace of the sandbox's
    TargetProcessId: int  # of ptrace and signals; else 0
    TargetImage: str  # "" where unknown
    TargetInSandbox: bool  # the target is in the same sandbox
    Signal: int  # 0: none
    Mechanism: str  # cap_capable, signal_generate, io_uring_create, sched_process_fork, sys_enter
    Count: int
    FirstSeenNs: int
    LastSeenNs: int
    Repeat: bool
    BroughtAlong: bool  # it has executed no program in its sandbox since it was seen to be moved or cloned into it:
    # what runs is the host's, a runtime that sets up or enters. False of a process found at start, or unknown


class ProcessTermination(Activity, frozen=True, gc=False):
    category: ClassVar[str] = "process_termination"

    ExitCode: int  # 0 to 255
    ExitSignal: int  # 0: it exited by itself


class SandboxChange(Struct, frozen=True, gc=False):
    """A sandbox was born, found at start, ended, or a process moved across its border."""

    category: ClassVar[str] = "sandbox_change"

    generation: int
    position: int
    time_ns: int
    monotonic_ns: int
    change: str  # born, found, ended, entered, left
    SandboxId: int
    SandboxName: str
    SandboxClass: str
    CgroupPath: str  # below the cgroup2 mount
    CgroupId: int
    Runtime: str  # docker, containerd, crio, podman, kubernetes, systemd, pinfold, none
    ProcessId: int  # who did it, or who moved; 0 where unknown
    raw: dict[str, bytes] | None


AnyActivity = (
    ProcessCreation
    | NetworkConnection
    | DeviceAccess
    | ProcessTermination
    | NetworkFlow
    | NetworkProtocol
    | DnsQuery
    | NetworkListen
    | NetworkBehavior
    | ProcessMigration
    | SensorAccess
    | FileEvent
    | FileAccess
    | FileRename
    | FileDelete
    | FileChange
    | SystemCall
)
