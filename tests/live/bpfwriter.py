"""A producer for a real ring: BPF programs of a dozen instructions, made by hand and run by the test.

Instructions: Documentation/bpf/standardization/instruction-set.rst; helpers: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
from struct import pack

from sensor.bpf import libbpf, maps
from sensor.bpf.libbpf import MapType, ProgType
from sensor.bpf.ring import Ring

RESERVE, SUBMIT, DISCARD, QUERY = 131, 132, 133, 134
CONSUMER, PRODUCER = 2, 3  # BPF_RB_CONS_POS, BPF_RB_PROD_POS
_NO_WAKEUP = 1


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return pack("<BBhi", code, source << 4 | to, offset, number)


def _call(helper: int) -> bytes:
    return _instruction(0x85, number=helper)


def _set(register: int, number: int) -> bytes:
    return _instruction(0xB7, register, number=number)


def _copy(to: int, source: int) -> bytes:
    return _instruction(0xBF, to, source)


def _map(register: int, descriptor: int) -> bytes:
    return _instruction(0x18, register, 1, number=descriptor) + _instruction(0)


def _load(text: bytes) -> int:
    return libbpf._check(
        libbpf._lib.bpf_prog_load(
            int(ProgType.RAW_TRACEPOINT), b"pinfold_test", b"GPL", text, ctypes.c_size_t(len(text) // 8), None
        ),
        "loading a test program",
    )


class KernelRing:
    """A ring of the kernel's and programs that fill it; `ring` is the reader under test."""

    def __init__(self, size: int) -> None:
        descriptor = maps.create("test_ring", maps.Map(MapType.RINGBUF, 0, 0, size))
        self.ring = Ring(descriptor, size)
        self._programs: dict[tuple[int, int, int], int] = {}

    def write(self, value: int, size: int = 8, *, end: int = SUBMIT, query: int = -1) -> bool:
        """A record of `size` bytes (8 at least) that begins with `value`, or with what the kernel answers
        to bpf_ringbuf_query; submitted or discarded. False: there was no room."""
        before = self.ring.produced
        key = (size, end, query)
        if key not in self._programs:
            self._programs[key] = _load(self._text(size, end, query))
        libbpf.run_raw_tracepoint(self._programs[key], pack("<Q", value))
        return self.ring.produced != before

    def _text(self, size: int, end: int, query: int) -> bytes:
        ring = self.ring.descriptor
        value = _instruction(0x79, 6, 1)  # r6 = the first argument
        if query >= 0:
            value = _map(1, ring) + _set(2, query) + _call(QUERY) + _copy(6, 0)
        reserve = _map(1, ring) + _set(2, size) + _set(3, 0) + _call(RESERVE)
        finish = _instruction(0x7B, 0, 6) + _copy(1, 0) + _set(2, _NO_WAKEUP) + _call(end)
        leave = _set(0, 0) + _instruction(0x95)
        return value + reserve + _instruction(0x15, 0, offset=len(finish) // 8) + finish + leave

    def fill(self, size: int = 8) -> int:
        """Until there is no room; how many records that took."""
        count = 0
        while self.write(count, size):
            count += 1
        return count

    def read(self, most: int = 1 << 20) -> tuple[list[bytes], int]:
        """What is there, and the position behind it."""
        found, following = [], 0
        for _, following, at, length in self.ring.pending(most):  # noqa: B007 - the last one is used
            found.append(bytes(self.ring.data[at : at + length]))
        return found, following or self.ring.consumed

    def close(self) -> None:
        for program in self._programs.values():
            os.close(program)
        self.ring.close()
