"""What the core writes into the maps of a generation, and what it reads from them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct as PackedStruct
from struct import pack, unpack

from msgspec import Struct

from sensor.bpf import libbpf
from sensor.bpf.attach import OFF_VARIABLE
from sensor.bpf.maps import (
    CALLS,
    CHAR_CLASSES,
    CHAR_MAJORS,
    CLASSES,
    DEVICE_GRANTS,
    EGRESS_ENTRIES,
    EXECUTABLES,
    LOW_MAJORS,
    LOW_MINORS,
)
from sensor.bpf.objects import Generation
from sensor.bpf.state import (
    SIZES,
    DeviceKey,
    FlowState,
    FlushRequest,
    Image,
    ImageKey,
    Peer,
    Process,
    Repeat,
    Sandbox,
    UnixKey,
)
from sensor.bpf.state import Class as KernelClassEntry
from sensor.bpf.steps import Found, Plan, pack_watch
from sensor.errors import RefusedError
from sensor.events.layouts import Device, Loss

ANY_MINOR = 0xFFFFFFFF
_CHAR = 2  # BPF_DEVCG_DEV_CHAR
_ASK = 0xFF  # PF_DEVICE_ASK in probes/device.bpf.c
FORGET_AFTER_NS = 10_000_000_000
SWEEP_MOST = 4096
PEERS_AT_ONCE = 1024  # each second: a full map is through in half a minute
# Offset in struct bpf_prog_info, since 5.12: 9ed9e9ba2337
# ("bpf: Count the number of times recursion was prevented")
_RECURSION_MISSES = 208

_REASONS = tuple(reason.name.lower() for reason in Loss if reason is not Loss.REASONS)
_LOST = PackedStruct("<16Q")


class Losses(Struct, frozen=True):
    """Counts since the generation was made. `by_sandbox`: id → reason → events."""

    total: dict[str, int]
    by_sandbox: dict[int, dict[str, int]]


class Tables:
    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._maps = generation.maps
        self._swept: dict[str, bytes] = {}  # by map: the key after which the next sweep goes on

    # Configuration.

    def write_classes(self, classes: Iterable[tuple[int, KernelClassEntry]]) -> None:
        for index, entry in classes:
            libbpf.update(self._maps["classes"], pack("<I", index), entry.pack())

    def class_names(self) -> dict[str, int]:
        """The numbers that classes have: of an earlier run too, and of classes that are no more."""
        found = {}
        for index in range(CLASSES):
            value = libbpf.lookup(self._maps["classes"], pack("<I", index), SIZES["pf_class"])
            if value and (name := KernelClassEntry.unpack(value).name.rstrip(b"\0")):
                found[name.decode("ascii", "replace")] = index
        return found

    def write_devices(self, table: Sequence[tuple[int, int, int | None, int]]) -> None:
        """(kind, major, minor or None for all, device class) each; what is no longer in it is removed."""
        wanted = {
            DeviceKey(kind, major, ANY_MINOR if minor is None else minor).pack(): pack("<I", device)
            for kind, major, minor, device in table
        }
        descriptor = self._maps["device_classes"]
        for key, value in wanted.items():
            if libbpf.lookup(descriptor, key, 4) != value:
                libbpf.update(descriptor, key, value)
        for key in libbpf.keys(descriptor, SIZES["pf_device_key"], 4096):
            if key not in wanted:
                libbpf.delete(descriptor, key)
        self._write_chars(table)

    def _write_chars(self, table: Sequence[tuple[int, int, int | None, int]]) -> None:
        descriptor = self._maps["char_classes"]
        for index, device in enumerate(char_classes(table)):
            key, value = pack("<I", index), bytes((device,))
            if libbpf.lookup(descriptor, key, 1) != value:
                libbpf.update(descriptor, key, value)

    def write_steps(self, plan: Plan) -> None:
        for index, place in enumerate(plan.places):
            libbpf.update(self._maps["steps"], pack("<I", index), place.pack())

    def write_watch(self, found: Found, *, whole: bool) -> None:
        """With `whole`, what is not in `found` is no longer watched."""
        descriptor = self._maps["watch"]
        wanted = {pack("<Q", cgroup_id): pack_watch(steps) for cgroup_id, steps in found.watch}
        for key, value in wanted.items():
            libbpf.update(descriptor, key, value)
        if whole:
            for key in libbpf.keys(descriptor, 8, 1 << 20):
                if key not in wanted:
                    libbpf.delete(descriptor, key)

    # Where sandboxes may go, and what they may speak.

    def write_egress(self, entries: Mapping[bytes, bytes]) -> None:
        """The whole trie. What is new comes before what is old goes: what stays allowed is so all the time. And what
        stays denied is: the longest prefix that is there meanwhile is the old list's or the new one's, or one of the
        new one's whose ports are among those of its longest."""
        self._write_whole("egress", SIZES["pf_egress_key"], entries, EGRESS_ENTRIES)

    def add_executables(self, entries: Mapping[bytes, bytes]) -> None:
        """Into the trie: struct pf_executable_key to PF_LISTED and PF_SHELL. What is not in it is allowed: so what is
        old stays until every sandbox has its class."""
        for key, value in entries.items():
            libbpf.update(self._maps["executables"], key, value)

    def keep_executables(self, entries: Mapping[bytes, bytes]) -> None:
        """These alone."""
        self._keep("executables", SIZES["pf_executable_key"], entries, EXECUTABLES)

    def deny_image(self, class_id: int, device: int, inode: int, changed: int) -> None:
        """A file that was hashed and is denied: its next exec is killed before it begins."""
        libbpf.update(self._maps["images"], ImageKey(class_id, device, inode).pack(), Image(changed).pack())

    def allow_image(self, class_id: int, device: int, inode: int) -> None:
        libbpf.delete(self._maps["images"], ImageKey(class_id, device, inode).pack())

    def write_grants(self, entries: Mapping[bytes, bytes]) -> None:
        """All single devices: struct pf_grant_key to anything."""
        self._write_whole("device_grants", SIZES["pf_grant_key"], entries, DEVICE_GRANTS)

    def _write_whole(self, name: str, key_size: int, entries: Mapping[bytes, bytes], most: int) -> None:
        for key, value in entries.items():
            libbpf.update(self._maps[name], key, value)
        self._keep(name, key_size, entries, most)

    def _keep(self, name: str, key_size: int, entries: Mapping[bytes, bytes], most: int) -> None:
        descriptor = self._maps[name]
        for key in libbpf.keys(descriptor, key_size, most):
            if key not in entries:
                libbpf.delete(descriptor, key)

    def write_name(self, key: bytes, value: bytes | None) -> None:
        """An address that a resolver gave for an allowed name; without a value it goes."""
        if value is None:
            libbpf.delete(self._maps["egress_names"], key)
        else:
            libbpf.update(self._maps["egress_names"], key, value)

    def write_automaton(self, rows: Sequence[bytes]) -> None:
        for index, row in enumerate(rows):
            libbpf.update(self._maps["automaton"], pack("<I", index), row)

    def write_calls(self, numbers: Iterable[int]) -> None:
        """System calls that are told of where they begin. The others' entries are written too: what was wanted before
        is not any more."""
        wanted = set(numbers)
        for number in range(CALLS):
            libbpf.update(self._maps["wanted_calls"], pack("<I", number), pack("<B", number in wanted))

    # Flows.

    def flow(self, slot: int) -> FlowState | None:
        value = libbpf.lookup(self._maps["flows"], pack("<I", slot), SIZES["pf_flow_state"])
        return FlowState.unpack(value) if value else None

    def check_flow(self, slot: int, cookie: int) -> None:
        """Have the kernel tell a flow that lives, or end one that went quiet."""
        self._run("on_flow_check", pack("<QQ", slot, cookie) + bytes(80))

    # Sandboxes and processes that were there before.

    def add_sandbox(self, sandbox_id: int, class_id: int, *, change: bool = True) -> bool:
        """New, or of another class since a reload; unless `change`, one that is known keeps its own. False: the map is
        full."""
        key = pack("<Q", sandbox_id)
        known = libbpf.lookup(self._maps["sandboxes"], key, SIZES["pf_sandbox"])
        if known is None:
            try:
                entry = Sandbox(id=sandbox_id, class_id=class_id)
                libbpf.update(self._maps["sandboxes"], key, entry.pack(), libbpf.NOEXIST)
            except RefusedError:
                return libbpf.lookup(self._maps["sandboxes"], key, SIZES["pf_sandbox"]) is not None
            return True
        if change and Sandbox.unpack(known).class_id != class_id:
            self._set_class(key, class_id)
            self._set_class_of_processes(sandbox_id, class_id)
        return True

    def _set_class_of_processes(self, sandbox_id: int, class_id: int) -> None:
        """A repeated device open reads the class there. One that is forked meanwhile has the new one."""
        for tgid, process in self.processes(1 << 20):
            if process.sandbox_id == sandbox_id and process.class_id != class_id:
                fields = {name: getattr(process, name) for name in process.__struct_fields__} | {"class_id": class_id}
                libbpf.update(self._maps["processes"], pack("<I", tgid), Process(**fields).pack())

    def _set_class(self, key: bytes, class_id: int) -> None:
        """The probes count in the entry meanwhile: what they added between the look and the write is lost."""
        known = libbpf.lookup(self._maps["sandboxes"], key, SIZES["pf_sandbox"])
        if known is not None:
            entry = Sandbox.unpack(known)
            fields = {name: getattr(entry, name) for name in entry.__struct_fields__} | {"class_id": class_id}
            libbpf.update(self._maps["sandboxes"], key, Sandbox(**fields).pack())

    def add_process(self, tgid: int, start_ns: int, sandbox_id: int, exec_id: int, user_ns: int) -> None:
        """One that was in its sandbox before the probes; one they know already is left as it is."""
        class_id = self._class_of(sandbox_id)
        entry = Process(sandbox_id, exec_id, start_ns, family=exec_id, class_id=class_id, user_ns=user_ns)
        try:
            libbpf.update(self._maps["processes"], pack("<I", tgid), entry.pack(), libbpf.NOEXIST)
        except RefusedError:
            return
        self._count_process(sandbox_id)

    def _class_of(self, sandbox_id: int) -> int:
        known = libbpf.lookup(self._maps["sandboxes"], pack("<Q", sandbox_id), SIZES["pf_sandbox"])
        return Sandbox.unpack(known).class_id if known else 0

    def _count_process(self, sandbox_id: int) -> None:
        key = pack("<Q", sandbox_id)
        known = libbpf.lookup(self._maps["sandboxes"], key, SIZES["pf_sandbox"])
        if known is not None:
            entry = Sandbox.unpack(known)
            fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
            fields["processes"] += 1
            libbpf.update(self._maps["sandboxes"], key, Sandbox(**fields).pack())

    def drop_process(self, tgid: int) -> None:
        libbpf.delete(self._maps["processes"], pack("<I", tgid))

    def processes(self, most: int) -> list[tuple[int, Process]]:
        found = []
        for key in libbpf.keys(self._maps["processes"], 4, most):
            value = libbpf.lookup(self._maps["processes"], key, SIZES["pf_process"])
            if value is not None:
                found.append((unpack("<I", key)[0], Process.unpack(value)))
        return found

    def sandboxes(self, most: int) -> list[Sandbox]:
        found = []
        for key in libbpf.keys(self._maps["sandboxes"], 8, most):
            value = libbpf.lookup(self._maps["sandboxes"], key, SIZES["pf_sandbox"])
            if value is not None:
                found.append(Sandbox.unpack(value))
        return found

    def drop_ended(self, most: int) -> None:
        """Entries whose last process is gone, but whose exit was not counted."""
        for entry in self.sandboxes(most):
            if entry.ended and entry.processes in (0, 2**64 - 1):
                self._keep_losses(entry)
                libbpf.delete(self._maps["sandboxes"], pack("<Q", entry.id))

    def _keep_losses(self, entry: Sandbox) -> None:
        for index, count in enumerate(_LOST.unpack(entry.lost)):
            if count:
                key = pack("<I", index)
                before = libbpf.lookup(self._maps["lost"], key, 8)
                libbpf.update(self._maps["lost"], key, pack("<Q", count + unpack("<Q", before or bytes(8))[0]))

    # What was not sent.

    def losses(self, most: int) -> Losses:
        total = dict.fromkeys(_REASONS, 0)
        by_sandbox: dict[int, dict[str, int]] = {}
        for index, reason in enumerate(_REASONS):
            value = libbpf.lookup(self._maps["lost"], pack("<I", index), 8)
            total[reason] += unpack("<Q", value)[0] if value else 0
        for entry in self.sandboxes(most):
            counts = dict(zip(_REASONS, _LOST.unpack(entry.lost), strict=False))
            if any(counts.values()):
                by_sandbox[entry.id] = {reason: count for reason, count in counts.items() if count}
        return Losses(total, by_sandbox)

    def recursion_misses(self) -> int:
        """Runs that the kernel skipped, since the same program was running on the same CPU already."""
        total = 0
        for program in self.generation.programs.values():
            told = libbpf.info(program)
            if len(told) >= _RECURSION_MISSES + 8:
                total += int.from_bytes(told[_RECURSION_MISSES : _RECURSION_MISSES + 8], sys.byteorder)
        return total

    # Repeats that went quiet.

    def sweep_repeats(self, now_ns: int, flush_ns: int) -> int:
        """Have the kernel send the counts that no further attempt would; returns how many keys were looked at."""
        keys = self._next_keys("repeats", SIZES["pf_repeat_key"])
        for key in keys:
            quiet, forget = self._quiet("repeats", key, now_ns, flush_ns)
            if quiet or forget:
                self._run("on_flush", key + pack("<Q", forget))
        self._go_on_after("repeats", keys)
        return len(keys) + self._sweep_unix(now_ns, flush_ns)

    def sweep_peers(self, now_ns: int, window_ns: int) -> None:
        """Have the kernel tell flows that it only counted, once their window is over and no more have come."""
        keys = libbpf.keys(self._maps["peers"], SIZES["pf_peer_key"], PEERS_AT_ONCE, self._swept.get("peers"))
        for key in keys:
            value = libbpf.lookup(self._maps["peers"], key, SIZES["pf_peer"])
            if value is not None and (peer := Peer.unpack(value)).untold and now_ns - peer.window_ns > window_ns:
                self._run("on_flush_peer", key + bytes(96 - len(key)))
        # An LRU map may drop any key: the next sweep then begins anew, which costs no more than a turn.
        self._swept.pop("peers", None)
        if len(keys) == PEERS_AT_ONCE:
            self._swept["peers"] = keys[-1]

    def _sweep_unix(self, now_ns: int, flush_ns: int) -> int:
        if "on_flush_unix" not in self.generation.programs:
            return 0
        keys = self._next_keys("unix_repeats", SIZES["pf_unix_key"])
        for key in keys:
            quiet, forget = self._quiet("unix_repeats", key, now_ns, flush_ns)
            if quiet or forget:
                known = UnixKey.unpack(key)
                request = FlushRequest(
                    exec_id=known.exec_id,
                    tgid=known.tgid,
                    verdict=known.verdict,
                    length=known.length,
                    target=known.target,
                    forget=forget,
                )
                libbpf.update(self._maps["flush_request"], bytes(4), request.pack())
                self._run("on_flush_unix", bytes(96))
        self._go_on_after("unix_repeats", keys)
        return len(keys)

    def _next_keys(self, name: str, size: int) -> list[bytes]:
        """Some at a time, and each in its turn: who keeps many alive must not keep the others' from being sent."""
        return libbpf.keys(self._maps[name], size, SWEEP_MOST, self._swept.get(name))

    def _go_on_after(self, name: str, keys: list[bytes]) -> None:
        """After a key that is there still: one that was forgotten would lead back to the first."""
        self._swept.pop(name, None)
        if len(keys) == SWEEP_MOST:
            for key in reversed(keys):
                if libbpf.lookup(self._maps[name], key, SIZES["pf_repeat"]) is not None:
                    self._swept[name] = key
                    return

    def _run(self, name: str, arguments: bytes) -> None:
        """A program that is attached nowhere. Switched off for a test as those that are attached."""
        if name != os.environ.get(OFF_VARIABLE):
            libbpf.run_raw_tracepoint(self.generation.programs[name], arguments)

    def _quiet(self, name: str, key: bytes, now_ns: int, flush_ns: int) -> tuple[bool, bool]:
        value = libbpf.lookup(self._maps[name], key, SIZES["pf_repeat"])
        if value is None:
            return False, False
        repeat = Repeat.unpack(value)
        last = max(repeat.last_ns, repeat.sent_ns)
        return bool(repeat.count) and now_ns - last > flush_ns, now_ns - last > FORGET_AFTER_NS


def char_classes(table: Sequence[tuple[int, int, int | None, int]]) -> list[int]:
    """Device class by index, as probes/device.bpf.c reckons it: a minor of a low major, or a whole major."""
    classes = [int(Device.OTHER)] * CHAR_CLASSES
    chars = [(major, minor, device) for kind, major, minor, device in table if kind == _CHAR and major < CHAR_MAJORS]
    for major, minor, device in sorted(chars, key=lambda entry: entry[1] is not None):
        if minor is None:
            classes[LOW_MAJORS * LOW_MINORS + major] = device
            if major < LOW_MAJORS:
                classes[major * LOW_MINORS : (major + 1) * LOW_MINORS] = [device] * LOW_MINORS
        elif major < LOW_MAJORS and minor < LOW_MINORS:
            classes[major * LOW_MINORS + minor] = device
        else:
            classes[LOW_MAJORS * LOW_MINORS + major] = _ASK
    return classes
