"""What the log says of the last run: how far it came, and what it had begun."""

from __future__ import annotations

from typing import Any

import orjson
from msgspec import Struct

from sensor.export.lines import VERSION
from sensor.export.reader import backwards

_INTENT_WINDOW_BYTES = 1024 * 1024  # an outcome follows its intent closely; older intents are history


class Recovery(Struct, frozen=True):
    """An event's own line is its commit: what precedes it belongs to it. So what stands behind the
    last commit belongs to an event that will be replayed, and must not be told or done again.

    `last_event`: generation and position of the last record of the ring that was committed.
    `pending_detections`: ids of the detections behind it. `settled`: detection ids whose response has
    its outcome behind it. `pending_intents`: detection id to action, of responses that were begun
    and, as far as the log says, not finished, before or behind the commit: look, then act again or
    write the outcome. `unreadable`: damaged lines that were passed over.
    """

    last_event: tuple[int, int] | None
    pending_detections: frozenset[str]
    pending_intents: dict[str, str]
    settled: frozenset[str]
    torn_bytes: int
    unreadable: int


class _Backwards:
    def __init__(self) -> None:
        self.last_event: tuple[int, int] | None = None
        self.detections: set[str] = set()
        self.settled: set[str] = set()
        self.intents: dict[str, str] = {}
        self.unreadable = 0
        self._finished: set[str] = set()

    def take(self, line: bytes) -> None:
        if self.last_event is not None and not line.startswith(b'{"v":%d,"kind":"response"' % VERSION):
            return
        try:
            record = orjson.loads(line)
            self._take(record)
        except (ValueError, KeyError, TypeError):
            self.unreadable += 1

    def _take(self, record: dict[str, Any]) -> None:
        if record["v"] != VERSION:
            return
        kind = record["kind"]
        if kind == "response":
            self._response(record["detection"], record["outcome"], record["action"])
        elif kind == "detection":
            self.detections.add(record["id"])
        elif kind in ("event", "sandbox") and not (record.get("Existing") or record.get("change") == "found"):
            generation, _, position = record["id"].partition("-")  # of the ring, unlike what /proc showed at start
            if int(generation, 16):  # and unlike what no record told: nothing of a ring is known by it
                self.last_event = (int(generation, 16), int(position, 16))

    def _response(self, detection: str, outcome: str, action: str) -> None:
        if outcome != "intent":
            self._finished.add(detection)
            if self.last_event is None:
                self.settled.add(detection)
        elif detection not in self._finished:
            self.intents.setdefault(detection, action)


def read_back(path: str, torn_bytes: int) -> Recovery:
    """Reads the log's end, as far as it must, in chunks. Raises OSError."""
    state = _Backwards()
    passed = 0
    for line in backwards(path):
        state.take(line)
        passed += len(line) + 1
        if state.last_event is not None and passed > _INTENT_WINDOW_BYTES:
            break
    return Recovery(
        state.last_event,
        frozenset(state.detections),
        state.intents,
        frozenset(state.settled),
        torn_bytes,
        state.unreadable,
    )
