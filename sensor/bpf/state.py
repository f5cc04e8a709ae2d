"""Generated from probes/include/state.h by sensor.events.generate. Do not edit."""

from __future__ import annotations

from struct import Struct as PackedStruct

from msgspec import Struct

_PF_CONTROL = PackedStruct("<QIIQQQQIIQQQQQQQQ")


class Control(Struct, frozen=True, gc=False):
    """A `struct pf_control`: 120 bytes. Arrays are bytes."""

    active_generation: int = 0
    armed: int = 0
    protected_port: int = 0
    budget_bytes: int = 0
    repeat_flush_ns: int = 0
    flow_late_ns: int = 0
    flow_window_ns: int = 0
    flow_full: int = 0
    flow_sample: int = 0
    sample_ns: int = 0
    idle_ns: int = 0
    pause_ns: int = 0
    inversion_ns: int = 0
    policy: int = 0
    egress_any: int = 0
    judges_packets: int = 0
    untracked: int = 0

    def pack(self) -> bytes:
        return _PF_CONTROL.pack(
            self.active_generation,
            self.armed,
            self.protected_port,
            self.budget_bytes,
            self.repeat_flush_ns,
            self.flow_late_ns,
            self.flow_window_ns,
            self.flow_full,
            self.flow_sample,
            self.sample_ns,
            self.idle_ns,
            self.pause_ns,
            self.inversion_ns,
            self.policy,
            self.egress_any,
            self.judges_packets,
            self.untracked,
        )

    @staticmethod
    def unpack(data: bytes) -> Control:
        return Control(*_PF_CONTROL.unpack(data))


_PF_UNWANTED = PackedStruct("<II")


class Unwanted(Struct, frozen=True, gc=False):
    """A `struct pf_unwanted`: 8 bytes. Arrays are bytes."""

    devices: int = 0
    connects: int = 0

    def pack(self) -> bytes:
        return _PF_UNWANTED.pack(
            self.devices,
            self.connects,
        )

    @staticmethod
    def unpack(data: bytes) -> Unwanted:
        return Unwanted(*_PF_UNWANTED.unpack(data))


_PF_CLASS = PackedStruct("<IIIIIIIIQ32s")


class Class(Struct, frozen=True, gc=False):
    """A `struct pf_class`: 72 bytes. Arrays are bytes."""

    enforce: int = 0
    granted_devices: int = 0
    refuse_unrecorded: int = 0
    denied_protocols: int = 0
    egress_limited: int = 0
    egress_names: int = 0
    denied_execs: int = 0
    single_devices: int = 0
    realtime_ns: int = 0
    name: bytes = bytes(32)

    def pack(self) -> bytes:
        return _PF_CLASS.pack(
            self.enforce,
            self.granted_devices,
            self.refuse_unrecorded,
            self.denied_protocols,
            self.egress_limited,
            self.egress_names,
            self.denied_execs,
            self.single_devices,
            self.realtime_ns,
            self.name,
        )

    @staticmethod
    def unpack(data: bytes) -> Class:
        return Class(*_PF_CLASS.unpack(data))


_PF_QUARANTINE = PackedStruct("<I4xQ")


class Quarantine(Struct, frozen=True, gc=False):
    """A `struct pf_quarantine`: 16 bytes. Arrays are bytes."""

    deny: int = 0
    since_ns: int = 0

    def pack(self) -> bytes:
        return _PF_QUARANTINE.pack(
            self.deny,
            self.since_ns,
        )

    @staticmethod
    def unpack(data: bytes) -> Quarantine:
        return Quarantine(*_PF_QUARANTINE.unpack(data))


_PF_GRANT_KEY = PackedStruct("<IIII")


class GrantKey(Struct, frozen=True, gc=False):
    """A `struct pf_grant_key`: 16 bytes. Arrays are bytes."""

    class_id: int = 0
    kind: int = 0
    major: int = 0
    minor: int = 0

    def pack(self) -> bytes:
        return _PF_GRANT_KEY.pack(
            self.class_id,
            self.kind,
            self.major,
            self.minor,
        )

    @staticmethod
    def unpack(data: bytes) -> GrantKey:
        return GrantKey(*_PF_GRANT_KEY.unpack(data))


_PF_IMAGE_KEY = PackedStruct("<IIQ")


