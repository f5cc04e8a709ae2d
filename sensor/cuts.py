"""Sockets of denied flows, destroyed: the kernel drops their packets, and with the socket gone its user and the peer
know that it is over."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from sensor.enrich.flowtable import FlowTable
from sensor.enrich.processes import ProcessTable
from sensor.events.activity import NetworkFlow
from sensor.metrics import Metrics
from sensor.respond.sockets import MOST_PROCESSES, MOST_SOCKETS, Destroyer, Request, Response, Socket

MOST_WAITING = 4096  # sockets, of one sandbox and namespace
TRIES = 5  # a child that was late is asked again: the host may be busy, or the sandbox keeps its socket locked
_HOLDERS = 8
_OUTCOMES = {
    "destroyed": "was destroyed",
    "gone": "was gone already",
    "unsupported": "could not be destroyed",
    "failed": "could not be destroyed",
}


class _Cut(Struct):
    socket: Socket
    maker: int  # tgid
    tries: int = 0


class Cuts:
    """`told(text, fields)` writes a notice into the log."""

    def __init__(
        self,
        flows: FlowTable,
        processes: ProcessTable,
        metrics: Metrics,
        told: Callable[..., None],
        destroyer: Destroyer | None = None,
    ) -> None:
        self._flows, self._processes, self._metrics, self._told = flows, processes, metrics, told
        self._destroyer = destroyer or Destroyer()
        # By sandbox and network namespace, then by cookie.
        self._waiting: dict[tuple[int, int], dict[int, _Cut]] = {}
        self._asked: dict[int, dict[int, _Cut]] = {}  # by sandbox: what its child was asked for

    @property
    def busy(self) -> bool:
        """Whether `tick` is wanted again soon."""
        return bool(self._waiting) or not self._destroyer.idle

    def add(self, told: NetworkFlow) -> None:
        """What is cut while others of its sandbox are being destroyed goes with the next."""
        flow = self._flows.by_cookie.get(told.SocketCookie)
        if flow is None or flow.protocol not in (6, 17):
            return
        socket = Socket(
            flow.protocol, told.SourceIp, flow.local_port, told.DestinationIp, flow.remote_port, told.SocketCookie
        )
        self._wait(told.SandboxId, told.NetworkNamespace, _Cut(socket, told.ProcessId))

    def _wait(self, sandbox_id: int, namespace: int, cut: _Cut) -> None:
        waiting = self._waiting.setdefault((sandbox_id, namespace), {})
        if len(waiting) < MOST_WAITING:
            waiting[cut.socket.cookie] = cut
        else:
            self._metrics.count("pinfold_sockets_destroyed_total", ("failed",))

    def sweep(self, sandbox_id: int, cgroup_id: int) -> None:
        """Destroys what was made in that cgroup and is held by the sandbox: sockets that our hooks never saw, made by a
        process that had left, and passed back."""
        holders = self._processes.in_sandbox(sandbox_id)[-MOST_PROCESSES:]
        known = tuple((process.tgid, process.start_ns) for process in holders)
        self._destroyer.start(Request(sandbox_id, known, (), made_in=cgroup_id), time.monotonic_ns())

    def tick(self, now_ns: int) -> None:
        """Often while `busy`."""
        for response in self._destroyer.poll(now_ns):
            self._destroyed(response)
        for (sandbox_id, namespace), waiting in list(self._waiting.items()):
            if sandbox_id in self._asked:
                continue
            chosen = {cookie: waiting.pop(cookie) for cookie in list(waiting)[:MOST_SOCKETS]}
            if not waiting:
                del self._waiting[sandbox_id, namespace]
            self._destroy(sandbox_id, namespace, chosen, now_ns)

    def _destroy(self, sandbox_id: int, namespace: int, chosen: dict[int, _Cut], now_ns: int) -> None:
        makers = dict.fromkeys(cut.maker for cut in list(chosen.values())[:_HOLDERS])
        processes = [
            (process.tgid, process.start_ns)
            for process in (
                *map(self._processes.get, makers),
                *self._processes.in_sandbox(sandbox_id)[-_HOLDERS:],
            )
            if process is not None
        ]
        sockets = tuple(cut.socket for cut in chosen.values())
        if self._destroyer.start(Request(sandbox_id, tuple(processes), sockets, namespace), now_ns):
            self._asked[sandbox_id] = chosen
        else:
            self._metrics.count("pinfold_sockets_destroyed_total", ("failed",), len(chosen))

    def _destroyed(self, response: Response) -> None:
        request = response.request
        asked = self._asked.pop(request.sandbox_id, {}) if request.sockets else {}
        again: list[_Cut] = []
        for socket, result in zip(request.sockets, response.results, strict=True):
            cut = asked.get(socket.cookie)
            if result.late and cut is not None and cut.tries + 1 < TRIES:
                cut.tries += 1
                again.append(cut)
                continue
            self._metrics.count("pinfold_sockets_destroyed_total", (result.outcome,))
            self._told(
                f"the socket of a denied flow {_OUTCOMES[result.outcome]}" + (result.reason and f": {result.reason}"),
                SandboxId=request.sandbox_id,
                DestinationIp=socket.remote,
                DestinationPort=socket.remote_port,
                SocketCookie=socket.cookie,
            )
        for cut in again[1:] + again[:1]:  # the first is the one that kept the child: not again before the others
            self._wait(request.sandbox_id, request.net_namespace, cut)
        for result in response.swept:
            self._metrics.count("pinfold_sockets_destroyed_total", (result.outcome,))
            self._told(
                f"a socket made outside its sandbox's cgroup {_OUTCOMES[result.outcome]}"
                + (result.reason and f": {result.reason}"),
                SandboxId=request.sandbox_id,
                CgroupId=request.made_in,
            )
