"""One record of the ring on its way: decode, enrich, evaluate, respond, log.

The order of the log is what makes a crash harmless (sensor/export/log.py): an event's detections and
intents stand before the event, and the event before the ring forgets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sensor.enrich.enricher import WATCHED, Enricher
from sensor.events.activity import AnyActivity, DeviceAccess, NetworkConnection, SandboxChange
from sensor.events.decode import Decoder
from sensor.events.detection import Detection, Response, event_id
from sensor.events.layouts import Buffer, Cgroup
from sensor.export.log import EventLog
from sensor.export.recovery import Recovery
from sensor.metrics import Metrics
from sensor.respond.responder import Responder
from sensor.rules.engine import Engine
from sensor.rules.ruleset import Rule

Watched = Callable[[Cgroup], None]


class Pipeline:
    """`watched` is told of parents of sandboxes that come and go. `engine` is replaced by a reload.

    Records of the sandbox `aside_id` go to `aside` and nowhere else: the self-test's are nobody's."""

    def __init__(  # noqa: PLR0917 - the stages, in their order
        self,
        enricher: Enricher,
        engine: Engine,
        log: EventLog,
        responder: Responder,
        metrics: Metrics,
        recovery: Recovery,
        watched: Watched,
    ) -> None:
        self.decoder = Decoder()
        self.enricher = enricher
        self.engine = engine
        self.log = log
        self.responder = responder
        self.metrics = metrics
        self.watched = watched
        self.aside_id = -1
        self.aside: list[Any] = []
        self.detections: dict[int, int] = {}  # sandbox id → detections since this start
        self._replay = recovery.last_event or (0, -1)
        self._told = recovery.pending_detections
        self._settled = recovery.settled

    def close_intents(self, recovery: Recovery) -> None:
        """An intent of the last run that has no outcome gets one, unless its event is replayed and answered
        again. Whether its kill landed nobody knows; who it was for is in the detection."""
        for detection, action in recovery.pending_intents.items():
            if _event_of(detection) <= self._replay:
                reason = "the sensor ended before the outcome was known"
                self.log.add_response(
                    Response(detection, time.time_ns(), action, "enforce", "failed", reason, targets=(), latency_ns=0)
                )

    def take(self, buffer: Buffer, at: int, length: int, generation: int, position: int) -> None:
        """A record of `length` bytes at `at`. Never raises for anything a sandbox put into it."""
        record: Any = self.decoder.decode(buffer, at, length)
        if record is None:
            return
        if record.sandbox_id == self.aside_id:
            self.aside.append(record)
            return
        if type(record) is Cgroup and record.class_id == WATCHED:
            self.watched(record)
            return
        activity = self.enricher.apply(record, generation, position)
        if activity is None:
            return
        if generation == self._replay[0] and position <= self._replay[1]:
            self.metrics.count("pinfold_replayed_events_total")
            return
        self.tell(activity)

    def tell(self, activity: AnyActivity | SandboxChange) -> None:
        """Evaluate, respond, log; also for what was found at start."""
        self.metrics.count("pinfold_events_total", (activity.category,))
        if isinstance(activity, SandboxChange):
            self.log.add_sandbox(activity)
            if activity.change == "ended":
                self.detections.pop(activity.SandboxId, None)
            return
        for rule in self.engine.match(activity):
            self._detected(rule, activity)
        if type(activity) is NetworkConnection:
            self.metrics.count("pinfold_connects_total", (activity.Verdict,), activity.Count)
        elif type(activity) is DeviceAccess:
            labels = (activity.DeviceClass, activity.Verdict)
            self.metrics.count("pinfold_device_attempts_total", labels, activity.Count)
        self.log.add_activity(activity)

    def _detected(self, rule: Rule, activity: AnyActivity) -> None:
        name = f"{event_id(activity.generation, activity.position)}/{rule.id}"
        detection = Detection(name, time.time_ns(), rule.id, rule.title, rule.level, rule.tags, activity)
        self.detections[activity.SandboxId] = self.detections.get(activity.SandboxId, 0) + 1
        self.metrics.count("pinfold_detections_total", (rule.id, rule.level))
        if not activity.Existing:
            delay = time.monotonic_ns() - activity.monotonic_ns
            self.metrics.observe("pinfold_detection_latency_seconds", max(0, delay) / 1e9)
        if name not in self._told:
            self.log.add_detection(detection)
        if name not in self._settled:
            self.responder.respond(detection)

    def journal(self, response: Response) -> None:
        """An intent must be on disk before the act, with the detection it is for."""
        self.log.add_response(response)
        if response.outcome == "intent":
            self.log.flush()


def _event_of(detection_id: str) -> tuple[int, int]:
    """Generation and position. The id comes from a log that may be damaged: what is none is long past."""
    generation, _, position = detection_id.partition("/")[0].partition("-")
    try:
        return int(generation, 16), int(position, 16)
    except ValueError:
        return 0, 0
