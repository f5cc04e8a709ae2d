"""Correlations over events made on the spot: rules `a`, `b`, `c`, … match command lines that are their name."""

from __future__ import annotations

import textwrap
import uuid
from typing import Any

import yaml
from msgspec.structs import replace

from sensor.events.activity import Activity
from sensor.rules.correlation.correlator import Correlator, Fired
from sensor.rules.engine import Engine
from sensor.rules.ruleset import Ruleset
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

SECOND = 1_000_000_000
START = 1_000 * SECOND


def named(name: str, category: str = "process_creation") -> str:
    """A rule of this name, for events whose command line it is."""
    return f"name: {name}\n" + rule_text(f"sel:\n  CommandLine: {name}\ncondition: sel", category)


def correlation(body: str, title: str = "a correlation", **more: Any) -> str:
    head = {"title": title, "id": str(uuid.uuid4()), "level": "high", **more}
    return yaml.safe_dump(head) + "correlation:\n" + textwrap.indent(textwrap.dedent(body).strip("\n"), "  ") + "\n"


def refusal(*texts: str) -> str:
    """The one refusal, as `file number:line: reason`."""
    (line,) = build(*texts).refused
    return line.rpartition("/r")[2].replace(".yml", "")


class Stream:
    """Events by their second, through the engine and the correlator. `fired`: what came of each call."""

    def __init__(self, *texts: str, ruleset: Ruleset | None = None) -> None:
        ruleset = ruleset or build(*texts)
        assert ruleset.refused == ()
        self.engine = Engine(ruleset)
        self.counted: dict[str, int] = {}
        self.correlator = Correlator(self.engine.correlations, 0, self._count)
        self.position = 0

    def _count(self, what: str, number: int) -> None:
        self.counted[what] = self.counted.get(what, 0) + number

    def event(self, name: str, second: float, category: str = "process_creation", **fields: Any) -> Activity:
        self.position += 8
        made = activity(category, {"CommandLine": name, "SandboxId": 7, **fields})
        at = START + round(second * SECOND)
        return replace(made, generation=1, position=self.position, monotonic_ns=at, time_ns=at + 5)

    def take(self, name: str, second: float, category: str = "process_creation", **fields: Any) -> list[Fired]:
        event = self.event(name, second, category, **fields)
        hits = [hit for rule in self.engine.match(event) for hit in self.correlator.hits(rule.id, event)]
        return [fired for hit in hits for fired in self.correlator.feed(hit, event)]

    def tick(self, second: float) -> list[Fired]:
        return self.correlator.tick(START + round(second * SECOND))
