"""Accepts connections for the HTTP server, and decides who gets in and for how long.

One request a connection, and ten seconds for all of it: a peer that says nothing, or reads nothing,
holds one of MOST places until a newcomer needs it, and stalls nobody. Whoever connects to a Unix
socket is shown to the core first.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from sensor.control.core import Core, Unanswered
from sensor.metrics import Metrics

MOST = 64  # connections of one listener
LIFE_S = 10.0
ADMISSIONS_PER_S = 100  # questions to the core: a flood of connects costs it no more
TROUBLE_S = 0.1


class Gate:
    def __init__(
        self, listener: socket.socket, server: Callable[[], asyncio.Protocol], core: Core, metrics: Metrics
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._server = server
        self._core = core
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._open: deque[tuple[asyncio.BaseTransport, asyncio.TimerHandle]] = deque()

    async def run(self) -> None:
        while True:
            try:
                peer, _ = await self._loop.sock_accept(self._listener)
            except OSError:  # ECONNABORTED, or EMFILE, which passes as others close
                await asyncio.sleep(TROUBLE_S)
                continue
            if self._listener.family != socket.AF_UNIX:
                await self._serve(peer)
                continue
            if await self._admitted(peer):
                await self._serve(peer)
            else:
                peer.close()
            await asyncio.sleep(1 / ADMISSIONS_PER_S)

    async def _admitted(self, peer: socket.socket) -> bool:
        try:
            why = await self._core.peer_refusal(peer)
        except Unanswered:
            why = "unverified"
        if why:
            self._metrics.count("pinfold_api_refused_total", (why,))
        return not why

    async def _serve(self, peer: socket.socket) -> None:
        self._make_room()
        try:
            transport, _ = await self._loop.connect_accepted_socket(self._server, peer)
        except OSError:  # it hung up in between
            peer.close()
            return
        self._open.append((transport, self._loop.call_later(LIFE_S, transport.abort)))

    def _make_room(self) -> None:
        """Forgets the closed ones; among MOST open ones the oldest has had its time: a request takes milliseconds."""
        for _ in range(len(self._open)):
            transport, timer = self._open.popleft()
            if transport.is_closing():
                timer.cancel()
            else:
                self._open.append((transport, timer))
        if len(self._open) >= MOST:
            transport, timer = self._open.popleft()
            timer.cancel()
            transport.abort()  # type: ignore[attr-defined]  # sockets' transports are WriteTransports
            self._metrics.count("pinfold_api_refused_total", ("busy",))
