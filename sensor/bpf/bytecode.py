"""Compiled programs, kept for the next cold start: what clang made, with places for what differs from start to start.

Two things do: the descriptors of the maps, and the number of the generation. Both stand in wide loads (BPF_LD_IMM64,
two instructions with half of the constant each; include/uapi/linux/bpf.h), the descriptors in those that say so by
their source register.
"""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from sensor import private
from sensor.errors import LoadError

log = logging.getLogger(__name__)

MOST_FILES = 8  # of one kernel and version each, and of one size of maps
_FILE = "probes-{}.cache"
_MOST_BYTES = 16 << 20
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1
_WIDE = struct.Struct("=BBhi")  # struct bpf_insn: code, registers (the source's above), offset, immediate


class Place(Struct, frozen=True):
    """`at`: byte offset of a wide load. `name`: of the map; "": the generation's number."""

    at: int
    name: str


class Program(Struct, frozen=True):
    """`instructions` as they were loaded once; `places` are written anew."""

    name: str
    instructions: bytes
    places: tuple[Place, ...]


def program(name: str, instructions: bytes, descriptors: Mapping[str, int], generation: int) -> Program:
    """:raises LoadError: it names a map that is none of these, or nothing that a program is made of"""
    names = {descriptor: each for each, descriptor in descriptors.items()}
    places = []
    at = 0
    while at < len(instructions):
        code, registers, _, low = _WIDE.unpack_from(instructions, at)
        if code != _LD_IMM64:
            at += 8
            continue
        (*_, high) = _WIDE.unpack_from(instructions, at + 8)
        if registers >> 4 == _PSEUDO_MAP_FD:
            if low not in names:
                raise LoadError(f"{name} names a map that nobody made: descriptor {low}")
            places.append(Place(at, names[low]))
        elif registers >> 4 == 0 and (low & 0xFFFFFFFF | (high & 0xFFFFFFFF) << 32) == generation:
            places.append(Place(at, ""))
        at += 16
    return Program(name, instructions, tuple(places))


def instructions(kept: Program, descriptors: Mapping[str, int], generation: int) -> bytes:
    """What the compiler would have made for these."""
    code = bytearray(kept.instructions)
    for place in kept.places:
        value = descriptors[place.name] if place.name else generation
        struct.pack_into("=I", code, place.at + 4, value & 0xFFFFFFFF)
        struct.pack_into("=I", code, place.at + 12, value >> 32)
    return bytes(code)


def read(folder: str, abi: str) -> tuple[Program, ...]:
    """Those that were kept for this kernel, these probes, these sizes; none where they were not, or are not to be
    trusted."""
    path = Path(folder) / _FILE.format(abi)
    try:
        payload = private.read(path, _key(abi), _MOST_BYTES)
        return msgspec.msgpack.decode(payload, type=tuple[Program, ...]) if payload is not None else ()
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("ignoring %s: %s", path, error)
        return ()


def write(folder: str, abi: str, programs: tuple[Program, ...]) -> None:
    path = Path(folder) / _FILE.format(abi)
    try:
        private.write(path, _key(abi), msgspec.msgpack.encode(programs))
        others = sorted(path.parent.glob(_FILE.format("*")), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for old in others[MOST_FILES:]:
            old.unlink(missing_ok=True)
    except OSError as error:  # the next cold start compiles again, nothing else is lost
        log.warning("cannot keep the compiled probes in %s: %s", path, error.strerror)


def _key(abi: str) -> bytes:
    return f"{abi} {sys.byteorder}".encode()
