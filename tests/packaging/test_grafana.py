"""The dashboard as a file: complete, templated, and over metrics that exist."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sensor.metriclist import BY_NAME
from tests.packaging.tools import PACKAGING

DASHBOARD: dict[str, Any] = json.loads((PACKAGING / "grafana" / "pinfold.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TITLES = [panel["title"] for panel in PANELS]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NOT_SHOWN = {
    "pinfold_containment_seconds": "the notice of each has its own",
    "pinfold_containments_total": "each is a critical detection",
    "pinfold_file_events_outside_total": "for whoever asks what marks cost the host",
    "pinfold_file_looks_total": "for whoever looks into why a file was not watched; what is lost is shown",
    "pinfold_file_marks": "for whoever asks what marks cost the host",
    "pinfold_guard_rounds_total": "for the sensor's own developers",
    "pinfold_guard_seconds_total": "for the sensor's own developers",
    "pinfold_sandboxes_tamperable": "it is no incident; `pinfold sandbox` has it by sandbox",
    "pinfold_tampering_total": "an alert says it",
    "pinfold_detector_bounds_total": "for whoever looks into what a sandbox filled",
    "pinfold_correlation_evicted_total": "for whoever looks into what a sandbox filled",
    "pinfold_correlation_state_failures_total": "each has a notice; what it costs, the next start's detections say",
    "pinfold_detections_folded_total": "what was folded has a notice with its count",
    "pinfold_detections_silenced_total": "an operator silenced them",
    "pinfold_events_unsent_total": "for whoever looks into what log.unmatched saves",
    "pinfold_programs_unread_total": "for whoever looks into why a content was not judged",
    "pinfold_response_budget_exceeded_total": "an alert says it",
    "pinfold_responses_unsettled_total": "an alert says it",
    "pinfold_rule_errors_total": "an alert says it",
    "pinfold_rule_evaluations_total": "for whoever writes rules",
    "pinfold_rule_seconds_total": "for whoever writes rules",
    "pinfold_rules_dear": "a notice and `pinfold status` name the rules",
    "pinfold_series_overflow_total": "for the sensor's own developers",
}


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panels_are_complete(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == SOURCE
    assert all(target["datasource"] == SOURCE and target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_queries_are_templated_and_honest(panel: dict[str, Any]) -> None:
    for expression in expressions(panel):
        names = re.findall(r"\bpinfold_\w+", expression)
        assert names
        assert expression.count('instance=~"$instance"') == len(names)
        assert "vector(" not in expression


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_queries_use_metrics_labels_and_values_that_exist(panel: dict[str, Any]) -> None:
    for expression in expressions(panel):
        for name, selector in re.findall(r"\b(pinfold_\w+)\{([^}]*)\}", expression):
            metric = BY_NAME[name.removesuffix("_bucket") if name not in BY_NAME else name]
            for label, text in re.findall(r'(\w+)[!=~]+"([^"]*)"', selector):
                if label == "instance":
                    continue
                declared = metric.values[metric.labels.index(label)]
                assert not declared or set(text.split("|")) <= set(declared)
            if metric.kind == "counter":
                assert re.search(r"\b(rate|increase)\(", expression), (
                    f"a counter's own value says nothing: {expression}"
                )


def test_every_metric_is_shown_or_has_its_reason() -> None:
    shown = {
        name.removesuffix("_bucket")
        for panel in PANELS
        for e in expressions(panel)
        for name in re.findall(r"pinfold_\w+", e)
    }
    assert set(BY_NAME) - shown == set(NOT_SHOWN)


def test_identities_and_places_are_unique() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [
        (x, y)
        for panel in everything
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_data_source_and_hosts_are_variables() -> None:
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query"}
