"""The api's end of the link: asks the core, and keeps each answer for a moment, so that any number of
requests for the same thing costs the core two answers a second."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress

from msgspec import Struct

from sensor.control import wire
from sensor.errors import PinfoldError

FRESH_S = 0.5
PATIENCE_S = 2.0
# Questions under way: a queue of packets holds net.unix.max_dgram_qlen of them, which may be as few as 10, and the
# core drops an answer for which there is no room.
AT_ONCE = 6
FULL_S = 0.002
MOST_KEPT = 256  # answers
MOST_KEPT_BYTES = 64 * 1024 * 1024


Key = tuple[str, bytes]  # of what is kept: a name, and its arguments


class Reply(Struct):
    status: int
    text: str
    answer: bytes
    fd: int = -1  # of the log; the one who asked closes it


class Unanswered(PinfoldError):
    """The core did not answer in time, or could not. `code` as in wire.CODES."""

    def __init__(self, why: str, code: str = "busy") -> None:
        super().__init__(why)
        self.code = code


class Refused(PinfoldError):
    """The core's answer to a call is no. `body` is {"error": …}."""

    def __init__(self, code: str, body: bytes) -> None:
        super().__init__(code)
        self.code = code
        self.body = body


class Admitted(Struct, frozen=True):
    """A connection: how the core calls it (0: metrics only), its peer's uid, and what that one may do."""

    number: int
    uid: int
    level: str


