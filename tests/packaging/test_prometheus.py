"""The alert rules: promtool's checks and tests, and that those tests would notice a missing alert."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensor.metriclist import BY_NAME
from tests.packaging.tools import PACKAGING, tool

FOLDER = PACKAGING / "prometheus"
RULES = FOLDER / "pinfold.rules.yml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
NAMES = [alert["alert"] for alert in ALERTS]
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def promtool(*arguments: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], cwd=folder, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "pinfold.rules.yml"),
        ("test", "rules", "pinfold.rules.test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def mutant(folder: Path, name: str, expression: str) -> subprocess.CompletedProcess[str]:
    """promtool's tests with one alert's expression replaced."""
    document = yaml.safe_load(RULES.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == name:
                rule["expr"] = expression
    (folder / RULES.name).write_text(yaml.safe_dump(document))
    shutil.copy(FOLDER / "pinfold.rules.test.yml", folder)
    return promtool("test", "rules", "pinfold.rules.test.yml", folder=folder)


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_that_never_fires_is_noticed(name: str, tmp_path: Path) -> None:
    assert mutant(tmp_path, name, "vector(1) < 0").returncode == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_that_always_fires_is_noticed(name: str, tmp_path: Path) -> None:
    assert mutant(tmp_path, name, "vector(1)").returncode == 1


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_alerts_tell_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"]
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    sections = re.findall(r"^## (\w+)$", (FOLDER / Path(page).name).read_text(), re.MULTILINE)
    assert anchor in {section.lower() for section in sections}


def test_the_runbook_has_no_section_without_an_alert() -> None:
    sections = re.findall(r"^## (\w+)$", (FOLDER / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert sections == NAMES


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_alerts_use_metrics_and_values_that_exist(alert: dict[str, Any]) -> None:
    """A misspelt metric or label value would make an alert that silently never fires."""
    for name, selector in re.findall(r"\b(pinfold_\w+)(?:\{([^}]*)\})?", alert["expr"]):
        metric = BY_NAME[SUFFIXES.sub("", name) if name not in BY_NAME else name]
        for label, operator, text in re.findall(r'(\w+)([!=~]+)"([^"]*)"', selector):
            declared = metric.values[metric.labels.index(label)]
            wanted = text.split("|") if operator.endswith("~") else [text]
            assert not declared or set(wanted) <= set(declared), f"{name}: {label} is one of {declared}"
