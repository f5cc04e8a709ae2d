"""What this kernel offers, found by trying: supported, unsupported, or inconclusive. Versions are never
compared, since distributions backport."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import IntEnum
from functools import lru_cache
from struct import error

from msgspec import Struct

from sensor.bpf import libbpf
from sensor.bpf.btf import VMLINUX, names
from sensor.bpf.libbpf import AttachType, MapType, ProgType


class Helper(IntEnum):
    """include/uapi/linux/bpf.h"""

    GET_SOCKET_COOKIE = 46
    SEND_SIGNAL = 109
    PROBE_READ_KERNEL = 113
    RINGBUF_OUTPUT = 130
    RINGBUF_QUERY = 134
    GET_CURRENT_PID_TGID = 14
    GET_CURRENT_CGROUP_ID = 80
    GET_RETVAL = 186
    KTIME_GET_COARSE_NS = 160
    TASK_PT_REGS = 175


class Feature(Struct, frozen=True):
    """`required`: pinfold does not start without it."""

    name: str
    state: str  # supported, unsupported, inconclusive
    detail: str
    lost_without: str
    remedy: str
    required: bool = False


# Instructions of eight bytes: r0 = 1; exit; call with the helper's number in the upper half.
_RETURN_ZERO = 0x00000000000000B7
_RETURN_ONE = 0x00000001000000B7
_EXIT = 0x95
_CALL = 0x85


def _helper(kind: ProgType, helper: Helper, attach: int = 0) -> int:
    """libbpf 1.1 has a function for this, which takes a newer verifier's `program of this type cannot use
    helper` for a yes. Any complaint about something else, the arguments say, means that the helper is there."""
    loaded, log = libbpf.try_load(int(kind), [_CALL | int(helper) << 32, _RETURN_ONE, _EXIT], attach)
    if loaded < 0 or not log:
        return loaded
    return int(not any(no in log for no in ("cannot use helper", "unknown func", "invalid func")))


def _state(result: int) -> str:
    """Without rights the kernel refuses whatever it has: that says nothing about it."""
    refused = "unsupported" if os.geteuid() == 0 else "inconclusive"
    return "supported" if result > 0 else refused if result == 0 else "inconclusive"


@lru_cache(1)
def _names() -> bytes:
    return names()


def _attach_type(kind: ProgType, attach: AttachType) -> int:
    """Whether the kernel loads a program that returns 1 for this place. It is never attached."""
    loaded, _ = libbpf.try_load(int(kind), [_RETURN_ONE, _EXIT], int(attach))
    return loaded


def connect_unix() -> str:
    """6.7 ("bpf: Add bpf_sock_addr hooks for unix sockets"); the path is read from bpf_sock_addr_kern."""
    state = _attach_type(ProgType.CGROUP_SOCK_ADDR, AttachType.UNIX_CONNECT)
    if state > 0:
        try:
            known = _names()
        except (OSError, error):
            return "unsupported"
        if any(b"\0" + name + b"\0" not in known for name in (b"bpf_sock_addr_kern", b"uaddrlen")):
            return "unsupported"
    return _state(state)


def get_retval() -> str:
    return _state(_helper(ProgType.CGROUP_DEVICE, Helper.GET_RETVAL, AttachType.DEVICE))


def coarse_clock() -> str:
    return _state(_helper(ProgType.CGROUP_SKB, Helper.KTIME_GET_COARSE_NS, AttachType.INET_EGRESS))


def task_registers() -> str:
    return _state(_helper(ProgType.RAW_TRACEPOINT, Helper.TASK_PT_REGS))


def _decision(name: str) -> str:
    """A tracepoint whose program reads which system call it is in."""
    states = (task_registers(), tracepoint(name))
    return next((state for state in states if state != "supported"), "supported")


def tracepoint(name: str) -> str:
    """By the type that the kernel's BTF has for each tracepoint's probes. Attaching to try would patch a hot path
    twice and wait for every CPU."""
    try:
        known = _names()
    except (OSError, error):
        return "inconclusive"
    return "supported" if b"\0btf_trace_" + name.encode() + b"\0" in known else "unsupported"


# Optional tracepoints; each is a feature by its own name.
TRACEPOINTS = ("signal_generate", "cap_capable", "io_uring_create")
GATE = "sys_enter"  # only where it is asked for


def chosen(gate: bool = False) -> tuple[str, ...]:
    """The optional features that the probes are compiled with. `gate`: system calls are looked at where they begin."""
    found = [("connect_unix", connect_unix()), ("get_retval", get_retval()), ("coarse_clock", coarse_clock())]
    if os.geteuid() == 0:
        registers = task_registers()
        found.append(("task_registers", registers))
        # Each reads which system call it is in.
        found += [(name, tracepoint(name)) for name in TRACEPOINTS if registers == "supported"]
        if gate and registers == "supported":
            found.append((GATE, tracepoint(GATE)))
    _names.cache_clear()  # megabytes, which nobody asks for again
    return tuple(name for name, state in found if state == "supported")


def _lsm() -> tuple[str, str]:
    """Programs load and never fire unless `bpf` is among the active modules, which securityfs tells; and some kernels
    refuse to load them though it is."""
    hook = libbpf.hook_type("task_kill")
    if hook < 0:
        return "unsupported", "the kernel has no BPF-LSM hooks"
    loaded, _ = libbpf.try_load(int(ProgType.LSM), [_RETURN_ZERO, _EXIT], libbpf.LSM_MAC, hook)
    if loaded <= 0:
        return _state(loaded if os.geteuid() else 0), "the kernel refuses to load such programs"
    try:
        with open("/sys/kernel/security/lsm", encoding="ascii") as active:
            names = active.read().strip().split(",")
    except OSError:
        return "inconclusive", "they load; without /sys/kernel/security/lsm nothing tells whether they are called"
    return ("supported" if "bpf" in names else "unsupported"), ",".join(names)


_UPGRADE = "boot a newer kernel (Debian 12's 6.1 has it)"
_PROGRAMS = (
    (ProgType.RAW_TRACEPOINT, "exec, fork, exit, cgroup births"),
    (ProgType.CGROUP_SOCK, "the socket's stamp"),
    (ProgType.CGROUP_SOCK_ADDR, "connects"),
    (ProgType.CGROUP_DEVICE, "device opens"),
    (ProgType.SOCK_OPS, "flows: who connected and who accepted"),
    (ProgType.CGROUP_SKB, "flows: bytes, first bytes, and packets that egress lists refuse"),
)
_MAPS = (
    (MapType.SK_STORAGE, "socket storage", "5.2", "whose an accepted connection is"),
    (MapType.LPM_TRIE, "LPM trie", "4.11", "networks in egress lists"),
    (MapType.LRU_HASH, "LRU hash", "4.10", "names in egress lists, and flows to one peer counted together"),
)


def _programs_and_maps() -> Iterator[Feature]:
    for program, lost in _PROGRAMS:
        name = program.name.lower().replace("_", " ")
        yield Feature(f"{name} programs", _state(libbpf.probe_program(program)), "", lost, _UPGRADE, True)
    for map_, name, since, lost in _MAPS:
        detail = f"BPF_MAP_TYPE_{map_.name}, {since}"
        yield Feature(name, _state(libbpf.probe_map(map_)), detail, lost, _UPGRADE, True)


def report() -> list[Feature]:
    """For `pinfold doctor`."""
    upgrade = _UPGRADE
    found = [
        Feature(
            "BTF",
            "supported" if VMLINUX.exists() else "unsupported",
            str(VMLINUX),
            "everything: the probes' offsets come from it",
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian's are)",
            True,
        ),
        Feature(
            "ring buffer",
            _state(libbpf.probe_map(MapType.RINGBUF)),
            "BPF_MAP_TYPE_RINGBUF, 5.8",
            "everything",
            upgrade,
            True,
        ),
        Feature(
            "socket cookies",
            _state(_helper(ProgType.CGROUP_SOCK, Helper.GET_SOCKET_COOKIE, AttachType.INET_SOCK_CREATE)),
            "bpf_get_socket_cookie in cgroup/sock programs, 5.8",
            "who made a socket",
            upgrade,
            True,
        ),
    ]
    found += _programs_and_maps()
    found += [
        Feature(
            "who opens a device",
            _state(_helper(ProgType.CGROUP_DEVICE, Helper.GET_CURRENT_PID_TGID, AttachType.DEVICE)),
            "bpf_get_current_pid_tgid in cgroup/dev programs",
            "device opens: the probe cannot tell the process",
            upgrade,
            True,
        ),
        Feature(
            "kill from the probe",
            _state(_helper(ProgType.RAW_TRACEPOINT, Helper.SEND_SIGNAL)),
            "bpf_send_signal, 5.3",
            "refusing an exec that cannot be recorded",
            upgrade,
            True,
        ),
        Feature(
            "prior device verdict",
            get_retval(),
            "bpf_get_retval in cgroup/dev programs, 5.18",
            "whether the runtime's own device program had refused already: PriorVerdict says unknown",
            upgrade,
        ),
        Feature(
            "coarse clock",
            coarse_clock(),
            "bpf_ktime_get_coarse_ns in cgroup/skb programs, 5.11",
            "nothing, but each packet costs some nanoseconds more",
            upgrade,
        ),
        Feature(
            "unix socket connects",
            connect_unix(),
            "cgroup/connect_unix, 6.7",
            "connects to docker.sock and the like",
            "boot a kernel from 6.7 on",
        ),
    ]
    found += [
        Feature(
            "signals and ptrace",
            _decision("signal_generate"),
            "raw tracepoint signal_generate, 5.15 for the registers; costs each signal of the host a look-up",
            "signals to the sensor and to other processes outside the sandbox, and who traces whom",
            upgrade,
        ),
        Feature(
            "requests for capabilities",
            _decision("cap_capable"),
            "raw tracepoint cap_capable, 6.13; costs each mmap of the host a comparison",
            "bpf(2) on the sensor's objects (that a sandbox is tamperable is still told, by its capabilities); mounts, "
            "setns, unshare, modules, packet and raw sockets, credentials, memfds: but for `syscalls: full`",
            "boot a kernel from 6.13 on",
        ),
        Feature(
            "io_uring",
            _decision("io_uring_create"),
            "raw tracepoint io_uring_create, 5.15 for the registers; costs nothing else",
            "that an io_uring was made; what goes through it is seen all the same",
            upgrade,
        ),
        Feature(
            "system calls at their gate",
            _decision(GATE),
            "raw tracepoint sys_enter, only with `syscalls: full`: it costs every system call of the host",
            "calls that ask for no capability: unwritten memfds, modules where there are none, refused arguments",
            upgrade,
        ),
    ]
    state, detail = _lsm()
    found.append(
        Feature(
            "BPF-LSM",
            state,
            detail,
            "a denied program is killed before its first instruction, not refused; a sandbox that is root is noticed "
            "at the sensor's objects and answered, not kept from them. No LSM hook is used yet",
            "add bpf to lsm= on the kernel's command line",
        )
    )
    found.append(
        Feature(
            "root",
            "supported" if os.geteuid() == 0 else "unsupported",
            f"uid {os.geteuid()}",
            "everything",
            "run it with sudo",
            True,
        )
    )
    return found