class ImageKey(Struct, frozen=True, gc=False):
    """A `struct pf_image_key`: 16 bytes. Arrays are bytes."""

    class_id: int = 0
    device: int = 0
    inode: int = 0

    def pack(self) -> bytes:
        return _PF_IMAGE_KEY.pack(
            self.class_id,
            self.device,
            self.inode,
        )

    @staticmethod
    def unpack(data: bytes) -> ImageKey:
        return ImageKey(*_PF_IMAGE_KEY.unpack(data))


_PF_IMAGE = PackedStruct("<Q")


class Image(Struct, frozen=True, gc=False):
    """A `struct pf_image`: 8 bytes. Arrays are bytes."""

    changed: int = 0

    def pack(self) -> bytes:
        return _PF_IMAGE.pack(
            self.changed,
        )

    @staticmethod
    def unpack(data: bytes) -> Image:
        return Image(*_PF_IMAGE.unpack(data))


_PF_EXECUTABLE_KEY = PackedStruct("<II120s")


class ExecutableKey(Struct, frozen=True, gc=False):
    """A `struct pf_executable_key`: 128 bytes. Arrays are bytes."""

    prefix: int = 0
    class_id: int = 0
    path: bytes = bytes(120)

    def pack(self) -> bytes:
        return _PF_EXECUTABLE_KEY.pack(
            self.prefix,
            self.class_id,
            self.path,
        )

    @staticmethod
    def unpack(data: bytes) -> ExecutableKey:
        return ExecutableKey(*_PF_EXECUTABLE_KEY.unpack(data))


_PF_SANDBOX = PackedStruct("<QQQQQQQ128sII")


class Sandbox(Struct, frozen=True, gc=False):
    """A `struct pf_sandbox`: 192 bytes. Arrays are bytes."""

    id: int = 0
    born_ns: int = 0
    mark: int = 0
    bytes_before: int = 0
    bytes_since: int = 0
    processes: int = 0
    dns_ns: int = 0
    lost: bytes = bytes(128)
    class_id: int = 0
    ended: int = 0

    def pack(self) -> bytes:
        return _PF_SANDBOX.pack(
            self.id,
            self.born_ns,
            self.mark,
            self.bytes_before,
            self.bytes_since,
            self.processes,
            self.dns_ns,
            self.lost,
            self.class_id,
            self.ended,
        )

    @staticmethod
    def unpack(data: bytes) -> Sandbox:
        return Sandbox(*_PF_SANDBOX.unpack(data))


_PF_PROCESS = PackedStruct("<QQQQIII4x")


class Process(Struct, frozen=True, gc=False):
    """A `struct pf_process`: 48 bytes. Arrays are bytes."""

    sandbox_id: int = 0
    exec_id: int = 0
    start_ns: int = 0
    family: int = 0
    repeats: int = 0
    class_id: int = 0
    user_ns: int = 0

    def pack(self) -> bytes:
        return _PF_PROCESS.pack(
            self.sandbox_id,
            self.exec_id,
            self.start_ns,
            self.family,
            self.repeats,
            self.class_id,
            self.user_ns,
        )

    @staticmethod
    def unpack(data: bytes) -> Process:
        return Process(*_PF_PROCESS.unpack(data))


_PF_STEP = PackedStruct("<64s64s32s32sHHHHII")


class Step(Struct, frozen=True, gc=False):
    """A `struct pf_step`: 208 bytes. Arrays are bytes."""

    prefix: bytes = bytes(64)
    prefix_mask: bytes = bytes(64)
    suffix: bytes = bytes(32)
    suffix_mask: bytes = bytes(32)
    prefix_length: int = 0
    suffix_length: int = 0
    exact: int = 0
    last: int = 0
    next: int = 0
    class_id: int = 0

    def pack(self) -> bytes:
        return _PF_STEP.pack(
            self.prefix,
            self.prefix_mask,
            self.suffix,
            self.suffix_mask,
            self.prefix_length,
            self.suffix_length,
            self.exact,
            self.last,
            self.next,
            self.class_id,
        )

    @staticmethod
    def unpack(data: bytes) -> Step:
        return Step(*_PF_STEP.unpack(data))


_PF_WATCH = PackedStruct("<32sII")


class Watch(Struct, frozen=True, gc=False):
    """A `struct pf_watch`: 40 bytes. Arrays are bytes."""

    steps: bytes = bytes(32)
    count: int = 0
    attach: int = 0

    def pack(self) -> bytes:
        return _PF_WATCH.pack(
            self.steps,
            self.count,
            self.attach,
        )

    @staticmethod
    def unpack(data: bytes) -> Watch:
        return Watch(*_PF_WATCH.unpack(data))


_PF_DEVICE_KEY = PackedStruct("<III")


