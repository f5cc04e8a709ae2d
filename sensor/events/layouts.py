"""Generated from probes/include/events.h by sensor.events.generate. Do not edit."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, IntFlag
from mmap import mmap
from operator import attrgetter
from struct import Struct as PackedStruct
from typing import Any

from msgspec import Struct

Buffer = bytes | mmap  # slices of which are bytes
Split = tuple[Any, ...]  # what a split_… gives
ABI = 5


class ShortRecord(ValueError):
    """A record whose tails reach beyond its own size."""


class Type(IntEnum):
    EXEC = 1
    FORK = 2
    EXIT = 3
    CGROUP_BIRTH = 16
    CGROUP_DEATH = 17
    CGROUP_MOVE = 18
    CONNECT = 32
    CONNECT_UNIX = 33
    DEVICE = 48
    FLOW = 64
    LISTEN = 65
    PAYLOAD = 66
    INVERSION = 67
    SENSOR_ACCESS = 80
    SYSTEM_CALL = 81


class Flag(IntFlag):
    REPEAT = 1
    KILLED = 2
    MIGRATED = 4
    CLONE_INTO = 8


class Access(IntEnum):
    SIGNAL = 1
    CAPABILITY = 2


class Seen(IntEnum):
    CAPABILITY = 1
    SIGNAL = 2
    TRACED = 3
    IO_URING = 4
    USER_NS = 5
    FORK = 6
    MEMFD = 7
    ENTRY = 8


class Verdict(IntEnum):
    ALLOWED = 0
    REFUSED = 1
    WOULD_REFUSE = 2
    UNRECORDED = 3
    PROTECTED = 4
    EGRESS = 5
    WOULD_EGRESS = 6
    QUARANTINE = 7


class ExecDenied(IntEnum):
    NOT = 0
    QUARANTINE = 1
    LISTED = 2
    MEMFD = 3
    DELETED = 4
    WRITTEN = 5
    SHELL = 6
    HASH = 7


class Phase(IntEnum):
    ESTABLISHED = 0
    SAMPLE = 1
    ENDED = 2


class FlowFlag(IntFlag):
    INITIATED = 1
    LATE = 2
    ADOPTED = 4
    CUT = 8


class End(IntEnum):
    NONE = 0
    CLOSED = 1
    IDLE = 2
    EVICTED = 3


class Prefix(IntEnum):
    NONE = 0
    SSH = 1
    STRATUM = 2
    SOCKS = 3
    WIREGUARD = 4
    BORE = 5
    HTTP_CONNECT = 6


class Way(IntEnum):
    OTHER = 0
    LOOPBACK = 1
    TUN = 2


class Stream(IntEnum):
    NONE = 0
    SOCKET = 1
    PIPE = 2
    PTY = 3
    TTY = 4
    NULL = 5
    DEVICE = 6
    FILE = 7
    OTHER = 8


class File(IntFlag):
    DELETED = 1
    MEMFD = 2
    TMPFS = 4
    WRITABLE = 8
    ARGV_CUT = 16
    IMAGE_CUT = 32
    CWD_CUT = 64
    ARGV_FAULT = 128
    SETID = 256


class Device(IntEnum):
    ORDINARY = 0
    NVIDIA = 1
    AMD = 2
    DRM = 3
    ACCEL = 4
    KVM = 5
    TUN = 6
    FUSE = 7
    MEMORY = 8
    BLOCK = 9
    VFIO = 10
    INFINIBAND = 11
    OTHER = 12


class Loss(IntEnum):
    RING_FULL = 0
    WATERMARK = 1
    BUDGET = 2
    SCRATCH = 3
    PROCESSES_FULL = 4
    SANDBOXES_FULL = 5
    REPEATS_FULL = 6
    WATCH_FULL = 7
    NAME_TOO_LONG = 8
    FLOWS_EVICTED = 9
    PAYLOAD = 10
    DATAGRAMS = 11
    REASONS = 16


class Exec(Struct, frozen=True, gc=False):
    """A `struct pf_exec`: 184 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    start_ns: int
    parent_start_ns: int
    inode: int
    argv_bytes: int
    parent_tgid: int
    uid: int
    euid: int
    egid: int
    device: int
    mode: int
    file_flags: int
    pid_ns: int
    mnt_ns: int
    net_ns: int
    user_ns: int
    cgroup_ns: int
    owner: int
    group: int
    stdin_inode: int
    stdout_inode: int
    stderr_inode: int
    changed: int
    stdin_kind: int
    stdout_kind: int
    stderr_kind: int
    denied: int
    argv: bytes
    filename: bytes
    image_path: bytes
    cwd_path: bytes


