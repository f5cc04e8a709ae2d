"""All detectors, fed in ring order: each activity goes to those that it concerns, and to nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from sensor.configdetect import DetectSettings
from sensor.detect.beacon import Beacon
from sensor.detect.cpu_burn import CpuBurn
from sensor.detect.dns_tunnel import DnsTunnel
from sensor.detect.fan_out import FanOut
from sensor.detect.flows import Flows
from sensor.detect.holding import Holding
from sensor.detect.idle_tunnel import IdleTunnel
from sensor.detect.mining import Mining
from sensor.detect.relay import Relay
from sensor.detect.reverse_shell import KINDS, ReverseShell
from sensor.detect.tun_flow import TunFlow
from sensor.detect.world import Inversion, World
from sensor.events.activity import (
    AnyActivity,
    DeviceAccess,
    DnsQuery,
    NetworkBehavior,
    NetworkConnection,
    NetworkFlow,
    NetworkProtocol,
    ProcessCreation,
    ProcessTermination,
    SandboxChange,
)

Behaviors = list[NetworkBehavior]
FIT = 7  # positions of records are multiples of 8
HELD = 64  # behaviours that did not fit behind their record: the next tick gives them

_NOTHING: Behaviors = []


class Detectors:
    """`busy`: `tick` is wanted in 100 ms rather than in a second. `counters`: what bounds dropped, by reason."""

    def __init__(self, settings: DetectSettings, world: World) -> None:
        self.counters: Counter[str] = Counter()
        most = settings.flows.sandboxes
        self._flows = Flows(settings.flows, self.counters)
        self._holding = Holding(world, settings.flows, self.counters)
        self._relay = Relay(settings.relay, most, world, self._holding, self.counters)
        self._reverse_shell = ReverseShell(settings.reverse_shell, most, world, self._holding, self.counters)
        self._beacon = Beacon(settings.beacon, most, world, self.counters)
        self._mining = Mining(settings.mining, most, world, self.counters)
        self._fan_out = FanOut(settings.fan_out, most, self.counters)
        self._idle_tunnel = IdleTunnel(settings.idle_tunnel, most, world, self.counters)
        self._tun_flow = TunFlow(settings.tun_flow, most, world, self.counters)
        self._dns_tunnel = DnsTunnel(settings.dns_tunnel)
        self._cpu_burn = CpuBurn(settings.cpu_burn, most, world, self.counters)
        self._held: Behaviors = []
        self._position = 0
        self._handlers: dict[type, Callable[[Any], Behaviors]] = {
            ProcessCreation: self._executed,
            ProcessTermination: self._left,
            NetworkConnection: self._connected,
            NetworkFlow: self._flow,
            NetworkProtocol: self._recognised,
            DnsQuery: self._dns_tunnel.observe,
            DeviceAccess: self._device,
            SandboxChange: self._changed,
        }

    @property
    def busy(self) -> bool:
        return self._relay.busy or self._reverse_shell.busy or bool(self._held)

    def observe(self, activity: AnyActivity | SandboxChange) -> Behaviors:
        """Every activity, in ring order. What it produces has its generation, and positions behind its own."""
        handler = self._handlers.get(type(activity))
        if handler is None:
            return _NOTHING
        produced = handler(activity)
        return self._numbered(produced, activity) if produced else produced

    def inversion(self, inversion: Inversion) -> Behaviors:
        table = self._flows.sandboxes.peek(inversion.SandboxId)
        flow = None if table is None else table.flows.get(inversion.cookie)
        if table is None or flow is None:
            self.counters["inversions_of_unknown_flows"] += 1
            return _NOTHING
        flow.counted(inversion)
        flow.inversions = max(flow.inversions, inversion.inversions)
        flow.last_ns = flow.last_inversion_ns = inversion.monotonic_ns
        table.touch(flow)
        self._mining.inversion(flow, inversion)
        self._reverse_shell.inversion(flow)
        produced = self._relay.inversion(table, flow, inversion)
        return self._numbered(produced, inversion) if produced else produced

    def tick(self, monotonic_ns: int, utc_ns: int) -> Behaviors:
        """About once a second, and about every 100 ms while `busy`. Generation 0, positions from the UTC time."""
        tables = self._flows.sandboxes
        produced, self._held = self._held, []
        produced += self._relay.tick(monotonic_ns)
        produced += self._reverse_shell.tick(tables, monotonic_ns)
        produced += self._beacon.tick(tables, monotonic_ns)
        produced += self._mining.tick(monotonic_ns)
        produced += self._idle_tunnel.tick(monotonic_ns)
        produced += self._dns_tunnel.tick(monotonic_ns, utc_ns)
        produced += self._cpu_burn.tick(monotonic_ns)
        numbered = []
        for behavior in produced:
            self._position = max(self._position + 1, utc_ns)
            numbered.append(replace(behavior, generation=0, position=self._position, time_ns=utc_ns))
        return numbered

    def _numbered(self, produced: Behaviors, cause: AnyActivity | SandboxChange | Inversion) -> Behaviors:
        for behavior in produced[FIT:]:
            if len(self._held) < HELD:
                self._held.append(behavior)
            else:
                self.counters["behaviors_dropped"] += 1
        return [
            replace(
                behavior, generation=cause.generation, position=cause.position + number, time_ns=cause.time_ns
            )
            for number, behavior in enumerate(produced[:FIT], 1)
        ]  # fmt: skip

    def _executed(self, event: ProcessCreation) -> Behaviors:
        if event.StandardInput not in KINDS and event.StandardOutput != "socket":
            return _NOTHING
        table = self._flows.sandboxes.get(event.SandboxId)
        self._holding.executed(table, event)
        return self._reverse_shell.executed(table, event)

    def _left(self, event: ProcessTermination) -> Behaviors:
        table = self._flows.sandboxes.peek(event.SandboxId)
        if table is not None:
            table.left(event.ProcessId)
            self._holding.left(event.SandboxId, event.ProcessId)
            self._reverse_shell.left(event.SandboxId, event.ProcessId)
        return _NOTHING

    def _connected(self, event: NetworkConnection) -> Behaviors:
        if event.Protocol != "unix":
            return self._fan_out.reached(event) if event.Initiated else _NOTHING
        table = self._flows.sandboxes.peek(event.SandboxId)
        return _NOTHING if table is None else self._relay.unix(table, event)

    def _flow(self, event: NetworkFlow) -> Behaviors:
        table, flow, new = self._flows.observe(event)
        produced = self._relay.told(event)
        if flow is None:
            return produced
        if flow.ended:
            self._beacon.ended(flow)
        if not new:
            return produced
        if flow.event.Initiated:
            produced = produced + self._fan_out.reached(event) + self._relay.began(table, flow, event)
        if flow.outward:
            self._reverse_shell.began(flow, event)
            produced = produced + self._beacon.began(flow) + self._tun_flow.began(flow, event)
        return produced

    def _recognised(self, event: NetworkProtocol) -> Behaviors:
        flow = self._flows.recognise(event)
        produced = self._mining.recognised(flow, event)
        self._idle_tunnel.recognised(flow, event)
        self._beacon.recognised(flow)
        produced = produced + self._relay.recognised(flow, event.monotonic_ns)
        produced += self._reverse_shell.recognised(flow, event.monotonic_ns)
        return produced + self._tun_flow.recognised(flow, event.monotonic_ns)

    def _device(self, event: DeviceAccess) -> Behaviors:
        if event.DeviceClass != "tun":
            return _NOTHING
        return self._tun_flow.opened(self._flows.sandboxes.get(event.SandboxId), event)

    def _changed(self, event: SandboxChange) -> Behaviors:
        if event.change == "ended":
            self._flows.sandboxes.forget(event.SandboxId)
            for detector in (
                self._holding, self._relay, self._reverse_shell, self._beacon, self._mining, self._fan_out,
                self._idle_tunnel, self._tun_flow, self._dns_tunnel, self._cpu_burn,
            ):  # fmt: skip
                detector.forget(event.SandboxId)
        return _NOTHING