class Core:
    def __init__(self, link: socket.socket, gone: Callable[[], None]) -> None:
        link.setblocking(False)
        self._link = link
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[asyncio.Future[Reply], bool]] = {}
        self._last = wire.READY_ID
        self._answers: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._asking: dict[Key, asyncio.Task[bytes]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._leaving: set[asyncio.Task[None]] = set()
        self._loop.add_reader(link, self._readable)

    def ready(self) -> None:
        try:
            self._link.send(wire.REQUEST.pack(wire.READY_ID) + wire.READY_WORD)
        except (BrokenPipeError, ConnectionResetError):
            self._gone()  # it refused to start, and said why

    async def answer(self, name: str) -> bytes:
        """What needs no arguments; at most FRESH_S old.

        :raises Unanswered:
        """
        return await self._fresh((name, b""), lambda: self._provided(name))

    async def read(self, by: Admitted, name: str, body: bytes) -> bytes:
        """An operation that changes nothing; at most FRESH_S old, whoever asked: all who may read, read the same.

        :raises Refused: the core's no.
        :raises Unanswered:
        """
        return await self._fresh((name, body), lambda: self.call(by, name, body))

    async def call(self, by: Admitted, name: str, body: bytes) -> bytes:
        """An operation now; `body` is its arguments as JSON.

        :raises Refused: the core's no.
        :raises Unanswered: also where it may have been carried out.
        """
        packet = wire.CALL_WORD + wire.CALL.pack(by.number, name.encode("ascii")) + body
        reply = await self._ask(packet)
        if reply.status == wire.OK:
            return reply.answer
        if reply.status < wire.FIRST_CODE:
            raise Unanswered(reply.text, "failed")
        raise Refused(wire.CODES[min(reply.status - wire.FIRST_CODE, len(wire.CODES) - 1)], reply.answer)

    def forget(self) -> None:
        """Something was changed: what is kept may be true no more."""
        self._answers.clear()
        self._kept_bytes = 0

    async def admit(self, peer: socket.socket, kind: str) -> Admitted | str:
        """Or why a Unix peer may not be served.

        :raises Unanswered:
        """
        reply = await self._ask(wire.ADMIT_WORD + kind.encode("ascii"), peer.fileno())
        words = reply.text.split()
        if reply.status != wire.OK or len(words) != 3:
            return reply.text if reply.status == wire.REFUSED and reply.text else "unverified"
        return Admitted(int(words[0]), int(words[1]), words[2])

    def leave(self, admitted: Admitted) -> None:
        """Its connection is closed."""
        task = self._loop.create_task(self._leave(admitted.number))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, number: int) -> None:
        self._last = self._last % 0xFFFFFFFF + 1
        packet = wire.REQUEST.pack(self._last) + wire.LEAVE_WORD + wire.ADMISSION.pack(number)
        with suppress(OSError, TimeoutError):  # the core forgets it by its own bound, or with its process
            async with asyncio.timeout(PATIENCE_S):
                await self._send(packet, -1)

    async def log(self, device: int, inode: int) -> int:
        """A descriptor of the log's file after this one; -1 while this one goes on. The caller closes it.

        :raises Unanswered:
        """
        reply = await self._ask(wire.LOG_WORD + wire.LOG.pack(device, inode), keep=True)
        if reply.status != wire.OK:
            raise Unanswered(reply.text, "failed")
        return reply.fd

    async def _provided(self, name: str) -> bytes:
        reply = await self._ask(name.encode("ascii"))
        if reply.status != wire.OK:
            raise Unanswered(reply.text, "failed")
        return reply.answer

    async def _fresh(self, key: Key, fetch: Callable[[], Coroutine[None, None, bytes]]) -> bytes:
        until, answer = self._answers.get(key, (0.0, b""))
        if self._loop.time() < until:
            return answer
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = self._loop.create_task(self._fetch(key, fetch))
            asking.add_done_callback(lambda task: self._asked(key, task))
        # Whoever asked first may hang up; the others still want the answer.
        return await asyncio.shield(asking)

    async def _fetch(self, key: Key, fetch: Callable[[], Coroutine[None, None, bytes]]) -> bytes:
        answer = await fetch()
        old = self._answers.pop(key, None)
        self._kept_bytes += len(answer) - (len(old[1]) if old else 0)
        self._answers[key] = (self._loop.time() + FRESH_S, answer)
        while len(self._answers) > MOST_KEPT or (self._kept_bytes > MOST_KEPT_BYTES and len(self._answers) > 1):
            _, (_, gone) = self._answers.popitem(last=False)
            self._kept_bytes -= len(gone)
        return answer

    def _asked(self, key: Key, task: asyncio.Task[bytes]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen by those who wait; when all hung up, by nobody else

    async def _ask(self, packet: bytes, fd: int = -1, keep: bool = False) -> Reply:
        self._last = self._last % 0xFFFFFFFF + 1
        request = self._last
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[request] = (future, keep)
        packet = wire.REQUEST.pack(request) + packet
        try:
            async with asyncio.timeout(PATIENCE_S), self._turns:
                await self._send(packet, fd)
                return await future
        except (OSError, TimeoutError) as error:
            raise Unanswered("the core does not answer") from error
        finally:
            self._waiting.pop(request, None)

    async def _send(self, packet: bytes, fd: int) -> None:
        while True:
            try:
                if fd >= 0:
                    socket.send_fds(self._link, [packet], [fd])
                else:
                    self._link.send(packet)
                return
            except BlockingIOError:
                await asyncio.sleep(FULL_S)

    def _readable(self) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(self._link, wire.MOST_REPLY, 1)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        try:
            if len(packet) < wire.REPLY.size:
                self._loop.remove_reader(self._link)
                self._gone()
                return
            request, status = wire.REPLY.unpack_from(packet)
            future, keep = self._waiting.get(request, (None, False))
            if future is None or future.done():
                return
            reply = Reply(status, packet[wire.REPLY.size :].decode("utf-8", "replace"), b"")
            if fds and keep:
                reply.fd = fds.pop()
            elif fds:
                reply.answer = _read_all(fds[0])
            future.set_result(reply)
        finally:
            for fd in fds:
                with suppress(OSError):
                    os.close(fd)


def _read_all(fd: int) -> bytes:
    size = min(os.fstat(fd).st_size, wire.MOST_ANSWER)
    parts: list[bytes] = []
    at = 0
    while at < size and (part := os.pread(fd, size - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
