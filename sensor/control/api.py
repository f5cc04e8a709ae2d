"""The api process: serves metrics and the control socket over HTTP, without any privilege.

    python -m sensor.control.api CORE_TGID LINK_FD KIND:LISTENER_FD…

It keeps nothing and decides nothing: every answer is the core's. It dies with the core.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401  # aiohttp needs it with the first request, when the file may be out of reach
import logging
import os
import signal
import socket
import sys
import time

from aiohttp import web

from sensor.control import privileges
from sensor.control.application import Pages, application
from sensor.control.core import Core
from sensor.control.gate import Gate, Places
from sensor.metrics import Metrics

IDLE_S = 15.0  # aiohttp's own patience with a connection that rests; the gate's is shorter
SWEEP_S = 1.0
MOST_LINE = 64 * 1024  # a path of 4096 characters, escaped
SAY_AGAIN_S = 10.0


async def serve(link: socket.socket, listeners: list[tuple[str, socket.socket]]) -> None:
    """Until the core hangs up."""
    gone = asyncio.Event()
    core = Core(link, gone.set)
    metrics = Metrics("api")
    pages = Pages(core, metrics)
    tasks: list[asyncio.Task[None]] = []
    for kind, listener in listeners:
        places = Places(core, metrics)
        runner = web.AppRunner(
            application(kind, pages, metrics, places),
            access_log=None,
            handle_signals=False,
            lingering_time=0.0,
            keepalive_timeout=IDLE_S,
            max_line_size=MOST_LINE,
        )
        await runner.setup()
        assert runner.server is not None
        tasks.append(asyncio.create_task(Gate(kind, listener, runner.server, places, core, metrics).run()))
        tasks.append(asyncio.create_task(_sweep(places)))
    core.ready()
    watch = asyncio.create_task(gone.wait())
    done, _ = await asyncio.wait([watch, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()  # a gate ends by its own error only: the core then starts another api


class Sparing(logging.Handler):
    """aiohttp tells of every request that is no HTTP, with a traceback: anybody could fill the host's journal so. One
    line now and then; what it was is in the status counts."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + SAY_AGAIN_S
            why = record.exc_info[1] if record.exc_info else None
            text = f"{record.getMessage()}: {type(why).__name__}: {why}" if why else record.getMessage()
            print(f"pinfold: api: {text[:500]!a}", file=sys.stderr, flush=True)


async def _sweep(places: Places) -> None:
    """The core forgets whom it admitted when their connections are closed."""
    while True:
        await asyncio.sleep(SWEEP_S)
        places.sweep()


def main(arguments: list[str]) -> None:
    parent, link, *served = arguments
    listening = [(kind, int(fd)) for kind, _, fd in (word.partition(":") for word in served)]
    privileges.close_others({int(link), *(fd for _, fd in listening)})
    logging.basicConfig(handlers=[Sparing()], level=logging.WARNING)
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # the core goes first; who asks for metrics does not
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the core's to answer, which then ends this process
    try:
        privileges.drop(int(parent))
    except ProcessLookupError:
        return  # the core died before this process could be told to die with it
    asyncio.run(serve(socket.socket(fileno=int(link)), [(kind, socket.socket(fileno=fd)) for kind, fd in listening]))
    os._exit(0)  # nothing to flush, nobody to wait for


if __name__ == "__main__":
    main(sys.argv[1:])
