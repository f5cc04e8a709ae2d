"""The consumer's side of a BPF ring buffer, mapped from its pin.

Layout: Documentation/bpf/ringbuf.rst. A page with the consumer's position, a page with the producer's,
then the data, mapped twice in a row, so that a record that wraps around is one piece.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterator
from struct import Struct

from sensor.errors import HostError

PAGE = mmap.PAGESIZE
_BUSY = 1 << 31
_DISCARDED = 1 << 30
_LENGTH = _DISCARDED - 1
_HEADER = Struct("<I")


class Ring:
    """`data` holds records at the offsets that `pending` gives, until `advance` frees them."""

    def __init__(self, descriptor: int, size: int) -> None:
        if platform.machine() != "x86_64":
            # Elsewhere the loads of length and data may be reordered, and Python has no barrier.
            raise HostError("reading the ring without libbpf's barriers is sound on x86-64 only")
        self.descriptor = descriptor
        self.size = size
        self._mask = size - 1
        self._consumer = mmap.mmap(descriptor, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._position = ctypes.c_uint64.from_buffer(self._consumer)
        self._producer = mmap.mmap(descriptor, PAGE, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE)
        self._end = memoryview(self._producer)[:8].cast("Q")
        self.data = mmap.mmap(descriptor, 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=2 * PAGE)

    @property
    def consumed(self) -> int:
        return self._position.value

    @property
    def produced(self) -> int:
        return self._end[0]

    @property
    def used(self) -> int:
        return max(0, self._end[0] - self._position.value)

    def pending(self, most: int) -> Iterator[tuple[int, int, int, int]]:
        """(position, next position, offset in `data`, length) of at most `most` records, oldest first.

        Stops at a record that its probe is still writing. Discarded ones are passed over; those before the first are
        freed at once, since a ring that holds nothing else would stay full for good."""
        data, mask, unpack = self.data, self._mask, _HEADER.unpack_from
        position, end = self._position.value, self._end[0]
        nothing = True
        while position < end and most:
            offset = position & mask
            (length,) = unpack(data, offset)
            if length > _LENGTH:  # with a flag
                if length & _BUSY:
                    return
                position += ((length & _LENGTH) + 15) & ~7
                if nothing:
                    self.advance(position)
                continue
            nothing = False
            following = position + ((length + 15) & ~7)
            yield position, following, offset + 8, length
            most -= 1
            position = following

    def advance(self, position: int) -> None:
        """One aligned store: struct.pack_into clears the bytes first, and the kernel would see zero."""
        self._position.value = position

    def close(self) -> None:
        del self._position
        self._end.release()
        for area in (self._consumer, self._producer, self.data):
            area.close()
        os.close(self.descriptor)
