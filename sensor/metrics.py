"""The store that the core counts in: every metric of `sensor/metriclist.py`.

It knows no HTTP and no prometheus_client, which the core must not carry: it gives a snapshot
as bytes, and sensor.control.collector renders that in the api process. An undeclared name, a wrong
kind or a wrong number of labels is a programmer's error and raises at once. A label's value that is
not declared is told as `unknown`, and a metric whose free labels outgrow `most` series counts further
ones in its `unknown` series: however hostile the input, Prometheus gets a bounded number of series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Literal

import msgspec
from msgspec import Struct

from sensor.metriclist import BY_NAME, METRICS, Metric

UNKNOWN = "unknown"
VALUE_LENGTH = 128

Labels = tuple[str, ...]


class Histogram(Struct, array_like=True):
    """`counts` of each bucket by itself, the last one being above all bounds; `sum` in seconds."""

    counts: list[int]
    sum: float = 0.0


class Snapshot(Struct, array_like=True):
    """Everything that was counted, by metric name; a pair a series."""

    values: dict[str, list[tuple[Labels, int | float]]]
    histograms: dict[str, list[tuple[Labels, Histogram]]]


class Metrics:
    """The store of one process. Not for several threads."""

    def __init__(self, owner: Literal["core", "api"] = "core") -> None:
        mine = [metric for metric in METRICS if metric.owner == owner]
        self._counters: dict[str, dict[Labels, int | float]] = {m.name: {} for m in mine if m.kind == "counter"}
        self._gauges: dict[str, dict[Labels, int | float]] = {m.name: {} for m in mine if m.kind == "gauge"}
        self._histograms: dict[str, dict[Labels, Histogram]] = {m.name: {} for m in mine if m.kind == "histogram"}
        self._tallies: dict[str, defaultdict[str, int]] = {}
        for metric in mine:
            if metric.kind == "counter":
                self.initialise(metric.name, metric.series or product(*metric.values))
        for name, series in self._histograms.items():
            if not BY_NAME[name].labels:
                series[()] = _empty(BY_NAME[name])

    def initialise(self, name: str, series: Iterable[Labels]) -> None:
        """Counters that shall be there with 0, so that a first increase is seen: say each loaded rule's."""
        counters = self._counters[name]
        for labels in series:
            counters.setdefault(self._known(BY_NAME[name], labels, counters), 0)

    def count(self, name: str, labels: Labels = (), by: int | float = 1) -> None:
        series = self._counters[name]
        try:
            series[labels] += by
        except KeyError:
            labels = self._known(BY_NAME[name], labels, series)
            series[labels] = series.get(labels, 0) + by

    def tally(self, name: str) -> defaultdict[str, int]:
        """Of a counter with one label, what its owner counts by that label's value without a call for each event."""
        if len(BY_NAME[name].labels) != 1 or name not in self._counters:
            raise ValueError(f"{name} is no counter with one label")
        return self._tallies.setdefault(name, defaultdict(int))

    def gauge(self, name: str, labels: Labels, value: float) -> None:
        series = self._gauges[name]
        if labels not in series:
            labels = self._known(BY_NAME[name], labels, series)
        series[labels] = value

    def observe(self, name: str, seconds: float, labels: Labels = ()) -> None:
        series = self._histograms[name]
        metric = BY_NAME[name]
        histogram = series.get(labels)
        if histogram is None:
            labels = self._known(metric, labels, series)
            histogram = series.setdefault(labels, _empty(metric))
        histogram.counts[bisect_left(metric.buckets, seconds)] += 1
        histogram.sum += seconds

    def value(self, name: str, labels: Labels = ()) -> int | float:
        """Of a counter or a gauge; 0 where nothing was counted."""
        self._gather()
        return (self._counters.get(name) or self._gauges.get(name) or {}).get(labels, 0)

    def snapshot(self) -> bytes:
        """A Snapshot as MessagePack."""
        self._gather()
        return msgspec.msgpack.encode(
            Snapshot(
                {
                    name: list(series.items())
                    for group in (self._counters, self._gauges)
                    for name, series in group.items()
                },
                {name: list(series.items()) for name, series in self._histograms.items()},
            )
        )

    def _gather(self) -> None:
        for name, tally in self._tallies.items():
            for value, by in tally.items():
                self.count(name, (value,), by)
            tally.clear()

    def _known(self, metric: Metric, labels: Labels, series: Mapping[Labels, object]) -> Labels:
        """The labels to count under."""
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has labels {metric.labels}, not {labels!r}")
        known = tuple(
            _printable(value) if not declared or value in declared else UNKNOWN
            for value, declared in zip(labels, metric.values or ((),) * len(labels), strict=True)
        )
        if known in series or len(series) < metric.most:
            return known
        self.count("pinfold_series_overflow_total", (metric.name,))
        return (UNKNOWN,) * len(metric.labels)


def decode(snapshot: bytes) -> Snapshot:
    """:raises msgspec.DecodeError: these are not the bytes of a snapshot."""
    return msgspec.msgpack.decode(snapshot, type=Snapshot)


def _empty(metric: Metric) -> Histogram:
    return Histogram([0] * (len(metric.buckets) + 1))


def _printable(value: str) -> str:
    """Bounded, and Unicode that can be encoded."""
    return value[:VALUE_LENGTH].encode("utf-8", "replace").decode("utf-8") if value else UNKNOWN
