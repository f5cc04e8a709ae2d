"""What the sensor does about networks besides reading records: names into the kernel's lists, sockets of denied flows
destroyed, living flows looked at, hosts files read, and the host as the detectors see it."""

from __future__ import annotations

import time
from collections.abc import Callable

from sensor.bpf.state import FlowState
from sensor.bpf.tables import Tables
from sensor.config import Config
from sensor.detect.detectors import Detectors
from sensor.detect.host import HostWorld
from sensor.detect.world import Counters, Living
from sensor.enrich.enricher import Enricher
from sensor.enrich.flowtable import Flow
from sensor.enrich.hostsfile import HostsFiles
from sensor.errors import RefusedError
from sensor.events.activity import Activity, AnyActivity, NetworkFlow, SandboxChange
from sensor.events.layouts import FlowFlag
from sensor.metrics import Metrics
from sensor.respond.egress import Change, EgressPolicy, NameGrants
from sensor.respond.sockets import MOST_PROCESSES, MOST_SOCKETS, Destroyer, Request, Response, Socket

CHECKED_AT_ONCE = 2048  # living flows, each second
SOUGHT_AT_ONCE = 4096  # places of the kernel's table, each second after a start: some 3 us each
MOST_CUTS = 4096  # sockets that wait to be destroyed, of one sandbox and namespace
_HOLDERS = 8
_OUTCOMES = {
    "destroyed": "was destroyed",
    "gone": "was gone already",
    "unsupported": "could not be destroyed",
    "failed": "could not be destroyed",
}


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
        self._sought = 0  # places of the kernel's table that were looked at since the start
        # By sandbox and network namespace: sockets of denied flows by cookie, each with its maker.
        self._cuts: dict[tuple[int, int], dict[int, tuple[Socket, int]]] = {}
        self._destroying: set[int] = set()  # sandboxes
        self._flows.policy.denied = self._denied
        self._flows.policy.granted = self._granted
        self.world = HostWorld(
            enricher.processes,
            self._counters,
            self._counters_at_dial,
            folder_of,
            self._policy.explicitly_allowed,
            is_gpu,
            lambda: [Living(one.id, one.name, one.class_) for one in enricher.sandboxes.live()],
        )
        self.detectors = Detectors(config.detect, self.world)

    @property
    def busy(self) -> bool:
        """Whether `tick` is wanted again soon."""
        return self._hosts.busy or bool(self._cuts) or not self._destroyer.idle

    def reload(self, config: Config) -> None:
        self._config = config
        classes = {sandbox.id: sandbox.class_ for sandbox in self._enricher.sandboxes.live()}
        self._write(self._grants.reload(config, classes))
        self._policy = EgressPolicy(config)
        self.world.allowed = self._policy.explicitly_allowed

    def observe(self, activity: AnyActivity | SandboxChange) -> None:
        """After an activity was told."""
        kind = type(activity)
        if kind is NetworkFlow:
            self._flow(activity)  # type: ignore[arg-type]
        elif kind is SandboxChange and activity.change == "ended":  # type: ignore[union-attr]
            self._write(self._grants.forget(activity.SandboxId))
            self._hosts.forget(activity.SandboxId)

    def sweep(self, sandbox_id: int, cgroup_id: int) -> None:
        """Destroys what was made in that cgroup and is held by the sandbox: sockets that our hooks never saw, made by a
        process that had left, and passed back."""
        holders = self._enricher.processes.in_sandbox(sandbox_id)[-MOST_PROCESSES:]
        known = tuple((process.tgid, process.start_ns) for process in holders)
        self._destroyer.start(Request(sandbox_id, known, (), made_in=cgroup_id), time.monotonic_ns())

    def tick(self, now_ns: int) -> None:
        """Often while `busy`."""
        self._hosts.poll()
        for response in self._destroyer.poll(now_ns):
            self._destroyed(response)
        self._destroy(now_ns)

    def each_second(self, now_ns: int) -> None:
        self._write(self._grants.expire(now_ns))
        flows = self._config.flows
        self._seek(flows.table)
        second = 1_000_000_000
        for flow in self._flows.table.due(
            now_ns, flows.sample_seconds * second, flows.idle_seconds * second, CHECKED_AT_ONCE
        ):
            self._tables.check_flow(flow.slot, flow.cookie)

    def _seek(self, size: int) -> None:
        """Flows that an earlier run of the sensor was told of: the kernel's table outlives it, and nothing else would
        have them looked at again, or end those of datagrams."""
        until = min(size, self._sought + SOUGHT_AT_ONCE)
        for slot in range(self._sought, until):
            state = self._tables.flow(slot)
            if state is not None and state.cookie and state.sandbox_id and state.told_ns:
                self._flows.table.find(of_state(state, slot))
        self._sought = until

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
            above = self._enricher.processes.lineage(process)[1 : 1 + _HOLDERS]
            self._hosts.request(
                flow.SandboxId, process.tgid, process.start_ns, tuple((one.tgid, one.start_ns) for one in above)
            )

    def _cut(self, told: NetworkFlow) -> None:
        """The kernel drops its packets; with the socket gone, its user and the peer know. What is cut while others of
        its sandbox are being destroyed goes with the next."""
        flow = self._flows.table.by_cookie.get(told.SocketCookie)
        if flow is None or flow.protocol not in (6, 17):
            return
        socket = Socket(
            flow.protocol, told.SourceIp, flow.local_port, told.DestinationIp, flow.remote_port, told.SocketCookie
        )
        waiting = self._cuts.setdefault((told.SandboxId, told.NetworkNamespace), {})
        if len(waiting) >= MOST_CUTS:
            self._metrics.count("pinfold_sockets_destroyed_total", ("failed",))
            return
        waiting[told.SocketCookie] = (socket, told.ProcessId)

    def _destroy(self, now_ns: int) -> None:
        """What was cut since, as many at once as one request holds."""
        for (sandbox_id, namespace), waiting in list(self._cuts.items()):
            if sandbox_id in self._destroying:
                continue
            chosen = [waiting.pop(cookie) for cookie in list(waiting)[:MOST_SOCKETS]]
            if not waiting:
                del self._cuts[sandbox_id, namespace]
            makers = dict.fromkeys(maker for _, maker in chosen[:_HOLDERS])
            processes = [
                (process.tgid, process.start_ns)
                for process in (
                    *map(self._enricher.processes.get, makers),
                    *self._enricher.processes.in_sandbox(sandbox_id)[-_HOLDERS:],
                )
                if process is not None
            ]
            request = Request(sandbox_id, tuple(processes), tuple(socket for socket, _ in chosen), namespace)
            if self._destroyer.start(request, now_ns):
                self._destroying.add(sandbox_id)
            else:
                self._metrics.count("pinfold_sockets_destroyed_total", ("failed",), len(chosen))

    def _destroyed(self, response: Response) -> None:
        self._destroying.discard(response.request.sandbox_id)
        for socket, result in zip(response.request.sockets, response.results, strict=True):
            self._metrics.count("pinfold_sockets_destroyed_total", (result.outcome,))
            self._told(
                f"the socket of a denied flow {_OUTCOMES[result.outcome]}" + (result.reason and f": {result.reason}"),
                SandboxId=response.request.sandbox_id,
                DestinationIp=socket.remote,
                DestinationPort=socket.remote_port,
                SocketCookie=socket.cookie,
            )

        for result in response.swept:
            self._metrics.count("pinfold_sockets_destroyed_total", (result.outcome,))
            self._told(
                f"a socket made outside its sandbox's cgroup {_OUTCOMES[result.outcome]}"
                + (result.reason and f": {result.reason}"),
                SandboxId=response.request.sandbox_id,
                CgroupId=response.request.made_in,
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


def of_state(state: FlowState, slot: int) -> Flow:
    return Flow(
        state.cookie, state.started_ns, slot, state.sandbox_id, state.tgid, state.exec_id, state.cgroup_id, state.inode,
        state.protocol, state.family, bool(state.flags & FlowFlag.INITIATED), state.local, state.remote,
        state.local_port, state.remote_port, checked_ns=state.told_ns, told=3 if all(state.done) else 0,
        adopted=bool(state.flags & FlowFlag.ADOPTED), heard_ns=state.told_ns,
    )  # fmt: skip
