"""What correlations hold, over a restart: a checkpoint, and a journal of what they were told since.

The journal is written before the log's lines of the same events, so that a start finds in it all that the log has; what
it has beyond the log's last event is told again by the ring, and left out here. Of windows that time closed the record
is written one flush later: until then the log's end says that they were told. Against crashes of the process, not of
the machine.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from sensor.respond.statefile import StateFile
from sensor.rules.correlation import snapshot
from sensor.rules.correlation.correlator import Correlator, Hit

CHECKPOINT, JOURNAL = "correlations.state", "correlations.journal"
MOST_BYTES = 64 * 1024 * 1024
FULL_JOURNAL = 2 * 1024 * 1024  # then a checkpoint is due, unless that would write more than the journal did
MOST_JOURNAL = 16 * 1024 * 1024
VERSION = 1
_BOOT = "/proc/sys/kernel/random/boot_id"
_LENGTH = struct.Struct("<I")
_MOST_RECORD = 64 * 1024


class Checkpoint(Struct, frozen=True, array_like=True):
    """`sequence` is that of the journal that goes on from here; `boot`: monotonic time is of one boot; `last`:
    generation and position of the last event that is in it."""

    version: int
    boot: str
    sequence: int
    newest_ns: int
    last: tuple[int, int]
    kept: tuple[snapshot.Kept, ...]


class Head(Struct, frozen=True, array_like=True, tag="head"):
    version: int
    boot: str
    sequence: int


class Told(Struct, frozen=True, array_like=True, tag="hit"):
    hit: Hit


class Ticked(Struct, frozen=True, array_like=True, tag="tick"):
    now_ns: int


Record = Head | Told | Ticked
_encoder = msgspec.msgpack.Encoder()
_records = msgspec.msgpack.Decoder(Record)


class Memory:
    """Of the folder paths.state. Errors are OSError; after one, what is on disk is taken away: it would be wrong."""

    def __init__(self, folder: str) -> None:
        self._checkpoint = StateFile(folder, CHECKPOINT, MOST_BYTES)
        self._path = os.path.join(folder, JOURNAL)
        self._boot = _boot_id()
        self._sequence = 0
        self._journal = -1
        self._size = 0
        self._full = FULL_JOURNAL
        self._now: list[bytes] = []
        self._later: list[bytes] = []
        self._unwritten = 0  # hits in _now
        self.last = (0, -1)  # the last event that was told

    def restore(self, correlator: Correlator, last_event: tuple[int, int] | None) -> bool:
        """Fills an empty correlator; whether there was anything to fill it with. `last_event`: of the log. Raises
        OSError, ValueError: the correlator is to be thrown away."""
        content = self._checkpoint.read()
        if content is None:
            return False
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != digest:
            raise ValueError("it is damaged")
        try:
            checkpoint = msgspec.msgpack.decode(payload, type=Checkpoint)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error
        self._sequence = checkpoint.sequence
        if checkpoint.version != VERSION or checkpoint.boot != self._boot:
            return False
        known = snapshot.restore(correlator, checkpoint.kept)
        correlator.newest_ns = checkpoint.newest_ns
        self.last = checkpoint.last
        self._replay(correlator, known, last_event)
        return True

    def _replay(self, correlator: Correlator, known: frozenset[str], last_event: tuple[int, int] | None) -> None:
        """What fires here was told when it happened."""
        for record in self._read():
            if isinstance(record, Ticked):
                correlator.tick(record.now_ns)
            elif isinstance(record, Told) and record.hit.correlation in known:
                item = record.hit.item
                event = (item.generation, item.position)
                if last_event is not None and event[0] == last_event[0] and event[1] > last_event[1]:
                    continue
                correlator.feed(record.hit, None)
                self._passed(record.hit)

    def _read(self) -> Iterator[Record]:
        """Up to what is torn; nothing where it belongs to another checkpoint."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with open(fd, "rb") as file:
            content = file.read(MOST_JOURNAL)
        at = 0
        while at + _LENGTH.size <= len(content):
            (length,) = _LENGTH.unpack_from(content, at)
            begin, at = at + _LENGTH.size, at + _LENGTH.size + length
            if length > _MOST_RECORD or at > len(content):
                return
            try:
                record = _records.decode(content[begin:at])
            except msgspec.MsgspecError:
                return
            if begin == _LENGTH.size and record != Head(VERSION, self._boot, self._sequence):
                return
            yield record

    def tell(self, hit: Hit) -> None:
        self._now.append(_encoder.encode(Told(hit)))
        self._unwritten += 1
        self._passed(hit)

    def _passed(self, hit: Hit) -> None:
        if hit.item.generation:  # what is in no ring is never told again
            self.last = (hit.item.generation, hit.item.position)

    def ticked(self, now_ns: int, fired: bool) -> None:
        """`fired`: something is to be told of it, and the log is flushed next."""
        (self._later if fired else self._now).append(_encoder.encode(Ticked(now_ns)))

    def flush(self) -> None:
        """Right before the log is. Raises OSError."""
        if self._now and self._journal >= 0:
            self._append(b"".join(_LENGTH.pack(len(each)) + each for each in self._now))
        self._now, self._later = self._later, []
        self._unwritten = 0

    @property
    def due(self) -> bool:
        """Whether a checkpoint is wanted."""
        return self._size > self._full or self._journal < 0

    @property
    def settled(self) -> bool:
        """Whether the log has all that a checkpoint would have: else it could not be taken back after a crash."""
        return not self._unwritten and not self._later

    def _append(self, content: bytes) -> None:
        if self._size + len(content) > MOST_JOURNAL:
            self.forget()
            return
        try:
            written = os.write(self._journal, content)
            if written < len(content):
                raise OSError(28, "no space for the whole record", self._path)
        except OSError:
            self.forget()
            raise
        self._size += written

    def checkpoint(self, correlator: Correlator) -> None:
        """All of it, and an empty journal. Raises OSError."""
        try:
            self._sequence += 1
            kept = Checkpoint(
                VERSION, self._boot, self._sequence, correlator.newest_ns, self.last, snapshot.take(correlator)
            )
            payload = _encoder.encode(kept)
            self._checkpoint.write(hashlib.sha256(payload).digest() + payload)
            self._full = max(FULL_JOURNAL, min(len(payload), MOST_JOURNAL // 2))
            self._close()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._journal = os.open(self._path, flags, 0o600)
            self._size = 0
            self._now.clear()
        except OSError:
            self.forget()
            raise
        head = _encoder.encode(Head(VERSION, self._boot, self._sequence))
        self._append(_LENGTH.pack(len(head)) + head)

    def forget(self) -> None:
        """Takes both files away; what the next start finds is nothing, and it says `partial`."""
        self._close()
        for path in (self._checkpoint.path, self._path):
            try:
                os.unlink(path)
            except OSError:
                continue

    def close(self, correlator: Correlator) -> None:
        """The log has all. Raises OSError."""
        self.checkpoint(correlator)
        self._close()

    def _close(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def _boot_id() -> str:
    try:
        with open(_BOOT, encoding="ascii") as file:
            return file.read(36)
    except OSError:
        return ""
