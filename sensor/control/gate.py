"""Accepts connections for the HTTP server, and decides who gets in and for how long.

A connection for metrics has one request and ten seconds for all of it. One of the control socket may ask
on, but never rests longer than that; a stream lasts as long as it is read. A peer that says nothing, or
reads nothing, holds one of MOST places until a newcomer needs it, and stalls nobody: each uid has places of
its own, so that one who floods pushes out itself. Whoever connects to a Unix socket is shown to the core
first; of a cgroup that was just refused nobody is, since a sandbox may connect as fast as it likes.
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
ADMISSIONS_PER_S = 100  # questions to the core: a flood of connects costs it no more
AT_ONCE = 20  # of them without a pause
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
        self._tokens = float(AT_ONCE)
        self._counted_s = self._loop.time()
        self._refused: dict[bytes, float] = {}  # cgroups, and until when

    async def run(self) -> None:
        while True:
            try:
                peer, _ = await self._loop.sock_accept(self._listener)
            except OSError:  # ECONNABORTED, or EMFILE, which passes as others close
                await asyncio.sleep(TROUBLE_S)
                continue
            if self._listener.family != socket.AF_UNIX:
                await self._serve(peer, None)
                continue
            answer = await self._judge(peer)
            if isinstance(answer, Admitted):
                await self._serve(peer, answer)
            else:
                self._metrics.count("pinfold_api_refused_total", (answer,))
                peer.close()

    async def _judge(self, peer: socket.socket) -> Admitted | str:
        """Or why it is refused."""
        cgroup = _cgroup_of(peer)
        if cgroup and self._loop.time() < self._refused.get(cgroup, 0.0):
            # By its cgroup alone, as the api sees it: enough for a no that the core gave a moment ago.
            await asyncio.sleep(0)
            return "sandboxed"
        await self._paced()
        try:
            answer = await self._core.admit(peer, self._kind)
        except Unanswered:
            return "unverified"
        if answer == "sandboxed cgroup":
            if cgroup:
                if len(self._refused) >= MOST_REFUSED:
                    self._refused.clear()
                self._refused[cgroup] = self._loop.time() + REFUSED_S
            return "sandboxed"
        return answer

    async def _paced(self) -> None:
        now = self._loop.time()
        self._tokens = min(AT_ONCE, self._tokens + (now - self._counted_s) * ADMISSIONS_PER_S)
        self._counted_s = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / ADMISSIONS_PER_S)

    async def _serve(self, peer: socket.socket, by: Admitted | None) -> None:
        self._places.make_room(by)
        try:
            transport, _ = await self._loop.connect_accepted_socket(self._server, peer)
        except OSError:  # it hung up in between
            peer.close()
            if by is not None and by.number:
                self._core.leave(by)
            return
        self._places.add(transport, by)


def _cgroup_of(peer: socket.socket) -> bytes:
    """The line of the v2 hierarchy, as far as it goes; b"" where it cannot be read."""
    try:
        tgid, _, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        fd = os.open(f"/proc/{tgid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        text = os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)
    return next((line for line in text.split(b"\n") if line.startswith(b"0::") and line != b"0::/"), b"")


def _abort(transport: asyncio.BaseTransport) -> None:
    transport.abort()  # type: ignore[attr-defined]  # sockets' transports are WriteTransports
