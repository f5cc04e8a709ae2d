"""What the sensor does about networks besides reading records: names into the kernel's lists, sockets of denied flows
destroyed, living flows looked at, hosts files read, and the host as the detectors see it."""

from __future__ import annotations

from collections.abc import Callable

from sensor.bpf.tables import Tables
from sensor.config import Config
from sensor.detect.detectors import Detectors
from sensor.detect.host import HostWorld
from sensor.detect.world import Counters
from sensor.enrich.enricher import Enricher
from sensor.enrich.hostsfile import HostsFiles
from sensor.errors import RefusedError
from sensor.events.activity import Activity, AnyActivity, NetworkFlow, SandboxChange
from sensor.metrics import Metrics
from sensor.respond.egress import Change, EgressPolicy, NameGrants
from sensor.respond.sockets import Destroyer, Request, Response, Socket

CHECKED_AT_ONCE = 2048  # living flows, each second
_HOLDERS = 8


class Network:
    """`told(text, fields)` writes a notice into the log; `is_gpu(kind, major, minor)` knows device numbers."""

    def __init__(  # noqa: PLR0917 - what it joins
        self,
        config: Config,
        tables: Tables,
        enricher: Enricher,
        metrics: Metrics,
        folder_of: Callable[[int], str | None],
        is_gpu: Callable[[int, int, int], bool],
        told: Callable[..., None],
    ) -> None:
        self._config = config
        self._tables = tables
        self._enricher = enricher
        self._metrics = metrics
        self._told = told
        self._flows = enricher.flows
        self._grants = NameGrants(config)
        self._policy = EgressPolicy(config)
        self._hosts = HostsFiles(enricher.names)
        self._destroyer = Destroyer()
        self._flows.policy.denied = self._denied
        self._flows.policy.granted = self._granted
        self._world = HostWorld(
            enricher.processes,
            self._counters,
            self._counters_at_dial,
            folder_of,
            self._policy.explicitly_allowed,
            is_gpu,
        )
        self.detectors = Detectors(config.detect, self._world)

    @property
    def busy(self) -> bool:
        """Whether `tick` is wanted again soon."""
        return self._hosts.busy or not self._destroyer.idle

    def reload(self, config: Config) -> None:
        self._config = config
        classes = {sandbox.id: sandbox.class_ for sandbox in self._enricher.sandboxes.live()}
        self._write(self._grants.reload(config, classes))
        self._policy = EgressPolicy(config)
        self._world.allowed = self._policy.explicitly_allowed

    def observe(self, activity: AnyActivity | SandboxChange) -> None:
        """After an activity was told."""
        kind = type(activity)
        if kind is NetworkFlow:
            self._flow(activity)  # type: ignore[arg-type]
        elif kind is SandboxChange and activity.change == "ended":  # type: ignore[union-attr]
            self._write(self._grants.forget(activity.SandboxId))
            self._hosts.forget(activity.SandboxId)

    def tick(self, now_ns: int) -> None:
        """Often while `busy`."""
        self._hosts.poll()
        for response in self._destroyer.poll(now_ns):
            self._destroyed(response)

    def each_second(self, now_ns: int) -> None:
        self._write(self._grants.expire(now_ns))
        flows = self._config.flows
        second = 1_000_000_000
        for flow in self._flows.table.due(
            now_ns, flows.sample_seconds * second, flows.idle_seconds * second, CHECKED_AT_ONCE
        ):
            self._tables.check_flow(flow.slot, flow.cookie)

    def close(self) -> None:
        self._hosts.close()

    # Flows.

    def _flow(self, flow: NetworkFlow) -> None:
        if flow.EndReason == "cut":
            self._cut(flow)
        if flow.Phase == "established" and not flow.DestinationHostname and not flow.DestinationIsLoopback:
            self._ask_hosts_file(flow)

    def _ask_hosts_file(self, flow: Activity) -> None:
        process = self._enricher.processes.get(flow.ProcessId)
        if process is not None and process.sandbox_id == flow.SandboxId:
            self._hosts.request(flow.SandboxId, process.tgid, process.start_ns)

    def _cut(self, told: NetworkFlow) -> None:
        """The kernel drops its packets; with the socket gone, its user and the peer know."""
        flow = self._flows.table.by_cookie.get(told.SocketCookie)
        if flow is None or flow.protocol not in (6, 17):
            return
        processes = [
            (process.tgid, process.start_ns)
            for process in (
                self._enricher.processes.get(told.ProcessId),
                *self._enricher.processes.in_sandbox(told.SandboxId)[-_HOLDERS:],
            )
            if process is not None
        ]
        socket = Socket(
            flow.protocol, told.SourceIp, flow.local_port, told.DestinationIp, flow.remote_port, told.SocketCookie
        )
        request = Request(told.SandboxId, tuple(processes), (socket,), told.NetworkNamespace)
        if not self._destroyer.start(request, told.monotonic_ns):
            self._metrics.count("pinfold_sockets_destroyed_total", ("failed",))

    def _destroyed(self, response: Response) -> None:
        for socket, result in zip(response.request.sockets, response.results, strict=True):
            self._metrics.count("pinfold_sockets_destroyed_total", (result.outcome,))
            self._told(
                f"the socket of a denied flow was {result.outcome}" + (f": {result.reason}" if result.reason else ""),
                SandboxId=response.request.sandbox_id,
                DestinationIp=socket.remote,
                DestinationPort=socket.remote_port,
                SocketCookie=socket.cookie,
            )

    def _counters(self, cookie: int) -> Counters | None:
        known = self._flows.table.by_cookie.get(cookie)
        state = self._tables.flow(known.slot) if known is not None else None
        if state is None or state.cookie != cookie:
            return None
        return Counters(state.bytes_out, state.bytes_in, state.packets_out, state.packets_in, state.last_ns)

    def _counters_at_dial(self, inner: int, outer: int) -> Counters | None:
        known = self._flows.table.by_cookie.get(inner)
        if known is None or known.outer is None or known.outer[0] != outer:
            return None
        return Counters(*known.outer[1:], known.started_ns)

    # Policy.

    def _denied(self, sandbox_class: str, protocol: str) -> bool:
        settings = self._config.classes.get(sandbox_class) or self._config.classes["default"]
        return protocol in settings.denied_protocols

    def _granted(self, sandbox_class: str, sandbox_id: int, name: str, address: str, until_ns: int) -> None:
        self._write(self._grants.grant(sandbox_class, sandbox_id, name, address, until_ns))

    def _write(self, changes: list[Change]) -> None:
        for change in changes:
            try:
                self._tables.write_name(change.key, change.value)
            except RefusedError:  # no memory: the name stays refused, which is the safe side
                self._metrics.count("pinfold_names_unwritten_total")
