"""The file: frames of entries, each compressed by itself, and an index at the end (README.md has the bytes).

It is a valid zstd file. Whatever is not compressed stands in skippable frames, which other tools pass over. A frame's
head says all that the index repeats, so a file without an end reads up to its last whole frame.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from struct import Struct as PackedStruct
from types import TracebackType
from typing import Any, BinaryIO

import msgspec
import zstandard
from msgspec import Struct

from sensor.errors import RecordingError
from sensor.recording.entries import PLACE, RECORD
from sensor.recording.older import Layout

VERSION = 1
FRAME_BYTES = 1024 * 1024
HEADER_MAX = 4 * 1024 * 1024
PLAIN_MAX = 16 * 1024 * 1024  # of one frame, unpacked
FRAMES_MAX = 1 << 20
LEVEL = 3  # 300 MB/s, and within a tenth of what higher levels make of it

_MAGIC = b"pinfold\0"
_END = b"pinfold."
_SKIPPABLE = PackedStruct("<II")
_HEADER, _HEAD, _INDEX = 0x184D2A50, 0x184D2A51, 0x184D2A52
_FRAME = PackedStruct("<IIIIQQI")  # compressed and plain bytes, records, entries, first and last time, CRC-32
_PLACED = PackedStruct("<Q")
_TRAILER = PackedStruct("<II8s")  # frames, CRC-32 of what is before, _END
ENTRY = PackedStruct("<BxxxI")  # kind, bytes that follow
_RECORD = PackedStruct("<BxxxIQQ")  # the same of a record, and its place


class Header(Struct, frozen=True):
    """`layouts`: of each record type, by which a reader of another version understands them.
    `settings`: the parts of the configuration that say how records are understood."""

    version: int
    abi: int
    layouts: dict[int, Layout]
    generation: int  # of the ring
    began_ns: int  # UTC
    began_monotonic_ns: int
    sandboxes: tuple[int, ...]  # only these; empty: all
    cpus: int
    pinfold: str
    settings: dict[str, Any]


class Frame(Struct, frozen=True):
    """`at`: of its compressed bytes."""

    at: int
    packed: int
    plain: int
    records: int
    entries: int
    first_ns: int  # CLOCK_MONOTONIC, of its records and ticks
    last_ns: int
    checksum: int

    def head(self) -> bytes:
        return _FRAME.pack(
            self.packed, self.plain, self.records, self.entries, self.first_ns, self.last_ns, self.checksum
        )


class Writer:
    """Entries in, frames out. Raises OSError where the file cannot be written."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
        self._plain = bytearray()
        self._frames: list[Frame] = []
        self._entries = self._records = 0
        self._first_ns = self._last_ns = 0
        self.records = 0
        self.bytes = 0
        self._put(_HEADER, _MAGIC + msgspec.msgpack.encode(header))

    def add(self, kind: int, content: bytes, time_ns: int = 0) -> None:
        """`time_ns`: CLOCK_MONOTONIC, 0 where it has none."""
        self._plain += ENTRY.pack(kind, len(content))
        self._plain += content
        self._added(time_ns)

    def record(self, generation: int, position: int, raw: bytes, time_ns: int) -> None:
        self._plain += _RECORD.pack(RECORD, len(raw) + PLACE.size, generation, position)
        self._plain += raw
        self._records += 1
        self._added(time_ns)

    def _added(self, time_ns: int) -> None:
        self._entries += 1
        if time_ns:
            self._first_ns = self._first_ns or time_ns
            self._last_ns = time_ns
        if len(self._plain) >= FRAME_BYTES:
            self.flush()

    @property
    def waiting(self) -> int:
        """Bytes that are in no frame yet."""
        return len(self._plain)

    def flush(self) -> None:
        if not self._plain:
            return
        packed = self._compressor.compress(self._plain)
        at = self.bytes + _SKIPPABLE.size + _FRAME.size
        frame = Frame(
            at, len(packed), len(self._plain), self._records, self._entries, self._first_ns, self._last_ns,
            zlib.crc32(packed),
        )  # fmt: skip
        self._put(_HEAD, frame.head())
        self._file.write(packed)
        self.bytes += len(packed)
        self._frames.append(frame)
        self.records += self._records
        self._plain.clear()
        self._entries = self._records = self._first_ns = self._last_ns = 0
        self._file.flush()

    def close(self) -> None:
        """Writes what waits, and the index."""
        self.flush()
        index = b"".join(_PLACED.pack(frame.at) + frame.head() for frame in self._frames)
        self._put(_INDEX, index + _TRAILER.pack(len(self._frames), zlib.crc32(index), _END))
        self._file.flush()

    def _put(self, kind: int, content: bytes) -> None:
        self._file.write(_SKIPPABLE.pack(kind, len(content)) + content)
        self.bytes += _SKIPPABLE.size + len(content)


