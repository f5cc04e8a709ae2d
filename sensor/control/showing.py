"""What leaves the sensor is without the secrets that stand in command lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sensor.export.redact import redact

Record = dict[str, Any]
MOST_KEPT = 32  # answers that were made showable, each while its source is the core's latest


class Showing:
    """Answers of the core as they may be shown; each is made once."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[bytes, bytes]] = {}  # by operation and arguments: source, shown

    def __call__(self, operation: str, arguments: bytes, answer: bytes) -> bytes:
        show = _SHOWN.get(operation)
        if show is None:
            return answer
        key = f"{operation} {arguments.decode()}"
        made = self._made.get(key)
        if made is not None and made[0] is answer:
            return made[1]
        shown = msgspec.json.encode(show(msgspec.json.decode(answer)))
        if len(self._made) >= MOST_KEPT:
            self._made.clear()
        self._made[key] = (answer, shown)
        return shown


def _detections(answer: Record) -> list[Record]:
    acknowledged = answer["acknowledged"]
    return [redact(record) | {"acknowledged": acknowledged.get(record["id"])} for record in answer["detections"]]


def _detection(answer: Record) -> Record:
    (shown,) = _detections(answer)
    return shown


def _tree(answer: Record) -> Record:
    return answer | {"processes": [_process(process) for process in answer["processes"]]}


def _process(process: Record) -> Record:
    return process | {"command_line": redact({"CommandLine": process["command_line"]})["CommandLine"]}


_SHOWN: dict[str, Callable[[Any], Any]] = {"detections": _detections, "detection": _detection, "tree": _tree}
