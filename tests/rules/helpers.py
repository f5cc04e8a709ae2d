"""Rules made on the spot, compiled in this process, and asked about one event."""

from __future__ import annotations

import tempfile
import textwrap
import uuid
from pathlib import Path
from typing import Any

from sensor.rules import sigma
from sensor.rules.engine import Engine
from sensor.rules.ruleset import Ruleset
from sensor.rules.testing import activity


def rule_text(detection: str, category: str = "process_creation", rule_id: str = "") -> str:
    """`detection`: YAML of the detection section, condition included."""
    head = f"""\
        title: a rule
        id: {rule_id or uuid.uuid4()}
        level: high
        logsource:
          category: {category}
          product: linux
        detection:
        """
    return textwrap.dedent(head) + textwrap.indent(textwrap.dedent(detection).strip("\n"), "  ") + "\n"


def build(*texts: str, placeholders: dict[str, list[str]] | None = None) -> Ruleset:
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(texts):
            (Path(folder) / f"r{number:03}.yml").write_text(text, encoding="utf-8")
        return sigma.build([Path(folder)], placeholders)


def matches(detection: str, event: dict[str, Any], category: str = "process_creation") -> bool:
    """Whether the rule matches; with the index and without must be the same, and nothing may raise."""
    ruleset = build(rule_text(detection, category))
    assert ruleset.refused == ()
    engines = [Engine(ruleset), Engine(ruleset, prefilter=False)]
    indexed, plain = (bool(engine.match(activity(category, event))) for engine in engines)
    assert indexed == plain
    assert not any(engine.errors or engine.index_errors for engine in engines)
    return indexed


def refusal(text: str) -> str:
    """The one refusal of a file that holds `text`, as `line: reason`."""
    (line,) = build(text).refused
    return line.partition("r000.yml:")[2]
