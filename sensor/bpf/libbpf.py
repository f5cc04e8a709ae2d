"""libbpf by ctypes: the bpf(2) calls on descriptors and pins. Needs no LLVM and 1 MB.

Every function raises RefusedError with the operation and the errno's text; `-errno` returns of
libbpf 1.x are used where they come, since errno itself may be stale.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence
from ctypes.util import find_library
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from sensor.errors import HostError, RefusedError

F_NO_PREALLOC = 1
F_CLONE = 1 << 9  # of per-socket storage: an accepted socket gets a copy of its listener's
ANY, NOEXIST = 0, 1
LINK_RAW_TRACEPOINT, LINK_CGROUP = 1, 3  # enum bpf_link_type


class MapType(IntEnum):
    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    LRU_HASH = 9
    LPM_TRIE = 11
    SK_STORAGE = 24
    RINGBUF = 27


LSM_MAC = 27  # BPFLSM_MAC


class ProgType(IntEnum):
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    SOCK_OPS = 13
    CGROUP_DEVICE = 15
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18
    LSM = 29


class AttachType(IntEnum):
    INET_INGRESS = 0
    INET_EGRESS = 1
    INET_SOCK_CREATE = 2
    SOCK_OPS = 3
    DEVICE = 6
    INET4_CONNECT = 10
    INET6_CONNECT = 11
    INET4_POST_BIND = 12
    INET6_POST_BIND = 13
    UDP4_SENDMSG = 14
    UDP6_SENDMSG = 15
    UNIX_CONNECT = 49


class _MapOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    ]


class _TestRunOptions(ctypes.Structure):
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts"""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    ]


def _load() -> ctypes.CDLL:
    for name in ("libbpf.so.1", find_library("bpf")):
        if name:
            try:
                return ctypes.CDLL(name, use_errno=True)
            except OSError:
                continue
    raise HostError("libbpf.so.1 is missing: apt-get install libbpf1")


_lib = _load()
_lib.bpf_map_create.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_void_p,
]
_lib.bpf_obj_get.argtypes = [ctypes.c_char_p]
_lib.bpf_obj_pin.argtypes = [ctypes.c_int, ctypes.c_char_p]
_lib.bpf_map_update_elem.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64]
_lib.bpf_map_lookup_elem.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p]
_lib.bpf_map_delete_elem.argtypes = [ctypes.c_int, ctypes.c_char_p]
_lib.bpf_map_lookup_batch.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 6]
_lib.bpf_map_get_next_key.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p]
_lib.bpf_link_create.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
_lib.bpf_raw_tracepoint_open.argtypes = [ctypes.c_char_p, ctypes.c_int]
_lib.bpf_prog_test_run_opts.argtypes = [ctypes.c_int, ctypes.c_void_p]
_lib.bpf_obj_get_info_by_fd.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_lib.libbpf_probe_bpf_prog_type.argtypes = [ctypes.c_int, ctypes.c_void_p]
_lib.libbpf_probe_bpf_map_type.argtypes = [ctypes.c_int, ctypes.c_void_p]


def _check(result: int, what: str) -> int:
    if result >= 0:
        return result
    code = -result if result < -1 else ctypes.get_errno()
    raise RefusedError(f"{what}: {os.strerror(code)}") from OSError(code, os.strerror(code))


def map_create(kind: MapType, name: str, sizes: tuple[int, int], entries: int, flags: int = 0) -> int:
    """A descriptor. `sizes`: of key and value, in bytes."""
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags)
    types = -1
    if kind is MapType.SK_STORAGE:
        types = _load_types(sizes[1])
        options.btf_fd, options.btf_key_type_id, options.btf_value_type_id = types, _INT, _ARRAY
    text = name[:15].encode()  # BPF_OBJ_NAME_LEN is 16
    try:
        made = _lib.bpf_map_create(kind, text, *sizes, entries, ctypes.byref(options))
    finally:
        if types >= 0:
            os.close(types)
    return _check(made, f"creating the map {name}")


_INT, _BYTE, _ARRAY = 1, 2, 3


