"""What the core tells of itself each second."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from sensor.bpf.tables import Losses
from sensor.metrics import Metrics
from sensor.reports import Reports


class Sandboxes:
    def live(self) -> list[Any]:
        return []

    def __len__(self) -> int:
        return 0


def test_what_detectors_dropped_is_told_once() -> None:
    dropped = Counter(flows_evicted=3)
    enricher: Any = SimpleNamespace(
        sandboxes=Sandboxes(),
        processes=SimpleNamespace(living=0),
        flows=SimpleNamespace(table=SimpleNamespace(living=())),
        counters=Counter(),
    )
    pipeline: Any = SimpleNamespace(
        log=SimpleNamespace(written=0, add_notice=lambda *_, **__: None),
        engine=SimpleNamespace(errors={}, costs=lambda: (), dear=list),
        decoder=SimpleNamespace(counters=Counter()),
        detectors=SimpleNamespace(counters=dropped),
    )
    tables = SimpleNamespace(losses=lambda most: Losses({}, {}), recursion_misses=lambda: 0)
    kernel: Any = SimpleNamespace(tables=tables, unsent=dict, ring=SimpleNamespace(size=4096))
    metrics = Metrics()
    reports = Reports(kernel, enricher, pipeline, metrics, 16)
    reports.each_second(armed=True)
    reports.each_second(armed=True)
    assert metrics.value("pinfold_detector_bounds_total", ("flows_evicted",)) == 3
    dropped["flows_evicted"] += 2
    reports.each_second(armed=True)
    assert metrics.value("pinfold_detector_bounds_total", ("flows_evicted",)) == 5