_PF_EXEC = PackedStruct("<HHIQQQIIQQQQQIIIIIIIIIIIIIIQQQQBBBB4xHHHH")
_PF_EXEC_FIXED = PackedStruct("<HHIQQQIIQQQQQIIIIIIIIIIIIIIQQQQBBBB4x2x2x2x2x")
_PF_EXEC_TAILS = PackedStruct("<2x2x4x8x8x8x4x4x8x8x8x8x8x4x4x4x4x4x4x4x4x4x4x4x4x4x4x8x8x8x8x1x1x1x1x4xHHHH")
_PF_EXEC_SPLIT = PackedStruct("<HHIQQQI4xQQQQ8xIII4xI4xIIIII4x4x4xQQQQBBBB4x2x2x2x2x")


def split_exec(buffer: Buffer, at: int) -> Split:
    n0, n1, n2, n3 = _PF_EXEC_TAILS.unpack_from(buffer, at)
    first = at + 184
    further = first + n0
    end = further + n1 + n2 + n3
    members = _PF_EXEC_SPLIT.unpack_from(buffer, at)
    if end - at > members[2]:
        raise ShortRecord
    return members, buffer[first:further], buffer[further:end], n1, n2


def read_exec(buffer: Buffer, at: int) -> Exec:
    _, argv, joined, n1, n2 = split_exec(buffer, at)
    members = _PF_EXEC_FIXED.unpack_from(buffer, at)
    return Exec(*members, argv, joined[:n1], joined[n1 : n1 + n2], joined[n1 + n2 :])  # type: ignore[call-arg]


class Fork(Struct, frozen=True, gc=False):
    """A `struct pf_fork`: 88 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    start_ns: int
    parent_start_ns: int
    parent_exec_id: int
    parent_sandbox_id: int
    parent_tgid: int


_PF_FORK = PackedStruct("<HHIQQQIIQQQQQI4x")


def read_fork(buffer: Buffer, at: int) -> Fork:
    return Fork(*_PF_FORK.unpack_from(buffer, at))


class Exit(Struct, frozen=True, gc=False):
    """A `struct pf_exit`: 64 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    start_ns: int
    exit_code: int


_PF_EXIT = PackedStruct("<HHIQQQIIQQI4x")


def read_exit(buffer: Buffer, at: int) -> Exit:
    return Exit(*_PF_EXIT.unpack_from(buffer, at))


class Cgroup(Struct, frozen=True, gc=False):
    """A `struct pf_cgroup`: 64 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    parent_id: int
    class_id: int
    path: bytes


_PF_CGROUP = PackedStruct("<HHIQQQIIQQIH2x")
_PF_CGROUP_FIXED = PackedStruct("<HHIQQQIIQQI2x2x")
_PF_CGROUP_TAILS = PackedStruct("<2x2x4x8x8x8x4x4x8x8x4xH2x")


def split_cgroup(buffer: Buffer, at: int) -> Split:
    (n0,) = _PF_CGROUP_TAILS.unpack_from(buffer, at)
    first = at + 64
    further = first + n0
    members = _PF_CGROUP_FIXED.unpack_from(buffer, at)
    if further - at > members[2]:
        raise ShortRecord
    return members, buffer[first:further]


def read_cgroup(buffer: Buffer, at: int) -> Cgroup:
    members, path = split_cgroup(buffer, at)
    return Cgroup(*members, path)  # type: ignore[call-arg]


class Move(Struct, frozen=True, gc=False):
    """A `struct pf_move`: 88 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    start_ns: int
    previous_sandbox_id: int
    destination_sandbox_id: int
    mover_sandbox_id: int
    mover_tgid: int


_PF_MOVE = PackedStruct("<HHIQQQIIQQQQQI4x")


def read_move(buffer: Buffer, at: int) -> Move:
    return Move(*_PF_MOVE.unpack_from(buffer, at))


class Connect(Struct, frozen=True, gc=False):
    """A `struct pf_connect`: 128 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    maker_sandbox_id: int
    maker_exec_id: int
    cookie: int
    count: int
    first_ns: int
    last_ns: int
    maker_tgid: int
    uid: int
    family: int
    port: int
    protocol: int
    verdict: int
    unconnected: int
    address: bytes


_PF_CONNECT = PackedStruct("<HHIQQQIIQQQQQQQIIHHBBB1x16s")
_PF_CONNECT_SPLIT = PackedStruct("<HHIQQQI4xQ8x8xQQQQIIHHBB1x1x16s")


def split_connect(buffer: Buffer, at: int) -> Split:
    return (_PF_CONNECT_SPLIT.unpack_from(buffer, at),)


def read_connect(buffer: Buffer, at: int) -> Connect:
    return Connect(*_PF_CONNECT.unpack_from(buffer, at))


class ConnectUnix(Struct, frozen=True, gc=False):
    """A `struct pf_connect_unix`: 104 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    maker_sandbox_id: int
    maker_exec_id: int
    count: int
    first_ns: int
    last_ns: int
    maker_tgid: int
    uid: int
    verdict: int
    target: bytes