class DeviceKey(Struct, frozen=True, gc=False):
    """A `struct pf_device_key`: 12 bytes. Arrays are bytes."""

    kind: int = 0
    major: int = 0
    minor: int = 0

    def pack(self) -> bytes:
        return _PF_DEVICE_KEY.pack(
            self.kind,
            self.major,
            self.minor,
        )

    @staticmethod
    def unpack(data: bytes) -> DeviceKey:
        return DeviceKey(*_PF_DEVICE_KEY.unpack(data))


_PF_REPEAT_KEY = PackedStruct("<Q16sIHBB")


class RepeatKey(Struct, frozen=True, gc=False):
    """A `struct pf_repeat_key`: 32 bytes. Arrays are bytes."""

    exec_id: int = 0
    address: bytes = bytes(16)
    tgid: int = 0
    port: int = 0
    protocol: int = 0
    bits: int = 0

    def pack(self) -> bytes:
        return _PF_REPEAT_KEY.pack(
            self.exec_id,
            self.address,
            self.tgid,
            self.port,
            self.protocol,
            self.bits,
        )

    @staticmethod
    def unpack(data: bytes) -> RepeatKey:
        return RepeatKey(*_PF_REPEAT_KEY.unpack(data))


_PF_UNIX_KEY = PackedStruct("<QIHH112s")


class UnixKey(Struct, frozen=True, gc=False):
    """A `struct pf_unix_key`: 128 bytes. Arrays are bytes."""

    exec_id: int = 0
    tgid: int = 0
    verdict: int = 0
    length: int = 0
    target: bytes = bytes(112)

    def pack(self) -> bytes:
        return _PF_UNIX_KEY.pack(
            self.exec_id,
            self.tgid,
            self.verdict,
            self.length,
            self.target,
        )

    @staticmethod
    def unpack(data: bytes) -> UnixKey:
        return UnixKey(*_PF_UNIX_KEY.unpack(data))


_PF_REPEAT = PackedStruct("<QQQQQQQQQQIIII")


class Repeat(Struct, frozen=True, gc=False):
    """A `struct pf_repeat`: 96 bytes. Arrays are bytes."""

    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    sent_ns: int = 0
    tick: int = 0
    sandbox_id: int = 0
    cgroup_id: int = 0
    maker_sandbox_id: int = 0
    maker_exec_id: int = 0
    cookie: int = 0
    maker_tgid: int = 0
    uid: int = 0
    tid: int = 0
    prior: int = 0

    def pack(self) -> bytes:
        return _PF_REPEAT.pack(
            self.count,
            self.first_ns,
            self.last_ns,
            self.sent_ns,
            self.tick,
            self.sandbox_id,
            self.cgroup_id,
            self.maker_sandbox_id,
            self.maker_exec_id,
            self.cookie,
            self.maker_tgid,
            self.uid,
            self.tid,
            self.prior,
        )

    @staticmethod
    def unpack(data: bytes) -> Repeat:
        return Repeat(*_PF_REPEAT.unpack(data))


_PF_FLUSH_REQUEST = PackedStruct("<QIHH112sQ")


class FlushRequest(Struct, frozen=True, gc=False):
    """A `struct pf_flush_request`: 136 bytes. Arrays are bytes."""

    exec_id: int = 0
    tgid: int = 0
    verdict: int = 0
    length: int = 0
    target: bytes = bytes(112)
    forget: int = 0

    def pack(self) -> bytes:
        return _PF_FLUSH_REQUEST.pack(
            self.exec_id,
            self.tgid,
            self.verdict,
            self.length,
            self.target,
            self.forget,
        )

    @staticmethod
    def unpack(data: bytes) -> FlushRequest:
        return FlushRequest(*_PF_FLUSH_REQUEST.unpack(data))


_PF_STAMP = PackedStruct("<QQQQI4x")


class Stamp(Struct, frozen=True, gc=False):
    """A `struct pf_stamp`: 40 bytes. Arrays are bytes."""

    cookie: int = 0
    sandbox_id: int = 0
    exec_id: int = 0
    family: int = 0
    tgid: int = 0

    def pack(self) -> bytes:
        return _PF_STAMP.pack(
            self.cookie,
            self.sandbox_id,
            self.exec_id,
            self.family,
            self.tgid,
        )

    @staticmethod
    def unpack(data: bytes) -> Stamp:
        return Stamp(*_PF_STAMP.unpack(data))


