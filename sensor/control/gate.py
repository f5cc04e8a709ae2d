"""Accepts connections for the HTTP server, and decides who gets in and for how long.

A connection for metrics has one request and ten seconds for all of it. One of the control socket may ask
on, but never rests longer than that; a stream lasts as long as it is read. A peer that says nothing, or
reads nothing, holds one of MOST places until a newcomer needs it, and stalls nobody: each uid has places of
its own, so that one who floods pushes out itself. Whoever connects to a Unix socket is shown to the core
first, a few a second of each uid (of root's, of each cgroup); of a cgroup that was just refused nobody is,
since a sandbox may connect as fast as it likes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator

from msgspec import Struct

from sensor.control.core import Admitted, Core, Unanswered
from sensor.metrics import Metrics

MOST = 64  # connections of one listener
MOST_OF_UID = 24  # of them, on a Unix socket
LIFE_S = 10.0
ADMISSIONS_PER_S = 100  # questions to the core about one Crowd: a flood of connects costs it no more
AT_ONCE = 20  # of them without a pause
MOST_WAITING = 32  # connections of one Crowd that are not judged yet; 4 times as many of all
MOST_CROWDS = 64
REFUSED_S = 2.0  # how long a cgroup of which a peer was refused is refused without a question
MOST_REFUSED = 64
TROUBLE_S = 0.1


class Place(Struct, eq=False):
    """One connection. `by` is None on TCP, which does not tell who connects."""

    transport: asyncio.BaseTransport
    timer: asyncio.TimerHandle
    by: Admitted | None
    streaming: bool = False


class Places:
    """Of one listener, oldest first."""

    def __init__(self, core: Core, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Place] = {}  # by the transport's id, which is held here

    def __iter__(self) -> Iterator[Place]:
        return iter(list(self._open.values()))

    def of(self, transport: asyncio.BaseTransport | None) -> Place | None:
        return self._open.get(id(transport))

    def add(self, transport: asyncio.BaseTransport, by: Admitted | None) -> None:
        timer = self._loop.call_later(LIFE_S, _abort, transport)
        self._open[id(transport)] = Place(transport, timer, by)

    def rests(self, place: Place) -> None:
        """It was answered, and may ask again."""
        place.timer.cancel()
        place.timer = self._loop.call_later(LIFE_S, _abort, place.transport)

    def streams(self, place: Place) -> None:
        """It lasts until it is closed; the stream sees to that."""
        place.timer.cancel()
        place.streaming = True

    def sweep(self) -> None:
        """Forgets the closed ones."""
        for place in self:
            if place.transport.is_closing():
                self._forget(place)

    def make_room(self, by: Admitted | None) -> None:
        """Before a newcomer: a request takes milliseconds, so the oldest has had its time."""
        self.sweep()
        if by is not None:
            own = [place for place in self if place.by is not None and place.by.uid == by.uid]
            if len(own) >= MOST_OF_UID:
                self._push_out(own)
        if len(self._open) >= MOST:
            held = Counter(place.by.uid for place in self if place.by is not None)
            most = max(held.values(), default=0)
            self._push_out([place for place in self if place.by is None or held[place.by.uid] == most])

    def _push_out(self, among: list[Place]) -> None:
        """The oldest, a stream only where there is nothing else."""
        place = next((one for one in among if not one.streaming), among[0])
        _abort(place.transport)
        self._forget(place)
        self._metrics.count("pinfold_api_refused_total", ("busy",))

    def _forget(self, place: Place) -> None:
        place.timer.cancel()
        if self._open.pop(id(place.transport), None) is not None and place.by is not None and place.by.number:
            self._core.leave(place.by)


class Crowd(Struct):
    """Those who are likely one and the same. As the api sees it: good enough for who waits for whom."""

    tokens: float
    counted_s: float
    waiting: int = 0


class Gate:
    """:param kind: `control` or `metrics`."""

    def __init__(  # noqa: PLR0917 - what it joins
        self,
        kind: str,
        listener: socket.socket,
        server: Callable[[], asyncio.Protocol],
        places: Places,
        core: Core,
        metrics: Metrics,
    ) -> None:
        listener.setblocking(False)
        self._kind = kind
        self._listener = listener
        self._server = server
        self._places = places
        self._core = core
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._refused: dict[bytes, float] = {}  # cgroups, and until when
        self._crowds: dict[tuple[int, bytes], Crowd] = {}
        self._judging: set[asyncio.Task[None]] = set()
        self._seating = asyncio.Lock()

    async def run(self) -> None:
        while True:
            try:
                peer, _ = await self._loop.sock_accept(self._listener)
            except OSError:  # ECONNABORTED, or EMFILE, which passes as others close
                await asyncio.sleep(TROUBLE_S)
                continue
            if self._listener.family == socket.AF_UNIX:
                await self._arrived(peer)
            else:
                await self._serve(peer, None)

    async def _arrived(self, peer: socket.socket) -> None:
        uid, cgroup = _seen(peer)
        if cgroup and self._loop.time() < self._refused.get(cgroup, 0.0):
            # By its cgroup alone, as the api sees it: enough for a no that the core gave a moment ago.
            self._refuse(peer, "sandboxed")
            await asyncio.sleep(0)
            return
        crowd = self._crowd((uid, b"" if uid else cgroup))
        if crowd.waiting >= MOST_WAITING or len(self._judging) >= 4 * MOST_WAITING:
            self._refuse(peer, "busy")
            await asyncio.sleep(0)
            return
        crowd.waiting += 1
        task = self._loop.create_task(self._judge(peer, crowd, cgroup))
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    def _crowd(self, key: tuple[int, bytes]) -> Crowd:
        crowd = self._crowds.pop(key, None) or Crowd(float(AT_ONCE), self._loop.time())
        while len(self._crowds) >= MOST_CROWDS:
            del self._crowds[next(iter(self._crowds))]
        self._crowds[key] = crowd  # the last seen is the last to go
        return crowd

    async def _judge(self, peer: socket.socket, crowd: Crowd, cgroup: bytes) -> None:
        try:
            await self._paced(crowd)
            answer = await self._core.admit(peer, self._kind)
        except Unanswered:
            answer = "unverified"
        finally:
            crowd.waiting -= 1
        if isinstance(answer, Admitted):
            await self._serve(peer, answer)
            return
        if answer == "sandboxed cgroup":
            answer = "sandboxed"
            if cgroup:
                if len(self._refused) >= MOST_REFUSED:
                    self._refused.clear()
                self._refused[cgroup] = self._loop.time() + REFUSED_S
        self._refuse(peer, answer)

    async def _paced(self, crowd: Crowd) -> None:
        now = self._loop.time()
        crowd.tokens = min(AT_ONCE, crowd.tokens + (now - crowd.counted_s) * ADMISSIONS_PER_S)
        crowd.counted_s = now
        crowd.tokens -= 1
        if crowd.tokens < 0:
            await asyncio.sleep(-crowd.tokens / ADMISSIONS_PER_S)

    def _refuse(self, peer: socket.socket, why: str) -> None:
        self._metrics.count("pinfold_api_refused_total", (why,))
        peer.close()

    async def _serve(self, peer: socket.socket, by: Admitted | None) -> None:
        async with self._seating:  # between the room that was made and the place that is taken nobody else comes
            self._places.make_room(by)
            try:
                transport, _ = await self._loop.connect_accepted_socket(self._server, peer)
            except OSError:  # it hung up in between
                peer.close()
                if by is not None and by.number:
                    self._core.leave(by)
                return
            self._places.add(transport, by)


def _seen(peer: socket.socket) -> tuple[int, bytes]:
    """Its uid, and its cgroup's line of the v2 hierarchy; b"" where that cannot be read, or is the root."""
    try:
        tgid, uid, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return 0, b""
    try:
        fd = os.open(f"/proc/{tgid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return uid, b""
    try:
        text = os.read(fd, 65536)
    except OSError:
        return uid, b""
    finally:
        os.close(fd)
    lines = (line for line in text.split(b"\n") if line.startswith(b"0::") and line != b"0::/")
    return uid, next(lines, b"")


def _abort(transport: asyncio.BaseTransport) -> None:
    transport.abort()  # type: ignore[attr-defined]  # sockets' transports are WriteTransports
