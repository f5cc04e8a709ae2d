"""CPU burnt for hours: a sandbox that keeps a CPU busy without a pause, most of it in one program, whatever that says
to whom. A miner whose pool is not seen looks so, and a training run does: how long, and how much, is all there is.

Reads cpu.stat of every sandbox once in `every_s`, some at each tick; /proc only of one that is to be told of.
"""

from __future__ import annotations

from collections import Counter

from sensor.configdetect import CpuBurnSettings
from sensor.detect.behavior import behavior, processes, total
from sensor.detect.bounded import SECOND_NS, Levels, PerSandbox
from sensor.detect.world import Busiest, Living, World
from sensor.events.activity import NetworkBehavior

AT_ONCE = 256  # sandboxes a tick: some 15 us each


class _Sandbox:
    """A streak of busy samples: since when, from which usage on, and how many of its samples were weak."""

    __slots__ = ("at_ns", "base_ns", "levels", "samples", "since_ns", "usage_ns", "weak")

    def __init__(self, settings: CpuBurnSettings) -> None:
        self.levels = Levels(settings.marks, 1, settings.events_an_hour)
        self.at_ns = self.usage_ns = 0
        self.begin()

    def begin(self) -> None:
        self.since_ns, self.base_ns = self.at_ns, self.usage_ns
        self.samples = self.weak = 0


class CpuBurn:
    def __init__(self, settings: CpuBurnSettings, sandboxes: int, world: World, counters: Counter[str]) -> None:
        self._settings = settings
        self._world = world
        self._counters = counters
        self._sandboxes: PerSandbox[_Sandbox] = PerSandbox(lambda: _Sandbox(settings), sandboxes, counters, "cpu_burn")
        self._due: list[Living] = []
        self._next_ns = 0

    def forget(self, sandbox_id: int) -> None:
        self._sandboxes.forget(sandbox_id)

    def tick(self, now_ns: int) -> list[NetworkBehavior]:
        if not self._due:
            if now_ns < self._next_ns:
                return []
            self._next_ns = now_ns + self._settings.every_s * SECOND_NS
            self._due = list(self._world.sandboxes())
        produced = []
        for living in self._due[:AT_ONCE]:
            produced += self._look(living, now_ns)
        del self._due[:AT_ONCE]
        return produced

    def _look(self, living: Living, now_ns: int) -> list[NetworkBehavior]:
        usage_ns = self._world.cpu_usage_ns(living.id)
        if usage_ns is None:
            return []
        sandbox, settings = self._sandboxes.get(living.id), self._settings
        first, elapsed = not sandbox.at_ns, max(1, now_ns - sandbox.at_ns)
        weak = (usage_ns - sandbox.usage_ns) * 100 < settings.core_percent * elapsed
        sandbox.at_ns, sandbox.usage_ns = now_ns, usage_ns
        sandbox.samples += 1
        sandbox.weak += weak
        if first or sandbox.weak * 100 > sandbox.samples * (100 - settings.steady_percent):
            sandbox.begin()
            return []
        if now_ns - sandbox.since_ns < settings.age_s * SECOND_NS:
            return []
        return self._weigh(living, sandbox)

    def _weigh(self, living: Living, sandbox: _Sandbox) -> list[NetworkBehavior]:
        settings, now_ns = self._settings, sandbox.at_ns
        age_ns, used_ns = max(1, now_ns - sandbox.since_ns), sandbox.usage_ns - sandbox.base_ns
        busiest: Busiest | None = self._world.busiest(living)
        if busiest is None:
            return []
        percent = used_ns * 100 // (age_ns * max(1, self._world.cpus()))
        parts = {
            "long": settings.long,
            "very_long": settings.very_long * (age_ns >= settings.very_long_s * SECOND_NS),
            "single": settings.single * (busiest.cpu_ns * 100 >= used_ns * settings.single_percent),
            "cpu_all": settings.cpu_all * (percent >= settings.cpu_all_percent),
        }
        if not sandbox.levels.passes(living.id, total(parts), now_ns, self._counters):
            return []
        tgid = busiest.accused.ProcessId
        return [
            behavior(
                "cpu_burn", busiest.accused, parts, now_ns, None, CpuPercent=min(100, percent),
                DurationMs=age_ns // 10**6, GpuHeld=self._world.gpu_held(living.id, tgid),
                HolderProcessIds=processes([tgid]),
            )
        ]  # fmt: skip
