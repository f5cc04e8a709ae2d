"""What the sensor has logged: its own words, which every claim of the demo is checked against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensor.export.reader import Follower

Record = dict[str, Any]  # one line of the log, as sensor/export/lines.py writes it


class Journal:
    """All records so far; `read` takes in what was appended since."""

    def __init__(self, file: Path) -> None:
        self._follower = Follower(str(file), from_end=False)
        self._records: list[Record] = []

    def close(self) -> None:
        self._follower.close()

    def read(self) -> None:
        while lines := self._follower.read():
            self._records += [json.loads(line) for line in lines]

    def events(self, sandbox: str, category: str) -> Iterator[Record]:
        for record in self._records:
            if record["kind"] == "event" and record["category"] == category and record["SandboxName"] == sandbox:
                yield record

    def event_of(self, detection: Record) -> Record | None:
        """What it was made of."""
        found = (each for each in self._records if each["kind"] == "event" and each["id"] == detection["event"])
        return next(found, None)

    def detections(self, sandbox: str) -> Iterator[Record]:
        for record in self._records:
            if record["kind"] == "detection" and record["SandboxName"] == sandbox:
                yield record

    def responses(self, detection: Record) -> list[Record]:
        """What followed a detection, without the intents that precede it."""
        return [
            record
            for record in self._records
            if record["kind"] == "response" and record["detection"] == detection["id"] and record["outcome"] != "intent"
        ]

    def killed(self, sandbox: str) -> set[int]:
        """Process ids that a kill is told to have ended."""
        return {
            target
            for detection in self.detections(sandbox)
            for response in self.responses(detection)
            if response["action"] == "kill" and response["outcome"] == "done"
            for target in response["targets"]
        }
