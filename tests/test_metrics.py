from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from sensor.events.layouts import Loss
from sensor.metriclist import BY_NAME, LATENCY_BUCKETS, METRICS
from sensor.metrics import Metrics, decode


def test_every_name_is_a_good_one() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("pinfold_")
        assert metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_seconds") == (metric.kind == "histogram" or "time" in metric.name)
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert len(metric.values) == len(metric.labels)


def test_known_series_are_there_from_the_start() -> None:
    values = decode(Metrics().snapshot()).values
    assert dict(values["pinfold_responses_total"])["kill", "never_touch"] == 0
    lost = dict(values["pinfold_events_lost_total"])
    assert {("kernel", loss.name.lower()) for loss in Loss if loss is not Loss.REASONS} <= set(lost)
    assert ("log", "ring_full") not in lost
    assert dict(values["pinfold_log_bytes_total"]) == {(): 0}


def test_core_and_api_count_apart() -> None:
    core, api = Metrics(), Metrics("api")
    assert not set(decode(core.snapshot()).values) & set(decode(api.snapshot()).values)
    with pytest.raises(KeyError):
        core.count("pinfold_api_refused_total", ("busy",))


def test_counts_gauges_and_histograms_survive_the_snapshot() -> None:
    metrics = Metrics()
    metrics.count("pinfold_events_total", ("device_access",))
    metrics.count("pinfold_events_total", ("device_access",), 2**40)
    metrics.gauge("pinfold_sandboxes", (), 7)
    for seconds in (0.0001, 0.00011, 3.0, 99.0):
        metrics.observe("pinfold_response_latency_seconds", seconds)
    snapshot = decode(metrics.snapshot())
    assert dict(snapshot.values["pinfold_events_total"])["device_access",] == 2**40 + 1
    assert dict(snapshot.values["pinfold_sandboxes"]) == {(): 7}
    ((_, histogram),) = snapshot.histograms["pinfold_response_latency_seconds"]
    assert histogram.counts[0] == 1  # a bound belongs to its bucket
    assert histogram.counts[1] == 1
    assert histogram.counts[LATENCY_BUCKETS.index(5.0)] == 1
    assert histogram.counts[-1] == 1
    assert histogram.sum == pytest.approx(102.00021)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("pinfold_events_total", ()),
        ("pinfold_events_total", ("a", "b")),
        ("pinfold_log_bytes_total", ("a",)),
        ("pinfold_responses_total", ("kill",)),
    ],
)
def test_a_wrong_number_of_labels_raises(name: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=name):
        Metrics().count(name, labels)


def test_an_undeclared_name_or_kind_raises() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.count("pinfold_surprises_total")
    with pytest.raises(KeyError):
        metrics.count("pinfold_sandboxes")
    with pytest.raises(KeyError):
        metrics.gauge("pinfold_log_bytes_total", (), 1)
    with pytest.raises(KeyError):
        metrics.observe("pinfold_sandboxes", 1.0)


def test_an_unknown_value_is_told_as_unknown() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.count("pinfold_connects_total", ("teleported",))
    assert metrics.value("pinfold_connects_total", ("unknown",)) == 3
    assert metrics.value("pinfold_connects_total", ("teleported",)) == 0


def test_series_are_bounded_and_nothing_is_uncounted() -> None:
    metrics = Metrics()
    most = BY_NAME["pinfold_rule_errors_total"].most
    for number in range(most + 10):
        metrics.count("pinfold_rule_errors_total", (f"rule {number}",))
    series = dict(decode(metrics.snapshot()).values["pinfold_rule_errors_total"])
    assert len(series) == most + 1
    assert series["unknown",] == 10
    assert sum(series.values()) == most + 10
    assert metrics.value("pinfold_series_overflow_total", ("pinfold_rule_errors_total",)) == 10


def test_a_free_value_is_bounded_and_can_be_encoded() -> None:
    metrics = Metrics()
    metrics.count("pinfold_rule_errors_total", ("\udcff" + "x" * 1000,))
    metrics.count("pinfold_rule_errors_total", ("",))
    assert metrics.value("pinfold_rule_errors_total", ("?" + "x" * 127,)) == 1
    assert metrics.value("pinfold_rule_errors_total", ("unknown",)) == 1
    assert decode(metrics.snapshot())


def test_a_tally_is_counted_like_anything_else_and_once() -> None:
    metrics = Metrics()
    metrics.count("pinfold_connects_total", ("allowed",), 2)
    tally = metrics.tally("pinfold_connects_total")
    tally["allowed"] += 3
    tally["no verdict"] += 1
    assert metrics.tally("pinfold_connects_total") is tally
    assert metrics.value("pinfold_connects_total", ("allowed",)) == 5
    tally["allowed"] += 1
    series = dict(decode(metrics.snapshot()).values["pinfold_connects_total"])
    assert (series["allowed",], series["unknown",]) == (6, 1)
    for name in ("pinfold_detections_total", "pinfold_log_bytes_total", "pinfold_sandboxes"):
        with pytest.raises(ValueError, match="no counter with one label"):
            metrics.tally(name)


def test_initialise_makes_a_first_increase_visible() -> None:
    metrics = Metrics()
    metrics.initialise("pinfold_detections_total", [("r1", "high")])
    assert dict(decode(metrics.snapshot()).values["pinfold_detections_total"]) == {("r1", "high"): 0}
    metrics.count("pinfold_detections_total", ("r1", "high"))
    metrics.initialise("pinfold_detections_total", [("r1", "high")])
    assert metrics.value("pinfold_detections_total", ("r1", "high")) == 1


def test_other_bytes_are_no_snapshot() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(b"\x93\x01\x02\x03")


def test_the_core_carries_no_http() -> None:
    source = (
        "import sys, sensor.metrics, sensor.control.link, sensor.respond.responder\n"
        "print(*{'asyncio', 'aiohttp', 'prometheus_client', 'http', 'email', 'ssl', 'subprocess', 'logging'}\n"
        "      & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
