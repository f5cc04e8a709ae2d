"""The latest detections, as their lines in the log: what is asked for is answered from memory, and no file is read
while the sensor runs."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from sensor.events.detection import LEVELS, Detection
from sensor.export.reader import backwards

MOST = 1024
MOST_BYTES = 8 * 1024 * 1024  # a detection's line is some 1 to 20 KiB: a sandbox chooses its argv
_HEAD = b'{"v":1,"kind":"detection"'
_LOOKED_AT = 20_000  # lines of the log, at the start: some tens of ms


class Told(Struct, frozen=True, gc=False):
    id: str
    sandbox_id: int
    sandbox_name: str
    level: int
    rule_id: str
    rule_title: str
    line: bytes


class _Rule(Struct, gc=False):
    id: str
    title: str
    level: str


class _Line(Struct, gc=False):
    id: str
    rule: _Rule
    SandboxId: int = 0
    SandboxName: str = ""


class Recent:
    """Oldest first."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, Told] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._told)

    def load(self, path: str) -> None:
        """What the log's end has of earlier runs. To be called once, before anything is added."""
        found: list[Told] = []
        size = 0
        try:
            for line in islice(backwards(path), _LOOKED_AT):
                if line.startswith(_HEAD) and (told := _read(line)) is not None:
                    size += len(line)
                    if len(found) >= MOST or size > MOST_BYTES:
                        break
                    found.append(told)
        except OSError:
            pass  # the log's own errors are told by its writer
        for told in reversed(found):
            self._keep(told)

    def add(self, detection: Detection, line: bytes) -> None:
        activity = detection.activity
        level = LEVELS.index(detection.level)
        self._keep(
            Told(
                detection.id, activity.SandboxId, activity.SandboxName, level, detection.rule_id,
                detection.rule_title, line.rstrip(b"\n"),
            )
        )  # fmt: skip

    def get(self, detection_id: str) -> Told | None:
        return self._told.get(detection_id)

    def ids(self) -> list[str]:
        return list(self._told)

    def latest(self, sandbox: str, sandbox_id: int, level: str, rule: str, limit: int) -> list[Told]:
        """Newest first. `sandbox`: of one that is not known any more, by name or id."""
        least = LEVELS.index(level) if level else 0
        found = (
            told
            for told in reversed(self._told.values())
            if told.level >= least
            and (not sandbox_id or told.sandbox_id == sandbox_id)
            and (not sandbox or sandbox in {told.sandbox_name, str(told.sandbox_id)})
            and (not rule or rule in {told.rule_id, told.rule_title})
        )
        return list(islice(found, limit))

    def of(self, sandbox_id: int, limit: int) -> list[Told]:
        return self.latest("", sandbox_id, "", "", limit)

    def _keep(self, told: Told) -> None:
        if told.id in self._told:
            return
        self._told[told.id] = told
        self._bytes += len(told.line)
        while len(self._told) > MOST or (self._bytes > MOST_BYTES and len(self._told) > 1):
            _, gone = self._told.popitem(last=False)
            self._bytes -= len(gone.line)


def raw(told: list[Told]) -> list[Any]:
    return [msgspec.Raw(one.line) for one in told]


def _read(line: bytes) -> Told | None:
    """None of a damaged line."""
    try:
        found = msgspec.json.decode(line, type=_Line)
        level = LEVELS.index(found.rule.level)
    except (msgspec.MsgspecError, ValueError):
        return None
    return Told(found.id, found.SandboxId, found.SandboxName, level, found.rule.id, found.rule.title, line)
