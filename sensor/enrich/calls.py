"""System calls as the probes see them: by a capability that was asked for, a signal, a new io_uring."""

from __future__ import annotations

from struct import unpack

from sensor.enrich.clock import Timeline
from sensor.enrich.escapes import INIT_USER_NS
from sensor.enrich.fields import brought_along, common
from sensor.enrich.outside import Outside
from sensor.enrich.processes import ProcessTable, same_start
from sensor.enrich.sandboxes.registry import Registry
from sensor.enrich.users import Users
from sensor.events.activity import SystemCall
from sensor.events.callnames import CALLS_OF_ACTION, NUMBERS, call_name
from sensor.events.layouts import Flag, Seen
from sensor.events.layouts import SystemCall as CallRecord

_REPEAT = int(Flag.REPEAT)
_NO_CAPABILITY = 0xFFFFFFFF
_AF_PACKET = 17
_CAPABILITIES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(_CAPABILITIES.split())
_ACTION_OF_CALL = {NUMBERS[name]: action for action, names in CALLS_OF_ACTION.items() for name in names}
_BY_CAPABILITY = {
    "credentials": "SETUID SETGID",
    "capabilities": "SETPCAP SETFCAP",
    "signal": "KILL",
    "raw_socket": "NET_RAW",
    "module": "SYS_MODULE",
    "chroot": "SYS_CHROOT",
    "bpf": "BPF",
    "device": "MKNOD",
    "kernel": "SYS_BOOT SYS_TIME SYS_RAWIO SYS_PACCT SYSLOG",
    # Where the call itself neither traces nor watches: a file of another process in /proc.
    "file": "SYS_PTRACE PERFMON DAC_READ_SEARCH LINUX_IMMUTABLE",
}
_ACTION_OF_CAPABILITY = {name: action for action, names in _BY_CAPABILITY.items() for name in names.split()}
_BY_WAY: dict[int, str] = {
    Seen.SIGNAL: "signal",
    Seen.TRACED: "trace",
    Seen.IO_URING: "io_uring",
    Seen.USER_NS: "namespace",
    Seen.FORK: "namespace",
    Seen.MEMFD: "memfd",
}
_MECHANISMS: dict[int, str] = {
    Seen.SIGNAL: "signal_generate",
    Seen.TRACED: "signal_generate",
    Seen.IO_URING: "io_uring_create",
    Seen.FORK: "sched_process_fork",
    Seen.ENTRY: "sys_enter",
}
_WITH_TARGET: frozenset[int] = frozenset({Seen.SIGNAL, Seen.TRACED})
_SYSCALL_WRITES = frozenset(NUMBERS[name] for name in ("write", "pwrite64", "writev", "sendfile"))


class Calls:
    def __init__(
        self, sandboxes: Registry, processes: ProcessTable, users: Users, timeline: Timeline, outside: Outside
    ) -> None:
        self._sandboxes = sandboxes
        self._processes = processes
        self._users = users
        self._timeline = timeline
        self._outside = outside

    def call(self, r: CallRecord, generation: int, position: int) -> SystemCall:
        process, before = self._processes.actor(r.tgid, r.exec_id, r.sandbox_id)
        sandbox = self._sandboxes.get(r.sandbox_id)
        utc = self._timeline.utc(r.time_ns)
        where = (
            generation, position, utc, r.time_ns, r.sandbox_id, sandbox.name, sandbox.class_, r.cgroup_id, r.tgid,
        )  # fmt: skip
        capability = "" if r.capability == _NO_CAPABILITY else _capability(r.capability)
        targeted = r.seen_by in _WITH_TARGET
        arguments = unpack("<4Q", r.arguments)
        repeat = r.flags & _REPEAT != 0
        return SystemCall(
            *common(where, process, self._users.name(r.uid), before=before),
            "memfd_create" if r.seen_by == Seen.MEMFD else call_name(r.number),
            action_of(r.number, arguments, capability, r.seen_by),
            "" if targeted and repeat else shown(r.seen_by, arguments),
            capability and f"CAP_{capability}",
            not capability or r.result == 0,
            bool(capability) and r.user_ns == INIT_USER_NS,
            r.target_tgid,
            self._image(r) if targeted else "",
            targeted and r.target_sandbox_id == r.sandbox_id,
            r.signal,
            _MECHANISMS.get(r.seen_by, "cap_capable"),
            r.count,
            r.first_ns,
            r.last_ns,
            repeat,
            brought_along(process, before=before),
        )

    def _image(self, r: CallRecord) -> str:
        """Of the target: of a process of a sandbox from the table, of any other where its program still runs."""
        known = self._processes.current.get(r.target_tgid)
        if known is not None:
            return known.image if same_start(known.start_ns, r.target_start_ns) else ""
        return self._outside.image(r.target_tgid, r.target_start_ns)


def shown(seen_by: int, arguments: tuple[int, ...]) -> str:
    """Where the probe has none they are all zero, and nothing is shown."""
    if seen_by in {Seen.TRACED, Seen.USER_NS}:
        return ""
    return " ".join(f"{argument:x}" for argument in arguments)


def action_of(number: int, arguments: tuple[int, ...], capability: str, seen_by: int) -> str:
    by_way = _BY_WAY.get(seen_by)
    known = _ACTION_OF_CALL.get(number)
    if by_way is not None:
        return "trace" if known == "trace" else by_way
    if number == _SOCKET:
        return "packet_socket" if arguments[0] == _AF_PACKET else "raw_socket"
    if known is not None:
        return known
    if capability == "SYS_ADMIN" and number in _SYSCALL_WRITES:
        return "namespace"  # a map of ids of a user namespace
    return _ACTION_OF_CAPABILITY.get(capability, "other")


def _capability(number: int) -> str:
    return CAPABILITIES[number] if number < len(CAPABILITIES) else str(number)


_SOCKET = NUMBERS["socket"]
