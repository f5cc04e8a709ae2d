"""The log itself, replayed: its events meet the rules once more. What detectors derived stands in it as events."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from sensor.events.detection import Detection, event_id
from sensor.export.lines import detection_line
from sensor.export.reader import LINE_BYTES
from sensor.export.unlines import activity_of
from sensor.rules.engine import Engine


def is_log(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(1) in {b"{", b""}


def play_log(
    path: str, engine: Engine, log: BinaryIO | None, detected: Callable[[bytes], object], behind: Callable[[int], None]
) -> dict[str, int | bool]:
    """`log` gets the events and, before each, its detections. A line that cannot be read is counted."""
    events = detections = unreadable = at = 0
    whole = True
    with open(path, "rb") as file:
        while line := file.readline(LINE_BYTES):
            at += len(line)
            behind(at)
            if not line.endswith(b"\n"):
                whole = False  # torn, or longer than any of ours: the rest of it is no event
                continue
            try:
                activity = activity_of(line)
            except (ValueError, RecursionError):
                unreadable += 1
                continue
            if activity is None:
                continue
            events += 1
            name = event_id(activity.generation, activity.position)
            for rule in engine.match(activity):
                detections += 1
                told = detection_line(
                    Detection(
                        f"{name}/{rule.id}", activity.time_ns, rule.id, rule.title, rule.level, rule.tags, activity
                    )
                )
                detected(told)
                if log is not None:
                    log.write(told)
            if log is not None:
                log.write(line)
    return {"records": 0, "events": events, "detections": detections, "undecoded": unreadable, "whole": whole}