class Reader:
    """`whole` is False where the end is missing; `frames` then has those before it. Raises RecordingError for what is
    no recording, and for a frame that was damaged."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.header = self._header()
            indexed = self._index()
            self.whole = indexed is not None
            self.frames = indexed if indexed is not None else list(self._scan())
        except BaseException:
            self._file.close()
            raise
        self._decompressor = zstandard.ZstdDecompressor()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def entries(self, frame: Frame) -> Iterator[tuple[int, bytes, int, int]]:
        """(kind, buffer, start, length) of each entry, in order."""
        plain = self._unpacked(frame)
        at, end = 0, len(plain)
        while at + ENTRY.size <= end:
            kind, length = ENTRY.unpack_from(plain, at)
            at += ENTRY.size
            if at + length > end:
                raise self._damaged(frame, "an entry reaches beyond its frame")
            yield kind, plain, at, length
            at += length

    def _unpacked(self, frame: Frame) -> bytes:
        packed = self._read(frame.at, frame.packed)
        if packed is None or zlib.crc32(packed) != frame.checksum:
            raise self._damaged(frame, "its bytes are not those that were written")
        try:
            # Asked before anything is allocated: a frame may claim any size.
            if zstandard.get_frame_parameters(packed).content_size != frame.plain or frame.plain > PLAIN_MAX:
                raise self._damaged(frame, "it is longer than it says")
            return self._decompressor.decompress(packed, max_output_size=frame.plain)
        except zstandard.ZstdError as error:
            raise self._damaged(frame, str(error)) from error

    def _header(self) -> Header:
        content = self._skippable(0, _HEADER, HEADER_MAX)
        if content is None or not content.startswith(_MAGIC):
            raise RecordingError(f"{self.path!a}: not a recording of pinfold: make one with `pinfold record FILE`")
        try:
            # The version first: what another one means by the rest is not known.
            head: dict[str, Any] = msgspec.msgpack.decode(content[len(_MAGIC) :], type=dict[str, Any])
            if head.get("version") != VERSION:
                text = f"{self.path!a}: a recording of format {head.get('version')!a}, this reads {VERSION}"
                raise RecordingError(f"{text}: record it again")
            return msgspec.convert(head, Header)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RecordingError(f"{self.path!a}: its header is damaged: record it again") from error

    def _index(self) -> list[Frame] | None:
        tail = self._read(self.size - _TRAILER.size, _TRAILER.size)
        if tail is None:
            return None
        count, checksum, end = _TRAILER.unpack(tail)
        each = _PLACED.size + _FRAME.size
        if end != _END or count > FRAMES_MAX:
            return None
        at = self.size - _TRAILER.size - count * each
        content = self._read(at, count * each) if at > 0 else None
        if content is None or zlib.crc32(content) != checksum:
            return None
        return [
            Frame(*_PLACED.unpack_from(content, i), *_FRAME.unpack_from(content, i + _PLACED.size))
            for i in range(0, len(content), each)
        ]

    def _scan(self) -> Iterator[Frame]:
        at = self._after_header
        for _ in range(FRAMES_MAX):
            head = self._skippable(at, _HEAD, _FRAME.size)
            if head is None or len(head) != _FRAME.size:
                return
            at += _SKIPPABLE.size + _FRAME.size
            frame = Frame(at, *_FRAME.unpack(head))
            at += frame.packed
            if at > self.size:
                return
            yield frame

    def _skippable(self, at: int, kind: int, most: int) -> bytes | None:
        head = self._read(at, _SKIPPABLE.size)
        if head is None:
            return None
        found, length = _SKIPPABLE.unpack(head)
        if found != kind or length > most:
            return None
        if kind == _HEADER:
            self._after_header = at + _SKIPPABLE.size + length
        return self._read(at + _SKIPPABLE.size, length)

    def _read(self, at: int, length: int) -> bytes | None:
        """None where the file ends before."""
        if at < 0 or at + length > self.size:
            return None
        self._file.seek(at)
        content = self._file.read(length)
        return content if len(content) == length else None

    def _damaged(self, frame: Frame, why: str) -> RecordingError:
        return RecordingError(f"{self.path!a}: the frame at byte {frame.at} is damaged: {why}")
