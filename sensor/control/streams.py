"""The log as streams: one follower for all who listen, each with a bounded queue of its own.

A reader that is slower than the log loses lines, and is told how many; it never holds up the follower, the
other readers or the core.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Any

import msgspec
from msgspec import Struct

from sensor.control.core import Core, Unanswered
from sensor.control.tail import Tail
from sensor.events.detection import LEVELS
from sensor.export.redact import redact

MOST = 16  # streams
MOST_OF_UID = 8
QUEUE_BYTES = 1024 * 1024
QUEUE_LINES = 4096
BEHIND_BYTES = 16 * 1024 * 1024  # more than that is not read, but counted
POLL_S = 0.1
ROTATED_S = 0.5  # how often the core is asked for the log's next file
HEARTBEAT_S = 5.0  # an empty line, so that a reader that is gone is noticed
_DETECTION = b'{"v":1,"kind":"detection"'


class Wanted(Struct, frozen=True):
    """What a reader wants to see; what all of it fits is shown."""

    detections: bool = False
    sandbox: int = 0
    level: str = ""  # and above
    rule: str = ""  # id or title
    category: str = ""

    def perhaps(self, line: bytes) -> bool:
        """Without decoding it: False where it cannot fit."""
        if (self.detections or self.level or self.rule) and not line.startswith(_DETECTION):
            return False
        return not self.sandbox or b'"SandboxId":%d' % self.sandbox in line

    def fits(self, record: dict[str, Any]) -> bool:
        rule = record.get("rule") or {}
        if self.sandbox and record.get("SandboxId") != self.sandbox:
            return False
        if self.level and LEVELS.index(rule.get("level", LEVELS[0])) < LEVELS.index(self.level):
            return False
        if self.rule and self.rule not in {rule.get("id"), rule.get("title")}:
            return False
        return not self.category or record.get("category") == self.category


class Reader:
    """One stream's end."""

    def __init__(self, wanted: Wanted, uid: int) -> None:
        self.wanted = wanted
        self.uid = uid
        self.over = False
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._something = asyncio.Event()

    def offer(self, line: bytes) -> None:
        if self._bytes + len(line) > QUEUE_BYTES or len(self._queue) >= QUEUE_LINES:
            self.drop(1)
            return
        self._say_dropped()
        self._queue.append(line)
        self._bytes += len(line)
        self._something.set()

    def drop(self, lines: int) -> None:
        self._dropped += lines
        self._something.set()

    def end(self) -> None:
        self.over = True
        self._something.set()

    async def take(self) -> bytes:
        """What waits; an empty line where nothing came for a while. b"" at the end."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._something.wait()
        except TimeoutError:
            return b"\n"
        self._something.clear()
        self._say_dropped()
        taken = b"".join(self._queue)
        self._queue.clear()
        self._bytes = 0
        if self.over:
            self._something.set()
        return taken

    def _say_dropped(self) -> None:
        if self._dropped:
            self._queue.append(b'{"kind":"dropped","count":%d}\n' % self._dropped)
            self._dropped = 0


class Streams:
    """Follows the log while somebody listens."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._readers: list[Reader] = []
        self._following: asyncio.Task[None] | None = None
        self._ask_again_s = 0.0

    async def join(self, wanted: Wanted, uid: int) -> Reader | None:
        """A reader of everything that is written from here on; None where there are enough.

        :raises Unanswered: the core gives no log.
        """
        if len(self._readers) >= MOST or Counter(one.uid for one in self._readers)[uid] >= MOST_OF_UID:
            return None
        reader = Reader(wanted, uid)
        self._readers.append(reader)
        if self._following is None:
            try:
                tail = Tail(await self._core.log(0, 0), from_end=True)
            except (Unanswered, OSError) as error:
                self.leave(reader)
                raise error if isinstance(error, Unanswered) else Unanswered(str(error), "failed") from error
            if self._following is None:
                self._following = asyncio.get_running_loop().create_task(self._follow(tail))
            else:
                tail.close()
        return reader

    def leave(self, reader: Reader) -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    async def _follow(self, tail: Tail) -> None:
        try:
            while self._readers:
                if not self._read(tail):
                    tail = await self._next(tail)
                    await asyncio.sleep(POLL_S)
                await asyncio.sleep(0)
        except (Unanswered, OSError):
            pass  # the streams end, and who still wants them asks again
        finally:
            tail.close()
            self._following = None
            for reader in self._readers:
                reader.end()

    async def _next(self, tail: Tail) -> Tail:
        """The log's next file, where this one was rotated away."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._ask_again_s:
            return tail
        self._ask_again_s = loop.time() + ROTATED_S
        fd = await self._core.log(*tail.identity)
        if fd < 0:
            return tail
        newer = Tail(fd, from_end=False)
        while self._read(tail):  # what came between the last look and the rotation
            await asyncio.sleep(0)
        tail.close()
        return newer

    def _read(self, tail: Tail) -> bool:
        """False where there is nothing to read as yet."""
        behind = tail.behind()
        chunk = tail.chunk() if behind else b""
        if behind > BEHIND_BYTES:
            lines = chunk.count(b"\n")
            for reader in self._readers:
                reader.drop(lines)
        else:
            for line in chunk.split(b"\n")[:-1]:
                self._spread(line)
        return bool(chunk)

    def _spread(self, line: bytes) -> None:
        readers = [reader for reader in self._readers if reader.wanted.perhaps(line)]
        if not readers:
            return
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
            shown = msgspec.json.encode(redact(record)) + b"\n"
            readers = [reader for reader in readers if reader.wanted.fits(record)]
        except (msgspec.MsgspecError, ValueError, TypeError, AttributeError):
            for reader in readers:  # a damaged line
                reader.drop(1)
            return
        for reader in readers:
            reader.offer(shown)