_PF_CONNECT_UNIX = PackedStruct("<HHIQQQIIQQQQQQIIB5xH")
_PF_CONNECT_UNIX_FIXED = PackedStruct("<HHIQQQIIQQQQQQIIB5x2x")
_PF_CONNECT_UNIX_TAILS = PackedStruct("<2x2x4x8x8x8x4x4x8x8x8x8x8x8x4x4x1x5xH")
_PF_CONNECT_UNIX_SPLIT = PackedStruct("<HHIQQQI4xQ8x8xQQQIIB5x2x")


def split_connect_unix(buffer: Buffer, at: int) -> Split:
    (n0,) = _PF_CONNECT_UNIX_TAILS.unpack_from(buffer, at)
    first = at + 104
    further = first + n0
    members = _PF_CONNECT_UNIX_SPLIT.unpack_from(buffer, at)
    if further - at > members[2]:
        raise ShortRecord
    return members, buffer[first:further]


def read_connect_unix(buffer: Buffer, at: int) -> ConnectUnix:
    _, target = split_connect_unix(buffer, at)
    members = _PF_CONNECT_UNIX_FIXED.unpack_from(buffer, at)
    return ConnectUnix(*members, target)  # type: ignore[call-arg]


class DeviceAttempt(Struct, frozen=True, gc=False):
    """A `struct pf_device_attempt`: 96 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    count: int
    first_ns: int
    last_ns: int
    major: int
    minor: int
    uid: int
    kind: int
    access: int
    device_class: int
    granted: int
    verdict: int
    prior: int


_PF_DEVICE_ATTEMPT = PackedStruct("<HHIQQQIIQQQQIIIHHBBBB4x")


def read_device_attempt(buffer: Buffer, at: int) -> DeviceAttempt:
    return DeviceAttempt(*_PF_DEVICE_ATTEMPT.unpack_from(buffer, at))


class Flow(Struct, frozen=True, gc=False):
    """A `struct pf_flow`: 200 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    cookie: int
    inode: int
    started_ns: int
    last_ns: int
    bytes_out: int
    bytes_in: int
    count: int
    outer_cookie: int
    outer_bytes_out: int
    outer_bytes_in: int
    outer_packets_out: int
    outer_packets_in: int
    packets_out: int
    packets_in: int
    inversions: int
    net_ns: int
    slot: int
    family: int
    local_port: int
    remote_port: int
    protocol: int
    phase: int
    flow_flags: int
    end: int
    denied: int
    verdict: int
    local: bytes
    remote: bytes


_PF_FLOW = PackedStruct("<HHIQQQIIQQQQQQQQQQQIIIIIIIHHHBBBBBB16s16s")


def read_flow(buffer: Buffer, at: int) -> Flow:
    return Flow(*_PF_FLOW.unpack_from(buffer, at))


class Listen(Struct, frozen=True, gc=False):
    """A `struct pf_listen`: 88 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    cookie: int
    net_ns: int
    family: int
    port: int
    protocol: int
    address: bytes


_PF_LISTEN = PackedStruct("<HHIQQQIIQQIHHB7x16s")


def read_listen(buffer: Buffer, at: int) -> Listen:
    return Listen(*_PF_LISTEN.unpack_from(buffer, at))


class Payload(Struct, frozen=True, gc=False):
    """A `struct pf_payload`: 120 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    cookie: int
    started_ns: int
    offset: int
    length: int
    slot: int
    family: int
    local_port: int
    remote_port: int
    protocol: int
    incoming: int
    flow_flags: int
    device: int
    local: bytes
    remote: bytes
    data: bytes


_PF_PAYLOAD = PackedStruct("<HHIQQQIIQQQIIIHHHBBBBH16s16s")
_PF_PAYLOAD_FIXED = PackedStruct("<HHIQQQIIQQQIIIHHHBBBB2x16s16s")
_PF_PAYLOAD_TAILS = PackedStruct("<2x2x4x8x8x8x4x4x8x8x8x4x4x4x2x2x2x1x1x1x1xH16x16x")


def split_payload(buffer: Buffer, at: int) -> Split:
    (n0,) = _PF_PAYLOAD_TAILS.unpack_from(buffer, at)
    first = at + 120
    further = first + n0
    members = _PF_PAYLOAD_FIXED.unpack_from(buffer, at)
    if further - at > members[2]:
        raise ShortRecord
    return members, buffer[first:further]


