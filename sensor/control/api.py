"""The api process: serves metrics and the control socket over HTTP, without any privilege.

    python -m sensor.control.api CORE_TGID LINK_FD KIND:LISTENER_FD…

It keeps nothing and decides nothing: every answer is the core's. It dies with the core.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401  # aiohttp needs it with the first request, when the file may be out of reach
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from sensor.control import privileges
from sensor.control.collector import render
from sensor.control.core import Core, Unanswered
from sensor.control.gate import Gate
from sensor.metrics import PATHS, Metrics, Snapshot, decode

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages:
    """What there is to read, each as the core last told it."""

    def __init__(self, core: Core, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics
        self._of: bytes = b""
        self._snapshot: Snapshot | None = None
        self._rendered: dict[str, tuple[bytes, str]] = {}

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        answer = await self._core.answer("metrics")
        if self._snapshot is None or answer is not self._of:
            self._of, self._snapshot = answer, decode(answer)
            self._rendered = {}
        accept = request.headers.get("Accept", "")
        page = self._rendered.get(accept)
        if page is None:
            own = decode(self._metrics.snapshot())
            page = render(accept, self._snapshot, own)
            if len(self._rendered) < 8:
                self._rendered[accept] = page
        return web.Response(body=page[0], headers={"Content-Type": page[1]})

    def json(self, name: str) -> Handler:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=await self._core.answer(name), content_type="application/json")

        return answer


def application(kind: str, pages: Pages, metrics: Metrics) -> web.Application:
    """`metrics` has /metrics alone, `control` everything."""

    @web.middleware
    async def one_request(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as refused:
            response = _error(refused.status, refused.reason)
        except (Unanswered, msgspec.DecodeError) as error:
            response = _error(503, str(error))
        response.force_close()
        path = request.path if request.path in PATHS else "other"
        metrics.count("pinfold_api_requests_total", (path, str(response.status)))
        return response

    app = web.Application(middlewares=[one_request])
    app.router.add_get("/metrics", pages.metrics)
    if kind == "control":
        for name in ("status", "sandboxes", "rules"):
            app.router.add_get(f"/v1/{name}", pages.json(name))
    return app


async def serve(link: socket.socket, listeners: list[tuple[str, socket.socket]]) -> None:
    """Until the core hangs up."""
    gone = asyncio.Event()
    core = Core(link, gone.set)
    metrics = Metrics("api")
    pages = Pages(core, metrics)
    gates: list[asyncio.Task[None]] = []
    for kind, listener in listeners:
        runner = web.AppRunner(
            application(kind, pages, metrics), access_log=None, handle_signals=False, lingering_time=0.0
        )
        await runner.setup()
        assert runner.server is not None
        gates.append(asyncio.create_task(Gate(listener, runner.server, core, metrics).run()))
    core.ready()
    watch = asyncio.create_task(gone.wait())
    done, _ = await asyncio.wait([watch, *gates], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()  # a gate ends by its own error only: the core then starts another api


def main(arguments: list[str]) -> None:
    parent, link, *served = arguments
    listening = [(kind, int(fd)) for kind, _, fd in (word.partition(":") for word in served)]
    privileges.close_others({int(link), *(fd for _, fd in listening)})
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # the core goes first; who asks for metrics does not
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the core's to answer, which then ends this process
    try:
        privileges.drop(int(parent))
    except ProcessLookupError:
        return  # the core died before this process could be told to die with it
    asyncio.run(serve(socket.socket(fileno=int(link)), [(kind, socket.socket(fileno=fd)) for kind, fd in listening]))
    os._exit(0)  # nothing to flush, nobody to wait for


def _error(status: int, why: str) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode({"error": why}), content_type="application/json")


if __name__ == "__main__":
    main(sys.argv[1:])
