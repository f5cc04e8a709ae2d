"""`pinfold rules test --baseline FILE`: which rules fire over work that is known to be harmless."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from sensor.cli.playing import play
from sensor.cli.render import subject
from sensor.cli.show import Column, column
from sensor.events.detection import LEVELS

Row = dict[str, Any]
ALARMING = frozenset(LEVELS[LEVELS.index("medium") :])
FINDINGS = 10  # the exit status


class Fired(Struct, frozen=True):
    """`example`: the first of its detections, as the log has it."""

    rule_id: str
    title: str
    level: str
    count: int
    example: Row

    @property
    def alarming(self) -> bool:
        return self.level in ALARMING


class Baseline(Struct, frozen=True):
    """`fired`: the gravest first, then the most frequent. `whole`: the recording has its end."""

    fired: list[Fired]
    events: int
    whole: bool

    @property
    def status(self) -> int:
        return FINDINGS if any(one.alarming for one in self.fired) else 0


COLUMNS = (
    column("Level", "level"),
    column("Fired", "count"),
    column("Rule", "title", True),
    Column("First", lambda row: _first(row["example"]), True),
)


def baseline(file: str, paths: Sequence[str], cache: str | None = None, shown: bool = False) -> Baseline:
    """Runs the recording, or log, through the rules in `paths`.

    :raises RecordingError: it cannot be read, or a rule is broken.
    """
    return summed(play(file, paths, cache, shown=shown))


def summed(rows: Iterable[Row]) -> Baseline:
    counts: dict[str, int] = {}
    first: dict[str, Row] = {}
    summary: Row = {}
    for row in rows:
        if row.get("kind") == "summary":
            summary = row
            continue
        rule = str(row["rule"]["id"])
        counts[rule] = counts.get(rule, 0) + 1
        first.setdefault(rule, row)
    fired = [
        Fired(rule, str(row["rule"]["title"]), str(row["rule"]["level"]), counts[rule], row)
        for rule, row in first.items()
    ]
    fired.sort(key=lambda one: (-_rank(one.level), -one.count, one.title))
    return Baseline(fired, int(summary.get("events", 0)), bool(summary.get("whole", True)))


def rows(found: Baseline) -> list[Row]:
    """As `show.emit` takes them."""
    return [{name: getattr(one, name) for name in one.__struct_fields__} for one in found.fired]


def said(found: Baseline) -> str:
    loud = sum(one.alarming for one in found.fired)
    text = f"{found.events} events, {len(found.fired)} rules fired, {loud} of them at medium or above"
    return text if found.whole else f"{text}; the end of the recording is missing"


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else -1


def _first(detection: Row) -> str:
    return f"{detection.get('SandboxName', '')}: {subject(detection)}"