_PF_FLOW_STATE = PackedStruct("<QQQQQQQQQQQQQQIIIII8s8sHHHBB4s2s2sHBBB7x16s16sII")


class FlowState(Struct, frozen=True, gc=False):
    """A `struct pf_flow_state`: 216 bytes. Arrays are bytes."""

    cookie: int = 0
    sandbox_id: int = 0
    cgroup_id: int = 0
    exec_id: int = 0
    family_id: int = 0
    started_ns: int = 0
    told_ns: int = 0
    last_ns: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    count: int = 0
    inode: int = 0
    inversion_ns: int = 0
    policy: int = 0
    packets_out: int = 0
    packets_in: int = 0
    inversions: int = 0
    tgid: int = 0
    net_ns: int = 0
    first: bytes = bytes(8)
    have: bytes = bytes(8)
    family: int = 0
    local_port: int = 0
    remote_port: int = 0
    protocol: int = 0
    flags: int = 0
    segments: bytes = bytes(4)
    done: bytes = bytes(2)
    wide: bytes = bytes(2)
    consumed: int = 0
    automaton: int = 0
    denied: int = 0
    verdict: int = 0
    local: bytes = bytes(16)
    remote: bytes = bytes(16)
    dns_second: int = 0
    dns_count: int = 0

    def pack(self) -> bytes:
        return _PF_FLOW_STATE.pack(
            self.cookie,
            self.sandbox_id,
            self.cgroup_id,
            self.exec_id,
            self.family_id,
            self.started_ns,
            self.told_ns,
            self.last_ns,
            self.bytes_out,
            self.bytes_in,
            self.count,
            self.inode,
            self.inversion_ns,
            self.policy,
            self.packets_out,
            self.packets_in,
            self.inversions,
            self.tgid,
            self.net_ns,
            self.first,
            self.have,
            self.family,
            self.local_port,
            self.remote_port,
            self.protocol,
            self.flags,
            self.segments,
            self.done,
            self.wide,
            self.consumed,
            self.automaton,
            self.denied,
            self.verdict,
            self.local,
            self.remote,
            self.dns_second,
            self.dns_count,
        )

    @staticmethod
    def unpack(data: bytes) -> FlowState:
        return FlowState(*_PF_FLOW_STATE.unpack(data))


_PF_FAMILY = PackedStruct("<QQII")


class Family(Struct, frozen=True, gc=False):
    """A `struct pf_family`: 24 bytes. Arrays are bytes."""

    inversion_ns: int = 0
    outer_cookie: int = 0
    outer_slot: int = 0
    outer_local: int = 0

    def pack(self) -> bytes:
        return _PF_FAMILY.pack(
            self.inversion_ns,
            self.outer_cookie,
            self.outer_slot,
            self.outer_local,
        )

    @staticmethod
    def unpack(data: bytes) -> Family:
        return Family(*_PF_FAMILY.unpack(data))


_PF_AUTOMATON = PackedStruct("<256s")


class Automaton(Struct, frozen=True, gc=False):
    """A `struct pf_automaton`: 256 bytes. Arrays are bytes."""

    next: bytes = bytes(256)

    def pack(self) -> bytes:
        return _PF_AUTOMATON.pack(
            self.next,
        )

    @staticmethod
    def unpack(data: bytes) -> Automaton:
        return Automaton(*_PF_AUTOMATON.unpack(data))


_PF_PEER_KEY = PackedStruct("<Q16sHBBH2x")


class PeerKey(Struct, frozen=True, gc=False):
    """A `struct pf_peer_key`: 32 bytes. Arrays are bytes."""

    sandbox_id: int = 0
    address: bytes = bytes(16)
    port: int = 0
    protocol: int = 0
    incoming: int = 0
    family: int = 0

    def pack(self) -> bytes:
        return _PF_PEER_KEY.pack(
            self.sandbox_id,
            self.address,
            self.port,
            self.protocol,
            self.incoming,
            self.family,
        )

    @staticmethod
    def unpack(data: bytes) -> PeerKey:
        return PeerKey(*_PF_PEER_KEY.unpack(data))


_PF_PEER = PackedStruct("<QII")


class Peer(Struct, frozen=True, gc=False):
    """A `struct pf_peer`: 16 bytes. Arrays are bytes."""

    window_ns: int = 0
    flows: int = 0
    untold: int = 0

    def pack(self) -> bytes:
        return _PF_PEER.pack(
            self.window_ns,
            self.flows,
            self.untold,
        )

    @staticmethod
    def unpack(data: bytes) -> Peer:
        return Peer(*_PF_PEER.unpack(data))


