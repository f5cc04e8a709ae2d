"""What happened, enriched: the shapes that rules match and the log keeps.

Attribute names are Sigma's field names where Sigma has them, so that a compiled rule reads an
attribute and nothing is renamed on the way. Text is valid Unicode: bytes from the sandbox that are
not UTF-8 became U+FFFD, and `raw` keeps the original bytes under the field's name.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class Activity(Struct, frozen=True, gc=False, kw_only=False):
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
    Killed: bool  # by the probe, since it could not be recorded


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


AnyActivity = ProcessCreation | NetworkConnection | DeviceAccess | ProcessTermination
