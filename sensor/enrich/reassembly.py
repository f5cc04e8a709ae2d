"""First bytes of one direction of a stream, put together from segments that come in any order, or twice."""

from __future__ import annotations

from msgspec import Struct

FIRST_BYTES = 4096  # PF_FIRST_BYTES_WIDE in probes/packet.bpf.c
NARROW = 1024  # PF_FIRST_BYTES: of what does not begin as TLS does
HANDSHAKE = 0x16
PIECES_MAX = 12  # that wait for one before them


class Beginning(Struct, gc=False):
    """`data` is contiguous from the first byte on; `later` waits for what comes before it."""

    data: bytes = b""
    later: tuple[tuple[int, bytes], ...] = ()

    def add(self, offset: int, piece: bytes) -> bool:
        """Whether `data` grew. What is there stays: a retransmit with other bytes changes nothing."""
        if offset > len(self.data):
            if offset < FIRST_BYTES and not any(offset == at and len(piece) <= len(other) for at, other in self.later):
                # The nearest, lest far ones crowd out what shows the protocol.
                self.later = tuple(sorted((*self.later, (offset, piece)))[:PIECES_MAX])
            return False
        before = len(self.data)
        self._append(offset, piece)
        while self._take_later():
            pass
        return len(self.data) > before

    @property
    def full(self) -> bool:
        """No more will come."""
        return len(self.data) >= (FIRST_BYTES if self.data[:1] == bytes((HANDSHAKE,)) else NARROW)

    def _append(self, offset: int, piece: bytes) -> None:
        fresh = piece[len(self.data) - offset :]
        if fresh:
            self.data = (self.data + fresh)[:FIRST_BYTES]

    def _take_later(self) -> bool:
        for index, (offset, piece) in enumerate(self.later):
            if offset <= len(self.data):
                self.later = self.later[:index] + self.later[index + 1 :]
                self._append(offset, piece)
                return True
        return False