def read_payload(buffer: Buffer, at: int) -> Payload:
    members, data = split_payload(buffer, at)
    return Payload(*members, data)  # type: ignore[call-arg]


class Inversion(Struct, frozen=True, gc=False):
    """A `struct pf_inversion`: 104 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    cookie: int
    started_ns: int
    idle_ns: int
    bytes_out: int
    bytes_in: int
    packets_out: int
    packets_in: int
    length: int
    inversions: int


_PF_INVERSION = PackedStruct("<HHIQQQIIQQQQQQIIII")


def read_inversion(buffer: Buffer, at: int) -> Inversion:
    return Inversion(*_PF_INVERSION.unpack_from(buffer, at))


class SensorAccess(Struct, frozen=True, gc=False):
    """A `struct pf_sensor_access`: 80 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    count: int
    access: int
    number: int
    target_tgid: int
    result: int
    user_ns: int
    uid: int


_PF_SENSOR_ACCESS = PackedStruct("<HHIQQQIIQQIIIiII")


def read_sensor_access(buffer: Buffer, at: int) -> SensorAccess:
    return SensorAccess(*_PF_SENSOR_ACCESS.unpack_from(buffer, at))


class SystemCall(Struct, frozen=True, gc=False):
    """A `struct pf_system_call`: 152 bytes, then its tails."""

    type: int
    flags: int
    size: int
    time_ns: int
    sandbox_id: int
    cgroup_id: int
    tgid: int
    tid: int
    exec_id: int
    count: int
    first_ns: int
    last_ns: int
    arguments: bytes
    target_sandbox_id: int
    target_start_ns: int
    number: int
    capability: int
    user_ns: int
    target_tgid: int
    result: int
    uid: int
    seen_by: int
    signal: int


_PF_SYSTEM_CALL = PackedStruct("<HHIQQQIIQQQQ32sQQIIIIiIBB6x")


def read_system_call(buffer: Buffer, at: int) -> SystemCall:
    return SystemCall(*_PF_SYSTEM_CALL.unpack_from(buffer, at))


HEADER_SIZE = 48

# Record type → (smallest size, reader).
READERS: dict[int, tuple[int, Callable[[Buffer, int], Struct]]] = {
    1: (184, read_exec),
    2: (88, read_fork),
    3: (64, read_exit),
    16: (64, read_cgroup),
    17: (64, read_cgroup),
    18: (88, read_move),
    32: (128, read_connect),
    33: (104, read_connect_unix),
    48: (96, read_device_attempt),
    64: (200, read_flow),
    65: (88, read_listen),
    66: (120, read_payload),
    67: (104, read_inversion),
    80: (80, read_sensor_access),
    81: (152, read_system_call),
}
# Record type → what gives its members and tails without a Struct.
SPLITTERS: dict[int, Callable[[Buffer, int], Split]] = {
    1: split_exec,
    32: split_connect,
    33: split_connect_unix,
}
# Record type → those members of a Struct.
SPLIT_MEMBERS: dict[int, Callable[[Any], tuple[Any, ...]]] = {
    1: attrgetter(
        "type",
        "flags",
        "size",
        "time_ns",
        "sandbox_id",
        "cgroup_id",
        "tgid",
        "exec_id",
        "start_ns",
        "parent_start_ns",
        "inode",
        "parent_tgid",
        "uid",
        "euid",
        "device",
        "file_flags",
        "pid_ns",
        "mnt_ns",
        "net_ns",
        "user_ns",
        "stdin_inode",
        "stdout_inode",
        "stderr_inode",
        "changed",
        "stdin_kind",
        "stdout_kind",
        "stderr_kind",
        "denied",
    ),
    32: attrgetter(
        "type",
        "flags",
        "size",
        "time_ns",
        "sandbox_id",
        "cgroup_id",
        "tgid",
        "exec_id",
        "cookie",
        "count",
        "first_ns",
        "last_ns",
        "maker_tgid",
        "uid",
        "family",
        "port",
        "protocol",
        "verdict",
        "address",
    ),
    33: attrgetter(
        "type",
        "flags",
        "size",
        "time_ns",
        "sandbox_id",
        "cgroup_id",
        "tgid",
        "exec_id",
        "count",
        "first_ns",
        "last_ns",
        "maker_tgid",
        "uid",
        "verdict",
    ),
}
# Record type → its tails, each with the place of its length among what the whole format gives.
TAILS: dict[int, dict[str, int]] = {
    1: {"argv": 35, "filename": 36, "image_path": 37, "cwd_path": 38},
    2: {},
    3: {},
    16: {"path": 11},
    17: {"path": 11},
    18: {},
    32: {},
    33: {"target": 17},
    48: {},
    64: {},
    65: {},
    66: {"data": 21},
    67: {},
    80: {},
    81: {},
}
