"""A writer that is killed: `python -m tests.export.writer FOLDER EVENTS`. It plays the core: recovers,
leaves out what the last run committed, and goes on, event by event, as the daemon would."""

from __future__ import annotations

import random
import sys

from sensor.config import Config, Log, Paths
from sensor.events.activity import ProcessCreation
from sensor.export import EventLog, Recovery
from tests.export import samples


def config(folder: str, max_bytes: int = 65536, keep: int = 1000) -> Config:
    return Config(paths=Paths(log=folder), log=Log(max_bytes=max_bytes, keep=keep))


def event(position: int) -> ProcessCreation:
    # Most lines are short; some exceed a page, so that a kill can fall amid a write.
    return samples.process_creation(generation=1, position=position, argv=b"x\0" * (2000 if position % 7 == 0 else 3))


def detection_of(position: int) -> str | None:
    return f"1-{position:x}:rule" if position % 3 == 0 else None


def write_event(log: EventLog, position: int, recovery: Recovery, chance: random.Random) -> None:
    detection_id = detection_of(position)
    act = detection_id is not None and detection_id not in recovery.settled
    if detection_id is not None:
        if detection_id not in recovery.pending_detections:
            log.add_detection(samples.detection(event(position), id=detection_id))
        if act and detection_id not in recovery.pending_intents:
            log.add_response(samples.response(detection_id=detection_id))
        if chance.random() < 0.5:
            log.flush()
        if act and chance.random() < 0.5:  # a fast outcome comes before the commit
            log.add_response(samples.response(detection_id=detection_id, outcome="done"))
            act = False
            if chance.random() < 0.5:
                log.flush()
    log.add_activity(event(position))
    if act:
        if chance.random() < 0.5:
            log.flush()
        log.add_response(samples.response(detection_id=detection_id, outcome="done"))


def main(folder: str, events: int) -> None:
    chance = random.Random()  # noqa: S311
    log = EventLog(config(folder), lambda _stage, reason, _lines: sys.exit(f"lost: {reason}"))
    recovery = log.recover()
    last = recovery.last_event[1] if recovery.last_event else 0
    for detection_id in recovery.pending_intents:
        if int(detection_id.split(":")[0].removeprefix("1-"), 16) <= last:
            log.add_response(samples.response(detection_id=detection_id, outcome="gone"))
    print("ready", flush=True)
    for position in range(last + 1, last + 1 + events):
        write_event(log, position, recovery, chance)
        if position % chance.randint(1, 20) == 0:
            log.flush()
    log.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
