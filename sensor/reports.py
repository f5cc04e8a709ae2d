"""What is told of the sensor: the numbers of each second, and what the api process asks."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from sensor import __version__
from sensor.bpf.tables import Losses
from sensor.enrich.enricher import Enricher
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.events.layouts import ABI
from sensor.kernel import Kernel
from sensor.metrics import Metrics
from sensor.pipeline import Pipeline
from sensor.rulecosts import RuleCosts
from sensor.rules.correlation.model import Correlation
from sensor.rules.cost import Cost
from sensor.rules.unit import Rule

# Counted by the probes, yet nothing is missing: the count stays in the kernel, or the event was sent in full.
HARMLESS = frozenset({"watermark", "repeats_full"})


MOST_DEAR = 8  # rules that the status names


def _encodable(text: str) -> str:
    """A path may hold any bytes, and JSON no lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _nothing(_sandbox_id: int) -> str:
    return ""


class Reports:
    """`most` bounds how many sandboxes are asked for. `sandboxes` and `rules` give JSON as bytes."""

    def __init__(self, kernel: Kernel, enricher: Enricher, pipeline: Pipeline, metrics: Metrics, most: int) -> None:
        self._kernel = kernel
        self._enricher = enricher
        self._pipeline = pipeline
        self._metrics = metrics
        self._most = most
        # Of a sandbox: the quarantine that holds it; "" of none.
        self.quarantine: Callable[[int], str] = _nothing
        self._rule_costs = RuleCosts(metrics, pipeline.log.add_notice)
        self._losses = Losses({}, {})
        self._told: dict[str, Counter[str]] = {"kernel": Counter(), "decode": Counter(), "enrich": Counter()}
        self._misses = 0
        self._written = 0
        self._peak = 0
        self.ring = 0, 0  # bytes used at most in the last second, and its size

    def started(self) -> None:
        metrics = self._metrics
        metrics.gauge("pinfold_build_info", (__version__, platform.release(), str(ABI)), 1)
        metrics.gauge("pinfold_start_time_seconds", (), time.time())
        metrics.gauge("pinfold_ring_size_bytes", (), self._kernel.ring.size)

    def rules_loaded(self, refused: int) -> None:
        engine = self._pipeline.engine
        self._metrics.gauge("pinfold_rules", ("loaded",), len(engine.all))
        self._metrics.gauge("pinfold_rules", ("refused",), refused)
        self._metrics.initialise("pinfold_detections_total", ((rule.id, rule.level) for rule in engine.all))

    def before_drain(self, used: int) -> None:
        """How full the ring was, of which the highest of each second is told: after a drain it is empty."""
        self._peak = max(self._peak, used)

    def each_second(self, armed: bool) -> None:
        metrics = self._metrics
        metrics.gauge("pinfold_enforcing", (), int(armed))
        metrics.gauge("pinfold_ring_used_bytes", (), self._peak)
        self.ring = self._peak, self._kernel.ring.size
        self._peak = 0
        metrics.gauge("pinfold_sandboxes", (), len(self._enricher.sandboxes))
        metrics.gauge("pinfold_processes", (), self._enricher.processes.living)
        metrics.gauge("pinfold_flows", (), len(self._enricher.flows.table.living))
        metrics.count("pinfold_log_bytes_total", (), self._pipeline.log.written - self._written)
        self._written = self._pipeline.log.written
        self._count_losses()
        for category, count in self._kernel.unsent().items():
            told = metrics.value("pinfold_events_unsent_total", (category,))
            metrics.count("pinfold_events_unsent_total", (category,), count - told)
        misses = self._kernel.tables.recursion_misses()
        metrics.count("pinfold_recursion_misses_total", (), misses - self._misses)
        self._misses = misses
        for rule, errors in self._pipeline.engine.errors.items():
            told = metrics.value("pinfold_rule_errors_total", (rule,))
            metrics.count("pinfold_rule_errors_total", (rule,), errors - told)
        self._rule_costs.each_second(self._pipeline.engine)
        for bound, dropped in self._pipeline.detectors.counters.items():
            told = metrics.value("pinfold_detector_bounds_total", (bound,))
            metrics.count("pinfold_detector_bounds_total", (bound,), dropped - told)

    def _count_losses(self) -> None:
        """The kernel's counts since its probes were loaded: what was lost while nobody read is told too."""
        self._losses = self._kernel.tables.losses(self._most)
        kernel = Counter(self._losses.total)
        for counts in self._losses.by_sandbox.values():
            kernel.update(counts)
        self._metrics.gauge("pinfold_sandboxes_unknown", (), sum(1 for s in self._live() if self.lost(s.id)))
        counters = self._enricher.counters
        enrich = Counter(
            sandboxes_full=counters["sandboxes_overflow"] + counters["births_untracked"],
            processes_full=counters["live_evicted"] + counters["existing_cut"],
        )
        for stage, now in (("kernel", kernel), ("decode", self._pipeline.decoder.counters), ("enrich", enrich)):
            before = self._told[stage]
            for reason, count in now.items():
                if count > before[reason]:
                    self._metrics.count("pinfold_events_lost_total", (stage, reason), count - before[reason])
                    before[reason] = count

    def summary(self) -> str:
        rules, sandboxes = len(self._pipeline.engine.all), len(self._enricher.sandboxes)
        return f"{rules} rules, {sandboxes} sandboxes, probes {self._kernel.generation.folder.name}"

    def status(self, armed: bool) -> dict[str, Any]:
        return {
            "version": __version__,
            "generation": f"{self._kernel.generation.number:x}",
            "armed": armed,
            "rules": len(self._pipeline.engine.all),
            "sandboxes": len(self._enricher.sandboxes),
            "lost": self._losses.total,
            "features": self._kernel.features,
            "dear": [f"{dear.rule.title}: {dear.reason}" for dear in self._pipeline.engine.dear()[:MOST_DEAR]],
        }

    def sandboxes(self) -> bytes:
        return msgspec.json.encode([self.row(sandbox) for sandbox in self._live()])

    def row(self, sandbox: Sandbox) -> dict[str, Any]:
        """`state` is unknown where events were lost: nothing can be said of it then; and where a sandbox has rights
        by which it could have hidden from the probes, no silence of theirs makes it clean."""
        lost = self.lost(sandbox.id)
        detections = self._pipeline.detections.get(sandbox.id, 0)
        return {
            "id": sandbox.id,
            "name": _encodable(sandbox.name),
            "class": sandbox.class_,
            "runtime": sandbox.runtime,
            "path": _encodable(sandbox.path),
            "processes": len(self._enricher.processes.in_sandbox(sandbox.id)),
            "detections": detections,
            "lost": lost,
            "tamperable": (tamperable := bool(self.tampered(sandbox.id))),
            "state": _state(detections, lost, tamperable),
            "quarantine": self.quarantine(sandbox.id),
        }

    def tampered(self, sandbox_id: int) -> str:
        """What of the sensor it could have tampered with; "" of one that could not."""
        guard = self._pipeline.guard
        return "bpf" if guard is not None and sandbox_id in guard.privileges.tamperable else ""

    def _live(self) -> list[Sandbox]:
        return self._enricher.sandboxes.live()

    def lost(self, sandbox_id: int) -> dict[str, int]:
        counts = self._losses.by_sandbox.get(sandbox_id, {})
        lost = {reason: count for reason, count in counts.items() if reason not in HARMLESS}
        files = self._pipeline.files
        return lost if files is None else lost | files.lost.get(sandbox_id, {})

    def rules(self) -> bytes:
        engine = self._pipeline.engine
        dear = {one.rule.id: one.reason for one in engine.dear()}
        costs: list[tuple[Rule | Correlation, Cost]] = [(rule, cost) for rule, cost, _ in engine.costs()]
        costs += [(correlation, Cost()) for correlation in engine.correlations]
        rows = [
            {
                "id": rule.id,
                "title": rule.title,
                "level": rule.level,
                "category": rule.category,
                "file": rule.file,
                "hits": engine.hits.get(rule.id, 0),
                "errors": engine.errors.get(rule.id, 0),
                "evaluations": cost.evaluations,
                "seconds": cost.seconds,
                "dear": dear.get(rule.id, ""),
            }
            for rule, cost in costs
        ]
        return msgspec.json.encode(rows)


def _state(detections: int, lost: dict[str, int], tamperable: bool) -> str:
    if detections:
        return "detected"
    if lost:
        return "unknown"
    return "tamperable" if tamperable else "clean"