_PF_EGRESS_KEY = PackedStruct("<II16s")


class EgressKey(Struct, frozen=True, gc=False):
    """A `struct pf_egress_key`: 24 bytes. Arrays are bytes."""

    prefix: int = 0
    class_id: int = 0
    address: bytes = bytes(16)

    def pack(self) -> bytes:
        return _PF_EGRESS_KEY.pack(
            self.prefix,
            self.class_id,
            self.address,
        )

    @staticmethod
    def unpack(data: bytes) -> EgressKey:
        return EgressKey(*_PF_EGRESS_KEY.unpack(data))


_PF_EGRESS = PackedStruct("<16s16s8sI4x")


class Egress(Struct, frozen=True, gc=False):
    """A `struct pf_egress`: 48 bytes. Arrays are bytes."""

    low: bytes = bytes(16)
    high: bytes = bytes(16)
    protocol: bytes = bytes(8)
    count: int = 0

    def pack(self) -> bytes:
        return _PF_EGRESS.pack(
            self.low,
            self.high,
            self.protocol,
            self.count,
        )

    @staticmethod
    def unpack(data: bytes) -> Egress:
        return Egress(*_PF_EGRESS.unpack(data))


_PF_NAME_KEY = PackedStruct("<Q16s")


class NameKey(Struct, frozen=True, gc=False):
    """A `struct pf_name_key`: 24 bytes. Arrays are bytes."""

    sandbox_id: int = 0
    address: bytes = bytes(16)

    def pack(self) -> bytes:
        return _PF_NAME_KEY.pack(
            self.sandbox_id,
            self.address,
        )

    @staticmethod
    def unpack(data: bytes) -> NameKey:
        return NameKey(*_PF_NAME_KEY.unpack(data))


_PF_NAME = PackedStruct("<Q16s16s8sI4x")


class Name(Struct, frozen=True, gc=False):
    """A `struct pf_name`: 56 bytes. Arrays are bytes."""

    until_ns: int = 0
    low: bytes = bytes(16)
    high: bytes = bytes(16)
    protocol: bytes = bytes(8)
    count: int = 0

    def pack(self) -> bytes:
        return _PF_NAME.pack(
            self.until_ns,
            self.low,
            self.high,
            self.protocol,
            self.count,
        )

    @staticmethod
    def unpack(data: bytes) -> Name:
        return Name(*_PF_NAME.unpack(data))


_PF_ACCESS_KEY = PackedStruct("<QII")


class AccessKey(Struct, frozen=True, gc=False):
    """A `struct pf_access_key`: 16 bytes. Arrays are bytes."""

    exec_id: int = 0
    tgid: int = 0
    what: int = 0

    def pack(self) -> bytes:
        return _PF_ACCESS_KEY.pack(
            self.exec_id,
            self.tgid,
            self.what,
        )

    @staticmethod
    def unpack(data: bytes) -> AccessKey:
        return AccessKey(*_PF_ACCESS_KEY.unpack(data))


_PF_ACCESS_COUNT = PackedStruct("<QQ")


class AccessCount(Struct, frozen=True, gc=False):
    """A `struct pf_access_count`: 16 bytes. Arrays are bytes."""

    count: int = 0
    sent_ns: int = 0

    def pack(self) -> bytes:
        return _PF_ACCESS_COUNT.pack(
            self.count,
            self.sent_ns,
        )

    @staticmethod
    def unpack(data: bytes) -> AccessCount:
        return AccessCount(*_PF_ACCESS_COUNT.unpack(data))


SIZES = {
    "pf_control": 120,
    "pf_unwanted": 8,
    "pf_class": 72,
    "pf_quarantine": 16,
    "pf_grant_key": 16,
    "pf_image_key": 16,
    "pf_image": 8,
    "pf_executable_key": 128,
    "pf_sandbox": 192,
    "pf_process": 48,
    "pf_step": 208,
    "pf_watch": 40,
    "pf_device_key": 12,
    "pf_repeat_key": 32,
    "pf_unix_key": 128,
    "pf_repeat": 96,
    "pf_flush_request": 136,
    "pf_stamp": 40,
    "pf_flow_state": 216,
    "pf_family": 24,
    "pf_automaton": 256,
    "pf_peer_key": 32,
    "pf_peer": 16,
    "pf_egress_key": 24,
    "pf_egress": 48,
    "pf_name_key": 24,
    "pf_name": 56,
    "pf_access_key": 16,
    "pf_access_count": 16,
}
