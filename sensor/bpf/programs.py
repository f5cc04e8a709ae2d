"""Every program: which file it stands in, how it is loaded, and where it is attached."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from sensor.bpf.libbpf import AttachType, ProgType

PROBES = Path(__file__).resolve().parents[2] / "probes"
_HEADERS = ("include/events.h", "include/state.h", "include/common.h", "include/sockets.h")
# Each is compiled by a process of its own, at the same time: most of a cold start is clang's.
UNITS = (
    (
        *_HEADERS,
        "guard.bpf.c",
        "calls.bpf.c",
        "process.bpf.c",
        "cgroup.bpf.c",
        "egress.bpf.c",
        "socket.bpf.c",
        "device.bpf.c",
        "flush.bpf.c",
    ),
    (*_HEADERS, "egress.bpf.c", "flow.bpf.c", "packet.bpf.c", "judge.bpf.c"),
)


class Program(Struct, frozen=True):
    """`feature`: without it the program is left out. Neither tracepoint nor attach: run by hand, or tail-called."""

    name: str
    kind: ProgType
    tracepoint: str = ""
    attach: AttachType | None = None
    feature: str = ""
    called_by: tuple[str, int] | None = None  # the map of programs, and the place in it, by which others tail-call it


def _raw(tracepoint: str, feature: str = "") -> Program:
    return Program(f"on_{tracepoint}", ProgType.RAW_TRACEPOINT, tracepoint=tracepoint, feature=feature)


PROGRAMS = (
    _raw("sched_process_exec"),
    _raw("sched_process_fork"),
    _raw("sched_process_exit"),
    _raw("cgroup_mkdir"),
    _raw("cgroup_rmdir"),
    _raw("cgroup_attach_task"),
    _raw("signal_generate", "signal_generate"),
    _raw("cap_capable", "cap_capable"),
    _raw("io_uring_create", "io_uring_create"),
    _raw("sys_enter", "sys_enter"),
    Program("on_sock_create", ProgType.CGROUP_SOCK, attach=AttachType.INET_SOCK_CREATE),
    Program("on_connect4", ProgType.CGROUP_SOCK_ADDR, attach=AttachType.INET4_CONNECT),
    Program("on_connect6", ProgType.CGROUP_SOCK_ADDR, attach=AttachType.INET6_CONNECT),
    Program("on_sendmsg4", ProgType.CGROUP_SOCK_ADDR, attach=AttachType.UDP4_SENDMSG),
    Program("on_sendmsg6", ProgType.CGROUP_SOCK_ADDR, attach=AttachType.UDP6_SENDMSG),
    Program("on_connect_unix", ProgType.CGROUP_SOCK_ADDR, attach=AttachType.UNIX_CONNECT, feature="connect_unix"),
    Program("on_device", ProgType.CGROUP_DEVICE, attach=AttachType.DEVICE),
    Program("on_sock_ops", ProgType.SOCK_OPS, attach=AttachType.SOCK_OPS),
    Program("on_packet", ProgType.CGROUP_SKB, called_by=("packet_programs", 0)),
    Program("on_feed", ProgType.CGROUP_SKB, called_by=("packet_programs", 1)),
    Program("on_adopt", ProgType.CGROUP_SKB, called_by=("packet_programs", 2)),
    Program("on_payload", ProgType.CGROUP_SKB, called_by=("packet_programs", 3)),
    Program("on_judge", ProgType.CGROUP_SKB, called_by=("packet_programs", 4)),
    Program("on_egress", ProgType.CGROUP_SKB, attach=AttachType.INET_EGRESS),
    Program("on_ingress", ProgType.CGROUP_SKB, attach=AttachType.INET_INGRESS),
    Program("on_post_bind4", ProgType.CGROUP_SOCK, attach=AttachType.INET4_POST_BIND),
    Program("on_post_bind6", ProgType.CGROUP_SOCK, attach=AttachType.INET6_POST_BIND),
    Program("on_flow_check", ProgType.RAW_TRACEPOINT),
    Program("on_flush_peer", ProgType.RAW_TRACEPOINT),
    Program("on_flush", ProgType.RAW_TRACEPOINT),
    Program("on_flush_unix", ProgType.RAW_TRACEPOINT, feature="connect_unix"),
)


def chosen(features: frozenset[str]) -> list[Program]:
    return [program for program in PROGRAMS if not program.feature or program.feature in features]


def source(unit: int) -> str:
    """One of UNITS as one text, with line marks, so that errors name the file."""
    return _text(UNITS[unit])


def sources() -> str:
    """Every file of the probes, once."""
    return _text(dict.fromkeys(name for unit in UNITS for name in unit))


def of_unit(unit: int, features: frozenset[str]) -> list[Program]:
    """Those of `chosen` that the unit's text defines."""
    text = source(unit)
    return [program for program in chosen(features) if f"\nint {program.name}(" in text]


def _text(names: Iterable[str]) -> str:
    parts = []
    for name in names:
        text = (PROBES / name).read_text().replace("#pragma once\n", "\n")
        parts.append(f'#line 1 "{name}"\n{text}')
    return "\n".join(parts)
