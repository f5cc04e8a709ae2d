"""A ring in a memfd, laid out as the kernel's: the test is the producer, and may stop in the middle."""

from __future__ import annotations

import mmap
import os

from sensor.bpf.ring import PAGE, Ring

BUSY, DISCARDED = 1 << 31, 1 << 30


class FakeRing:
    """`write` adds a record, its header's flags as given, and returns its position."""

    def __init__(self, size: int = PAGE) -> None:
        self.size = size
        descriptor = os.memfd_create("ring")
        os.ftruncate(descriptor, 2 * PAGE + 2 * size)
        self._memory = mmap.mmap(descriptor, 0)
        self.produced = 0
        self.ring = Ring(descriptor, size)

    def _put(self, position: int, data: bytes) -> None:
        """At both of the places where the kernel maps the same page."""
        for number, byte in enumerate(data):
            offset = (position + number) % self.size
            self._memory[2 * PAGE + offset] = byte
            self._memory[2 * PAGE + self.size + offset] = byte

    def write(self, data: bytes, flags: int = 0, *, publish: bool = True) -> int:
        position = self.produced
        self._put(position, (len(data) | flags).to_bytes(4, "little") + b"\xaa" * 4 + data)
        self.produced += (len(data) + 15) & ~7
        if publish:
            self.publish()
        return position

    def mark(self, position: int, length: int, flags: int = 0) -> None:
        self._put(position, (length | flags).to_bytes(4, "little"))

    def publish(self) -> None:
        self._memory[PAGE : PAGE + 8] = self.produced.to_bytes(8, "little")

    def start_at(self, position: int) -> None:
        """As if so many bytes had gone through already."""
        self.produced = position
        self.publish()
        self.ring.advance(position)

    @property
    def consumer(self) -> int:
        """As the kernel reads it."""
        return int.from_bytes(self._memory[:8], "little")

    def read(self, most: int = 1000) -> list[bytes]:
        return [bytes(self.ring.data[at : at + length]) for _, _, at, length in self.ring.pending(most)]

    def close(self) -> None:
        self.ring.close()
        self._memory.close()
