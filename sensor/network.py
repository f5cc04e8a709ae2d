"""What the sensor does about networks besides reading records: names into the kernel's lists, living flows looked at,
hosts files read, and the host as the detectors see it."""

from __future__ import annotations

from collections.abc import Callable

from sensor.bpf.state import FlowState
from sensor.bpf.tables import Tables
from sensor.config import Config
from sensor.cuts import Cuts
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

CHECKED_AT_ONCE = 2048  # living flows, each second
SOUGHT_AT_ONCE = 4096  # places of the kernel's table, each second after a start: some 3 us each
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
        self._flows = enricher.flows
        self._grants = NameGrants(config)
        self._policy = EgressPolicy(config)
        self._hosts = HostsFiles(enricher.names)
        self._sought = 0  # places of the kernel's table that were looked at since the start
        self._cuts = Cuts(self._flows.table, enricher.processes, metrics, told)
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
        return self._hosts.busy or self._cuts.busy

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
        """Destroys what was made in that cgroup and is held by the sandbox."""
        self._cuts.sweep(sandbox_id, cgroup_id)

    def tick(self, now_ns: int) -> None:
        """Often while `busy`."""
        self._hosts.poll()
        self._cuts.tick(now_ns)

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
            self._cuts.add(flow)
        if flow.Phase == "established" and not flow.DestinationHostname and not flow.DestinationIsLoopback:
            self._ask_hosts_file(flow)

    def _ask_hosts_file(self, flow: Activity) -> None:
        process = self._enricher.processes.get(flow.ProcessId)
        if process is not None and process.sandbox_id == flow.SandboxId:
            above = self._enricher.processes.lineage(process)[1 : 1 + _HOLDERS]
            self._hosts.request(
                flow.SandboxId, process.tgid, process.start_ns, tuple((one.tgid, one.start_ns) for one in above)
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
