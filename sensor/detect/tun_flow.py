"""(g) A tun device opened together with an outward flow, in either order: a VPN without the kernel's help.

What comes through the device is dialled by the sandbox's own kernel, so that no inner flow shows: this pair is the
whole sight of it.
"""

from __future__ import annotations

from collections import Counter

from sensor.configdetect import TunFlowSettings
from sensor.detect.behavior import behavior, processes, total
from sensor.detect.bounded import SECOND_NS, Levels, PerSandbox
from sensor.detect.flows import Flow, FlowTable
from sensor.detect.world import World
from sensor.events.activity import DeviceAccess, NetworkBehavior, NetworkFlow

_GOT = frozenset({"allowed", "would_refuse"})
_INSIDE = frozenset({"wireguard", "openvpn", "dns"})


class _Sandbox:
    def __init__(self, settings: TunFlowSettings) -> None:
        self.opened: dict[int, DeviceAccess] = {}
        self.levels = Levels(settings.marks, 128, settings.events_an_hour)


class TunFlow:
    def __init__(self, settings: TunFlowSettings, sandboxes: int, world: World, counters: Counter[str]) -> None:
        self._settings = settings
        self._world = world
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(lambda: _Sandbox(settings), sandboxes, counters, "tun_flow")

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)

    def opened(self, table: FlowTable, event: DeviceAccess) -> list[NetworkBehavior]:
        """One that was refused goes nowhere."""
        if event.Verdict not in _GOT or event.PriorVerdict == "refused":
            return []
        if "read" not in event.Access and "write" not in event.Access:
            return []
        sandbox = self._sandboxes.get(event.SandboxId)
        sandbox.opened.pop(event.ProcessId, None)
        if len(sandbox.opened) >= self._settings.opens:
            del sandbox.opened[next(iter(sandbox.opened))]
            self._counters["tun_opens_evicted"] += 1
        sandbox.opened[event.ProcessId] = event
        produced = []
        about = self._about(event.ProcessId)
        for flow in table.flows.values():
            if flow.outward and not self._apart(event, flow):
                points = about.get(flow.tgid, 0)
                if not points and self._world.parent(flow.tgid) == event.ProcessId:
                    points = self._settings.related
                if points:
                    produced += self._pair(sandbox, event, flow, points, event.monotonic_ns)
        return produced

    def began(self, flow: Flow, event: NetworkFlow) -> list[NetworkBehavior]:
        """An outward flow."""
        sandbox = self._sandboxes.peek(event.SandboxId)
        if sandbox is None or not sandbox.opened:
            return []
        about = self._about(event.ProcessId)
        for tgid, opened in sandbox.opened.items():
            if (points := about.get(tgid)) is None:
                points = self._about(tgid).get(event.ProcessId)
            if points is not None:
                return self._pair(sandbox, opened, flow, points, event.monotonic_ns)
        return []

    def recognised(self, flow: Flow, now_ns: int) -> list[NetworkBehavior]:
        """First bytes may raise what was told of it."""
        sandbox = self._sandboxes.peek(flow.event.SandboxId)
        opened = None if sandbox is None else sandbox.opened.get(flow.tgid)
        if sandbox is None or opened is None or not flow.outward or flow.application not in _INSIDE:
            return []
        return self._pair(sandbox, opened, flow, self._settings.same, now_ns)

    def _about(self, tgid: int) -> dict[int, int]:
        """Processes that count as one with it, and their points."""
        about: dict[int, int] = {}
        parent = self._world.parent(tgid)
        if parent:
            about[parent] = self._settings.related
        about.update(dict.fromkeys(self._world.family(tgid), self._settings.same))
        about[tgid] = self._settings.same
        return about

    def _apart(self, opened: DeviceAccess, flow: Flow) -> bool:
        return abs(flow.started_ns - opened.monotonic_ns) > self._settings.window_s * SECOND_NS

    def _pair(
        self, sandbox: _Sandbox, opened: DeviceAccess, flow: Flow, points: int, now_ns: int
    ) -> list[NetworkBehavior]:
        if self._apart(opened, flow):
            return []
        parts = {
            "tun": self._settings.tun,
            "process": points,
            "public": 0 if flow.event.DestinationIsPrivate else self._settings.public,
            "protocol": self._settings.protocol if flow.application in _INSIDE else 0,
        }
        if not sandbox.levels.passes(flow.peer, total(parts), now_ns, self._counters):
            return []
        holders = processes([flow.tgid, opened.ProcessId])
        return [behavior("tun_flow", opened, parts, now_ns, flow, HolderProcessIds=holders)]
