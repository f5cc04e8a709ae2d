from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sensor.control.collector import render
from sensor.metriclist import LATENCY_BUCKETS, METRICS
from sensor.metrics import Metrics, Snapshot, decode

NONE: frozenset[str] = frozenset()


@pytest.fixture
def snapshots() -> tuple[Snapshot, Snapshot]:
    core, api = Metrics(), Metrics("api")
    core.count("pinfold_detections_total", ('quote " backslash \\ newline \n', "high"), 3)
    core.gauge("pinfold_build_info", ("0.1.0", "6.18", "1"), 1)
    core.gauge("pinfold_ring_used_bytes", (), 12345678)
    for seconds in (0.00005, 0.002, 0.002, 100.0):
        core.observe("pinfold_detection_latency_seconds", seconds)
    api.count("pinfold_api_refused_total", ("sandboxed",), 2)
    return decode(core.snapshot()), decode(api.snapshot())


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0", "text/plain; version=1.0.0"])
def test_the_page_parses_and_says_what_was_counted(accept: str, snapshots: tuple[Snapshot, Snapshot]) -> None:
    page, content_type = render(accept, *snapshots)
    openmetrics = content_type.startswith("application/openmetrics-text")
    assert openmetrics == accept.startswith("application")
    samples = {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in (parse_openmetrics if openmetrics else parse_text)(page.decode())
        for sample in family.samples
    }
    assert samples["pinfold_detections_total", frozenset({'quote " backslash \\ newline \n', "high"})] == 3
    assert samples["pinfold_build_info", frozenset({"0.1.0", "6.18", "1"})] == 1
    assert samples["pinfold_ring_used_bytes", NONE] == 12345678
    assert samples["pinfold_api_refused_total", frozenset({"sandboxed"})] == 2
    assert samples["pinfold_events_lost_total", frozenset({"kernel", "ring_full"})] == 0
    assert samples["pinfold_detection_latency_seconds_count", NONE] == 4
    assert samples["pinfold_detection_latency_seconds_bucket", frozenset({"0.0001"})] == 1
    assert samples["pinfold_detection_latency_seconds_bucket", frozenset({"0.0025"})] == 3
    assert samples["pinfold_detection_latency_seconds_bucket", frozenset({"10.0"})] == 3
    assert samples["pinfold_detection_latency_seconds_bucket", frozenset({"+Inf"})] == 4
    assert samples["pinfold_detection_latency_seconds_sum", NONE] == pytest.approx(100.00405)


def test_every_metric_is_on_the_page_once(snapshots: tuple[Snapshot, Snapshot]) -> None:
    page = render("", *snapshots)[0].decode()
    for metric in METRICS:
        assert page.count(f"# TYPE {metric.name} {metric.kind}\n") == 1


def test_a_strange_accept_header_gets_plain_text(snapshots: tuple[Snapshot, Snapshot]) -> None:
    for accept in ("text/plain; version=ü.x", "application/openmetrics-text;version=;;;", "\xff" * 5000, ",,,"):
        page, content_type = render(accept, *snapshots)
        assert b"pinfold_sandboxes" in page or b"pinfold_ring_used_bytes" in page
        assert content_type


def test_buckets_are_ascending_and_span_the_targets() -> None:
    assert list(LATENCY_BUCKETS) == sorted(set(LATENCY_BUCKETS))
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1]) == (0.0001, 10.0)
