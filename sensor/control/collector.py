"""Renders snapshots of sensor.metrics as Prometheus text or OpenMetrics. In the api process only."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import Metric as Family
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sensor.metriclist import METRICS, Metric
from sensor.metrics import Histogram, Snapshot

MOST_ACCEPT = 512


class SnapshotCollector(Collector):
    """The core's snapshot and the api's own, as one page in the order of the table."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            if metric.kind == "histogram":
                yield from self._histogram(metric)
            else:
                yield from self._plain(metric)

    def _plain(self, metric: Metric) -> Iterator[Family]:
        family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        for snapshot in self._snapshots:
            if metric.name in snapshot.values:
                made = family(metric.name, metric.help, labels=metric.labels)
                for labels, value in snapshot.values[metric.name]:
                    made.add_metric(labels, value)
                yield made

    def _histogram(self, metric: Metric) -> Iterator[Family]:
        for snapshot in self._snapshots:
            if metric.name in snapshot.histograms:
                made = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, histogram in snapshot.histograms[metric.name]:
                    made.add_metric(labels, _cumulative(metric, histogram), histogram.sum)
                yield made


def render(accept: str, *snapshots: Snapshot) -> tuple[bytes, str]:
    """The page and its content type, as the Accept header wishes."""
    collector = SnapshotCollector(*snapshots)
    try:
        encode, content_type = choose_encoder(accept[:MOST_ACCEPT])
        return encode(collector), content_type
    except (ValueError, TypeError):  # a version that is no number, which the library does not expect
        return generate_latest(collector), CONTENT_TYPE_LATEST


def _cumulative(metric: Metric, histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
