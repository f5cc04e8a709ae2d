"""(f) Idle tunnel: a tunnel's protocol to where the egress list does not lead, kept alive and otherwise silent.

Nothing is relayed yet, so that no other detector sees it: what tells is that somebody wants it to stay.
"""

from __future__ import annotations

from collections import Counter

from sensor.configdetect import IdleTunnelSettings
from sensor.detect.behavior import behavior, processes, total
from sensor.detect.bounded import SECOND_NS, Levels, PerSandbox
from sensor.detect.flows import TUNNELS, Flow, trusted_name
from sensor.detect.world import World
from sensor.events.activity import NetworkBehavior, NetworkProtocol


class _Held:
    __slots__ = ("bytes", "flow", "quiet_ns", "read_ns")

    def __init__(self, flow: Flow, now_ns: int) -> None:
        self.flow = flow
        self.bytes = 0
        self.read_ns = now_ns
        self.quiet_ns = now_ns  # since when only keep-alives came


class _Sandbox:
    def __init__(self, settings: IdleTunnelSettings) -> None:
        self.held: dict[int, _Held] = {}
        self.levels = Levels(settings.marks, 128, settings.events_an_hour)


class IdleTunnel:
    def __init__(self, settings: IdleTunnelSettings, sandboxes: int, world: World, counters: Counter[str]) -> None:
        self._settings = settings
        self._world = world
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(
            lambda: _Sandbox(settings), sandboxes, counters, "idle_tunnel"
        )
        self._next_ns = 0

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)

    def recognised(self, flow: Flow, event: NetworkProtocol) -> None:
        if event.ApplicationProtocol not in TUNNELS or not flow.outward or event.DestinationIsPrivate:
            return
        held = self._sandboxes.get(event.SandboxId).held
        if flow.cookie in held or self._world.egress_allowed(
            event.SandboxClass, event.DestinationIp, event.DestinationPort, trusted_name(event)
        ):
            return
        if len(held) >= self._settings.flows:
            # The youngest: a flood must not push out what has stayed.
            del held[next(reversed(held))]
            self._counters["idle_tunnels_evicted"] += 1
        held[flow.cookie] = _Held(flow, event.monotonic_ns)

    def tick(self, now_ns: int) -> list[NetworkBehavior]:
        if now_ns < self._next_ns:
            return []
        self._next_ns = now_ns + self._settings.every_s * SECOND_NS
        produced = []
        for _, sandbox in self._sandboxes.items():
            for cookie, held in list(sandbox.held.items()):
                if held.flow.ended:
                    del sandbox.held[cookie]
                else:
                    produced += self._weigh(sandbox, held, now_ns)
        return produced

    def _weigh(self, sandbox: _Sandbox, held: _Held, now_ns: int) -> list[NetworkBehavior]:
        settings, flow = self._settings, held.flow
        out, in_, _, _ = flow.read(self._world)
        moved, held.bytes = out + in_ - held.bytes, out + in_
        lapsed_ns, held.read_ns = now_ns - held.read_ns, now_ns
        if moved * settings.every_s * SECOND_NS > settings.keepalive_bytes * max(
            lapsed_ns, settings.every_s * SECOND_NS
        ):
            held.quiet_ns = now_ns
        age_s, quiet_s = (now_ns - flow.started_ns) // SECOND_NS, (now_ns - held.quiet_ns) // SECOND_NS
        if age_s < settings.age_s or quiet_s < settings.quiet_s:
            return []
        parts = {
            "protocol": settings.protocol,
            "uncertain": 0 if flow.tunnel else settings.uncertain,
            "quiet": settings.quiet,
            "long": settings.long * (age_s >= settings.long_s),
            "very_long": settings.very_long * (age_s >= settings.very_long_s),
        }
        if not sandbox.levels.passes(flow.cookie, total(parts), now_ns, self._counters):
            return []
        return [behavior("idle_tunnel", flow.event, parts, now_ns, flow, HolderProcessIds=processes([flow.tgid]))]
