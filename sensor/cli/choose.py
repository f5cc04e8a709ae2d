"""Which lines of the log somebody asked for."""

from __future__ import annotations

from typing import Any

import orjson

from sensor.cli.render import Record, level
from sensor.events.detection import LEVELS


def parsed(line: bytes) -> Record:
    """Empty for a line that is damaged."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


class Filter:
    """`where`: field and value, compared as text without regard to case; * stands for any text."""

    def __init__(
        self,
        *,
        sandbox: str | None = None,
        category: str | None = None,
        kind: str | None = None,
        level: str | None = None,
        rule: str | None = None,
        where: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._equal = {
            name: value
            for name, value in (("SandboxName", sandbox), ("category", category), ("kind", kind))
            if value is not None
        }
        self._level = 0 if level is None else LEVELS.index(level)
        self._detections_only = level is not None or rule is not None
        self._rule = rule
        self._where = tuple((name, value.casefold().split("*")) for name, value in where)

    def takes(self, line: bytes) -> bool:
        return self.fits(parsed(line))

    def fits(self, record: Record) -> bool:
        if not record or any(record.get(name) != value for name, value in self._equal.items()):
            return False
        if self._detections_only and not self._detection(record):
            return False
        return all(_matches(parts, record.get(name)) for name, parts in self._where)

    def _detection(self, record: Record) -> bool:
        rule = record.get("rule")
        if record.get("kind") != "detection" or not isinstance(rule, dict):
            return False
        if self._rule is not None and self._rule.casefold() not in (_text(rule.get("id")), _text(rule.get("title"))):
            return False
        return level(record) in LEVELS[self._level :]


def _matches(parts: list[str], value: Any) -> bool:
    """By plain searches: text that the sandbox chose never meets a pattern that could backtrack."""
    if value is None:
        return False
    text = _text(value)
    first, *rest = parts
    if not rest:
        return text == first
    *middle, last = rest
    if not text.startswith(first) or len(text) < len(first) + len(last):
        return False
    at = len(first)
    for part in middle:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return at <= len(text) - len(last) and text.endswith(last)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return " ".join(map(str, value)).casefold()
    return str(value).casefold()
