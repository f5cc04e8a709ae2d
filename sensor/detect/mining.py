"""(d) Mining session: a Stratum dialect, or a long thin flow on which a server pushes while the sandbox computes.

The shape alone also fits a training job with a dashboard: so what the flow speaks counts, and the GPU's holder is asked
for only where the rest is there already. Reads counters and cpu.stat of at most `flows` flows a sandbox.
"""

from __future__ import annotations

from collections import Counter

from sensor.configdetect import MiningSettings
from sensor.detect.behavior import behavior, processes, total
from sensor.detect.bounded import SECOND_NS, Levels, PerSandbox
from sensor.detect.flows import Flow
from sensor.detect.world import Inversion, World
from sensor.events.activity import NetworkBehavior, NetworkProtocol

_BY_PROTOCOL = {"stratum": "stratum", "getblocktemplate": "getblocktemplate", "stratum2": "uncertain"}


class _Pushed:
    """A flow on which data came in first, more than once."""

    __slots__ = ("bytes_in", "cpu_ns", "flow", "pushes", "since_ns", "small")

    def __init__(self, flow: Flow, since_ns: int, cpu_ns: int | None) -> None:
        self.flow = flow
        self.since_ns = since_ns
        self.cpu_ns = cpu_ns
        self.bytes_in = 0
        self.pushes = 0
        self.small = 0


class _Sandbox:
    def __init__(self, settings: MiningSettings) -> None:
        self.pushed: dict[int, _Pushed] = {}
        self.levels = Levels(settings.marks, 128, settings.events_an_hour)


class Mining:
    def __init__(self, settings: MiningSettings, sandboxes: int, world: World, counters: Counter[str]) -> None:
        self._settings = settings
        self._world = world
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(lambda: _Sandbox(settings), sandboxes, counters, "mining")
        self._next_ns = 0

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)

    def recognised(self, flow: Flow, event: NetworkProtocol) -> list[NetworkBehavior]:
        setting = _BY_PROTOCOL.get(event.ApplicationProtocol)
        if setting is None:
            return []
        points = getattr(self._settings, setting if event.Certain else "uncertain")
        return self._tell(event.SandboxId, flow, {"protocol": points}, event.monotonic_ns, event)

    def inversion(self, flow: Flow, inversion: Inversion) -> None:
        if not flow.outward:
            return
        pushed = self._sandboxes.get(inversion.SandboxId).pushed
        known = pushed.get(flow.cookie)
        if known is None:
            if len(pushed) >= self._settings.flows:
                # The one with fewest pushes: a flood of new flows has one each.
                fewest = min(pushed.values(), key=lambda one: one.pushes)
                del pushed[fewest.flow.cookie]
                self._counters["mining_flows_evicted"] += 1
            cpu_ns = self._world.cpu_usage_ns(inversion.SandboxId)
            known = pushed[flow.cookie] = _Pushed(flow, inversion.monotonic_ns, cpu_ns)
        # The record has the first segment's length; how much was pushed, the next one's counters tell.
        known.small += known.pushes > 0 and inversion.bytes_in - known.bytes_in <= self._settings.push_bytes
        known.bytes_in = inversion.bytes_in
        known.pushes += 1

    def tick(self, now_ns: int) -> list[NetworkBehavior]:
        if now_ns < self._next_ns:
            return []
        self._next_ns = now_ns + self._settings.every_s * SECOND_NS
        produced = []
        for sandbox_id, sandbox in self._sandboxes.items():
            for cookie, pushed in list(sandbox.pushed.items()):
                if pushed.flow.ended:
                    del sandbox.pushed[cookie]
                elif now_ns - pushed.flow.started_ns >= self._settings.age_s * SECOND_NS:
                    produced += self._weigh(sandbox_id, pushed, now_ns)
        return produced

    def _weigh(self, sandbox_id: int, pushed: _Pushed, now_ns: int) -> list[NetworkBehavior]:
        settings, flow = self._settings, pushed.flow
        if pushed.pushes < settings.pushes or pushed.small * 100 < (pushed.pushes - 1) * settings.push_small_percent:
            return []
        flow.read(self._world)
        age_s = (now_ns - flow.started_ns) // SECOND_NS
        percent = self._cpu(sandbox_id, pushed, now_ns)  # of one CPU
        parts = {
            "pushed": settings.pushed,
            "long": settings.long,
            "slow": settings.slow * (flow.bytes_in + flow.bytes_out <= settings.rate_bytes_s * age_s),
            "cpu": settings.cpu * (percent >= settings.cpu_percent),
            "cpu_all": settings.cpu_all * (percent >= settings.cpu_busy_percent * self._world.cpus()),
            "wire": 0 if flow.http else settings.wire,
            "request_response": settings.request_response if flow.http else 0,
        }
        gpu = total(parts) >= settings.ask_gpu_from and self._world.gpu_held(sandbox_id, flow.tgid)
        parts["gpu"] = settings.gpu * gpu
        if not (parts["cpu"] or gpu):
            return []
        share = percent // max(1, self._world.cpus())
        return self._tell(
            sandbox_id, flow, parts, now_ns, None, CpuPercent=share, GpuHeld=gpu, Repetitions=pushed.pushes
        )

    def _cpu(self, sandbox_id: int, pushed: _Pushed, now_ns: int) -> int:
        usage_ns = self._world.cpu_usage_ns(sandbox_id)
        if usage_ns is None or pushed.cpu_ns is None:
            pushed.cpu_ns, pushed.since_ns = usage_ns, now_ns
            return 0
        return max(0, usage_ns - pushed.cpu_ns) * 100 // max(1, now_ns - pushed.since_ns)

    def _tell(
        self, sandbox_id: int, flow: Flow, parts: dict[str, int], now_ns: int, event: NetworkProtocol | None,
        **evidence: int,
    ) -> list[NetworkBehavior]:  # fmt: skip
        levels = self._sandboxes.get(sandbox_id).levels
        if not levels.passes(flow.cookie, total(parts), now_ns, self._counters):
            return []
        if event is not None:
            evidence["GpuHeld"] = self._world.gpu_held(sandbox_id, flow.tgid)
        accused = event or flow.event
        holders = processes([flow.tgid, *flow.holders])
        return [behavior("mining_session", accused, parts, now_ns, flow, HolderProcessIds=holders, **evidence)]