def _load_types(size: int) -> int:
    """BTF that says: the key is an int of 32 bits, the value an array of `size` bytes. The kernel makes no map of
    per-socket storage without it (bpf_local_storage_map_check_btf)."""
    integer = struct.pack("<IIII", 1, 1 << 24, 4, 32)
    byte = struct.pack("<IIII", 5, 1 << 24, 1, 8)
    array = struct.pack("<IIIIII", 0, 3 << 24, 0, _BYTE, _INT, size)
    types, names = integer + byte + array, b"\0u32\0u8\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    blob = header + types + names
    return _check(_lib.bpf_btf_load(blob, ctypes.c_size_t(len(blob)), None), "describing the types of a map")


def pin(descriptor: int, path: Path) -> None:
    _check(_lib.bpf_obj_pin(descriptor, bytes(path)), f"pinning {path}")


def get(path: Path) -> int:
    return _check(_lib.bpf_obj_get(bytes(path)), f"opening the pin {path}")


class Contents(dict[bytes, bytes]):
    """What was written into a map that is followed. `revision` changes with each write."""

    revision = 0


_followed: dict[int, Contents] = {}


def follow(descriptor: int) -> Contents:
    """From now on, what `update` and `delete` of this process do to the map by this descriptor."""
    return _followed.setdefault(descriptor, Contents())


def follow_no_more(descriptor: int) -> None:
    _followed.pop(descriptor, None)


