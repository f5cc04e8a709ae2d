"""Every map: its type, its sizes, and making one. The probes get them as PF_FD_<name>."""

from __future__ import annotations

import os

from msgspec import Struct

from sensor.bpf import libbpf
from sensor.bpf.libbpf import MapType
from sensor.bpf.state import SIZES
from sensor.events.layouts import Loss

EXEC_SCRATCH = 8 + SIZES["pf_executable_key"] + 184 + 8192  # struct pf_exec_scratch in probes/process.bpf.c
EXEC_SLOTS_PER_CPU = 4
STEPS = 512
# PF_DEVICE_… in probes/device.bpf.c
LOW_MAJORS, LOW_MINORS, CHAR_MAJORS = 16, 256, 512
CHAR_CLASSES = LOW_MAJORS * LOW_MINORS + CHAR_MAJORS
CLASSES = 64
STAMPS = 65536  # PF_STAMPS in probes/include/sockets.h
PEERS = 32768
FAMILIES = 16384  # program images that dialled, or on whose flow data came in after a pause
AUTOMATON_STATES = 192  # PF_AUTOMATON_STATES in probes/judge.bpf.c
EGRESS_ENTRIES = 65536
EGRESS_NAMES = 65536
EXECUTABLES = 16384
WANTED_PORTS = 16384
UNSENT = ("device_access", "network_connection")  # PF_UNSENT_… in probes/include/state.h
DEVICE_GRANTS = 4096
IMAGES = 1024
MOST_QUARANTINES = 65536
GUARDED = 16  # processes of the sensor itself
ACCESSES = 4096
OUTSIDERS = 256  # PF_OUTSIDERS in probes/calls.bpf.c
CALLS = 512  # PF_CALLS in probes/calls.bpf.c


class Sizes(Struct, frozen=True):
    """What an operator may set; part of the ABI, since a map cannot be resized."""

    ring_bytes: int
    sandboxes: int
    processes: int
    repeats: int
    watched: int
    flows: int = 65536  # a power of two


class Map(Struct, frozen=True):
    kind: MapType
    key: int
    value: int
    entries: int
    flags: int = 0


def definitions(sizes: Sizes) -> dict[str, Map]:
    cpus = os.cpu_count() or 1
    # A hash of many entries is filled as they come: made whole at load it would cost its full memory at once.
    late = libbpf.F_NO_PREALLOC
    slots = EXEC_SLOTS_PER_CPU * cpus
    return {
        "events": Map(MapType.RINGBUF, 0, 0, sizes.ring_bytes),
        "classes": Map(MapType.ARRAY, 4, SIZES["pf_class"], CLASSES),
        "sandboxes": Map(MapType.HASH, 8, SIZES["pf_sandbox"], sizes.sandboxes),
        "blank_sandbox": Map(MapType.ARRAY, 4, SIZES["pf_sandbox"], 1),
        "processes": Map(MapType.HASH, 4, SIZES["pf_process"], sizes.processes),
        "steps": Map(MapType.ARRAY, 4, SIZES["pf_step"], STEPS),
        "watch": Map(MapType.HASH, 8, SIZES["pf_watch"], sizes.watched, late),
        "device_classes": Map(MapType.HASH, SIZES["pf_device_key"], 4, 1024, late),
        "char_classes": Map(MapType.ARRAY, 4, 1, CHAR_CLASSES),
        "repeats": Map(MapType.HASH, SIZES["pf_repeat_key"], SIZES["pf_repeat"], sizes.repeats),
        "unix_repeats": Map(MapType.HASH, SIZES["pf_unix_key"], SIZES["pf_repeat"], sizes.repeats, late),
        "flush_request": Map(MapType.ARRAY, 4, SIZES["pf_flush_request"], 1),
        "woken": Map(MapType.ARRAY, 4, 8, 1),
        "lost": Map(MapType.ARRAY, 4, 8, Loss.REASONS),
        "exec_slots": Map(MapType.HASH, 4, 1, slots),
        "exec_scratch": Map(MapType.ARRAY, 4, EXEC_SCRATCH, slots),
        "stamps": Map(MapType.ARRAY, 4, SIZES["pf_stamp"], STAMPS),
        "listeners": Map(MapType.SK_STORAGE, 4, SIZES["pf_stamp"], 0, late | libbpf.F_CLONE),
        "packet_programs": Map(MapType.PROG_ARRAY, 4, 4, 5),
        "flows": Map(MapType.ARRAY, 4, SIZES["pf_flow_state"], sizes.flows),
        "peers": Map(MapType.LRU_HASH, SIZES["pf_peer_key"], SIZES["pf_peer"], PEERS),
        "families": Map(MapType.LRU_HASH, 8, SIZES["pf_family"], FAMILIES),
        "automaton": Map(MapType.ARRAY, 4, SIZES["pf_automaton"], AUTOMATON_STATES),
        "egress": Map(MapType.LPM_TRIE, SIZES["pf_egress_key"], SIZES["pf_egress"], EGRESS_ENTRIES, late),
        "executables": Map(MapType.LPM_TRIE, SIZES["pf_executable_key"], 4, EXECUTABLES, late),
        "images": Map(MapType.LRU_HASH, SIZES["pf_image_key"], SIZES["pf_image"], IMAGES),
        "device_grants": Map(MapType.HASH, SIZES["pf_grant_key"], 4, DEVICE_GRANTS, late),
        "wanted_ports": Map(MapType.HASH, 4, 1, WANTED_PORTS, late),
        "unwanted": Map(MapType.ARRAY, 4, SIZES["pf_unwanted"], 1),
        "unsent": Map(MapType.ARRAY, 4, 8, len(UNSENT)),
        "egress_names": Map(MapType.LRU_HASH, SIZES["pf_name_key"], SIZES["pf_name"], EGRESS_NAMES),
        "guarded": Map(MapType.HASH, 4, 4, GUARDED),
        "wanted_calls": Map(MapType.ARRAY, 4, 1, CALLS),
        "outsiders": Map(MapType.ARRAY, 4, 8, OUTSIDERS),
        "accesses": Map(MapType.LRU_HASH, SIZES["pf_access_key"], SIZES["pf_access_count"], ACCESSES),
    }


CONTROL = Map(MapType.ARRAY, 4, SIZES["pf_control"], 1)
QUARANTINES = Map(MapType.HASH, 8, SIZES["pf_quarantine"], MOST_QUARANTINES, libbpf.F_NO_PREALLOC)
# Those that all generations share, pinned beside their folders.
SHARED = {"control": CONTROL, "quarantines": QUARANTINES}


def create(name: str, definition: Map) -> int:
    """A descriptor of the new map. Raises RefusedError."""
    sizes = (definition.key, definition.value)
    return libbpf.map_create(definition.kind, name, sizes, definition.entries, definition.flags)
