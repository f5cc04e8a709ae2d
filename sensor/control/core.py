"""The api's end of the link: asks the core, and keeps each answer for a moment, so that any number of
requests costs the core two answers a second."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from sensor.control import wire
from sensor.errors import PinfoldError

FRESH_S = 0.5
PATIENCE_S = 2.0
_SO_PEERPIDFD = getattr(socket, "SO_PEERPIDFD", 77)  # asm-generic; since 6.5

Reply = tuple[int, str, bytes]  # status, text, answer


class Unanswered(PinfoldError):
    """The core did not answer in time, or could not."""


class Core:
    def __init__(self, link: socket.socket, gone: Callable[[], None]) -> None:
        link.setblocking(False)
        self._link = link
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._last = wire.READY_ID
        self._answers: dict[str, tuple[float, bytes]] = {}
        self._asking: dict[str, asyncio.Task[bytes]] = {}
        self._loop.add_reader(link, self._readable)

    def ready(self) -> None:
        try:
            self._link.send(wire.REQUEST.pack(wire.READY_ID) + wire.READY_NAME)
        except (BrokenPipeError, ConnectionResetError):
            self._gone()  # it refused to start, and said why

    async def answer(self, name: str) -> bytes:
        """At most FRESH_S old.

        :raises Unanswered:
        """
        until, answer = self._answers.get(name, (0.0, b""))
        if self._loop.time() < until:
            return answer
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = self._loop.create_task(self._fetch(name))
            asking.add_done_callback(lambda task: self._asked(name, task))
        # Whoever asked first may hang up; the others still want the answer.
        return await asyncio.shield(asking)

    async def peer_refusal(self, peer: socket.socket) -> str:
        """Why a Unix peer may not be served; "" if it may.

        :raises Unanswered:
        """
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        tgid = int.from_bytes(credentials[:4], "little", signed=True)
        if tgid <= 0:
            return "unverified"
        try:
            pidfd = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if not _too_old(error):
                return "unverified"  # it ended already
            pidfd = -1
        try:
            status, text, _ = await self._ask(wire.PEER_NAME + wire.PEER.pack(tgid), pidfd)
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        return text or "unverified" if status != wire.OK else ""

    async def _fetch(self, name: str) -> bytes:
        status, text, answer = await self._ask(name.encode("ascii"))
        if status != wire.OK:
            raise Unanswered(text)
        self._answers[name] = (self._loop.time() + FRESH_S, answer)
        return answer

    def _asked(self, name: str, task: asyncio.Task[bytes]) -> None:
        self._asking.pop(name, None)
        if not task.cancelled():
            task.exception()  # seen by those who wait; when all hung up, by nobody else

    async def _ask(self, name: bytes, fd: int = -1) -> Reply:
        self._last = self._last % 0xFFFFFFFF + 1
        request = self._last
        future = self._waiting[request] = self._loop.create_future()
        try:
            packet = wire.REQUEST.pack(request) + name
            if fd >= 0:
                socket.send_fds(self._link, [packet], [fd])
            else:
                self._link.send(packet)
            async with asyncio.timeout(PATIENCE_S):
                reply: Reply = await future
                return reply
        except (OSError, TimeoutError) as error:
            raise Unanswered("the core does not answer") from error
        finally:
            self._waiting.pop(request, None)

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
            future = self._waiting.get(request)
            if future is not None and not future.done():
                text = packet[wire.REPLY.size :].decode("utf-8", "replace")
                future.set_result((status, text, _read_all(fds[0]) if fds else b""))
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


def _too_old(error: OSError) -> bool:
    """ENOPROTOOPT: this kernel has no SO_PEERPIDFD. Else ESRCH or EINVAL: the peer was reaped."""
    return error.errno == errno.ENOPROTOOPT