def update(descriptor: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    _check(_lib.bpf_map_update_elem(descriptor, key, value, flags), "writing a map")
    if descriptor in _followed:
        contents = _followed[descriptor]
        contents[key] = value
        contents.revision += 1


def lookup(descriptor: int, key: bytes, size: int) -> bytes | None:
    buffer = ctypes.create_string_buffer(size)
    if _lib.bpf_map_lookup_elem(descriptor, key, buffer) < 0:
        return None
    return buffer.raw


def delete(descriptor: int, key: bytes) -> bool:
    deleted = bool(_lib.bpf_map_delete_elem(descriptor, key) >= 0)
    if descriptor in _followed:
        contents = _followed[descriptor]
        contents.pop(key, None)
        contents.revision += 1
    return deleted


def lookup_array(descriptor: int, value: int, entries: int, first: int = 0) -> bytes:
    """`entries` values of an array, one behind the other, by one system call (BPF_MAP_LOOKUP_BATCH, 5.6)."""
    keys, values = ctypes.create_string_buffer(4 * entries), ctypes.create_string_buffer(value * entries)
    count, after, before = ctypes.c_uint32(entries), ctypes.c_uint32(), ctypes.c_uint32(first - 1)
    start = ctypes.byref(before) if first else None
    result = _lib.bpf_map_lookup_batch(descriptor, start, ctypes.byref(after), keys, values, ctypes.byref(count), None)
    if count.value != entries:
        _check(result, "reading a map")
    return values.raw[: value * count.value]


def keys(descriptor: int, size: int, most: int, after: bytes | None = None) -> list[bytes]:
    """At most `most` keys, those behind `after`; from the first on where that is None or no key any more. A map
    that changes meanwhile may give one twice or not at all."""
    found: list[bytes] = []
    buffer = ctypes.create_string_buffer(size)
    previous = after
    while len(found) < most and _lib.bpf_map_get_next_key(descriptor, previous, buffer) >= 0:
        previous = buffer.raw
        found.append(previous)
    return found


def link_cgroup(program: int, cgroup: int, kind: AttachType) -> int:
    return _check(_lib.bpf_link_create(program, cgroup, kind, None), f"attaching {kind.name} to a cgroup")


def link_raw_tracepoint(program: int, name: str) -> int:
    return _check(_lib.bpf_raw_tracepoint_open(name.encode(), program), f"attaching to the tracepoint {name}")


def run_raw_tracepoint(program: int, arguments: bytes) -> None:
    """BPF_PROG_TEST_RUN of a raw tracepoint program; `arguments` are its u64s."""
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    options = _TestRunOptions(sz=ctypes.sizeof(_TestRunOptions))
    options.ctx_in = ctypes.addressof(buffer)  # cast() leaves a cycle behind, and they are seldom collected
    options.ctx_size_in = len(arguments)
    _check(_lib.bpf_prog_test_run_opts(program, ctypes.byref(options)), "running a program")


def info(descriptor: int, size: int = 256) -> bytes:
    """struct bpf_{prog,map,link}_info, as far as this kernel and `size` have it."""
    buffer = ctypes.create_string_buffer(size)
    length = ctypes.c_uint32(size)
    _check(_lib.bpf_obj_get_info_by_fd(descriptor, buffer, ctypes.byref(length)), "asking about a BPF object")
    return buffer.raw[: length.value]


class LinkInfo(NamedTuple):
    """struct bpf_link_info. `cgroup_id`: 0 of a tracepoint's, and of one that was detached."""

    kind: int
    id: int
    program_id: int
    cgroup_id: int
    attach: int


def link_info(descriptor: int) -> LinkInfo:
    told = info(descriptor).ljust(32, b"\0")
    kind, number, program = struct.unpack_from("=III", told)
    cgroup_id, attach = struct.unpack_from("=QI", told, 16) if kind == LINK_CGROUP else (0, 0)
    return LinkInfo(kind, number, program, cgroup_id, attach)


def object_id(descriptor: int) -> int:
    """Of a map, program or link: each has its id behind its type."""
    return int.from_bytes(info(descriptor)[4:8], sys.byteorder)


def map_shape(descriptor: int) -> tuple[int, int, int, int]:
    """Type, size of keys, size of values, entries at most."""
    told = info(descriptor)
    kind, _, key, value, entries = struct.unpack_from("=IIIII", told)
    return kind, key, value, entries


def map_value_size(descriptor: int) -> int:
    return int.from_bytes(info(descriptor)[12:16], sys.byteorder)


def map_entries(descriptor: int) -> int:
    """struct bpf_map_info: type, id, key_size, value_size, max_entries, …"""
    return int.from_bytes(info(descriptor)[16:20], sys.byteorder)


def hook_type(hook: str) -> int:
    """BTF id of what an LSM program for `hook` attaches to; below 0 where the kernel has none."""
    return int(_lib.libbpf_find_vmlinux_btf_id(hook.encode(), LSM_MAC))


def try_load(kind: int, instructions: Sequence[int], attach: int = 0, attach_to: int = 0) -> tuple[int, str]:
    """(1 if the kernel loads the program, 0 if not, below 0 where rights or memory say nothing; its log)."""
    program = (ctypes.c_uint64 * len(instructions))(*instructions)
    log = ctypes.create_string_buffer(16384)
    options = _LoadOptions(sz=ctypes.sizeof(_LoadOptions), attempts=1, expected_attach_type=attach)
    options.attach_btf_id = attach_to
    options.log_level, options.log_size, options.log_buf = 1, len(log), ctypes.addressof(log)
    count = ctypes.c_size_t(len(instructions))
    result = _lib.bpf_prog_load(kind, b"pinfold_probe", b"GPL", program, count, ctypes.byref(options))
    text = log.value.decode("ascii", "replace")
    if result >= 0:
        os.close(result)
        return 1, text
    code = -result if result < -1 else ctypes.get_errno()
    return (-code if code in (errno.EPERM, errno.ENOMEM, errno.EAGAIN) else 0), text


def load_program(kind: int, name: str, instructions: bytes, attach: int = 0) -> int:
    """A descriptor. Whole instructions, with descriptors of maps in them."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    options = _LoadOptions(sz=ctypes.sizeof(_LoadOptions), attempts=5, expected_attach_type=attach)
    count = ctypes.c_size_t(len(instructions) // 8)
    loaded = _lib.bpf_prog_load(kind, name[:15].encode(), b"GPL", code, count, ctypes.byref(options))
    return _check(loaded, f"loading the program {name}")


def probe_program(kind: int) -> int:
    """1 supported, 0 not, below 0 inconclusive; so for the next."""
    return int(_lib.libbpf_probe_bpf_prog_type(kind, None))


def probe_map(kind: int) -> int:
    return int(_lib.libbpf_probe_bpf_map_type(kind, None))
