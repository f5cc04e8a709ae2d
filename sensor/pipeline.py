"""One record of the ring on its way: decode, enrich, evaluate, respond, log.

The order of the log is what makes a crash harmless (sensor/export/log.py): an event's detections and
intents stand before the event, and the event before the ring forgets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from msgspec.structs import replace

from sensor.bpf.ring import Ring
from sensor.correlating.live import Correlating
from sensor.detect.detectors import Detectors
from sensor.detect.world import Inversion
from sensor.enrich.enricher import WATCHED, Enricher
from sensor.events import layouts
from sensor.events.activity import (
    AnyActivity,
    DeviceAccess,
    NetworkBehavior,
    NetworkConnection,
    NetworkProtocol,
    ProcessCreation,
    SandboxChange,
)
from sensor.events.decode import Decoder
from sensor.events.detection import Detection, Response, event_id
from sensor.events.layouts import READERS, Buffer, Cgroup
from sensor.export.recovery import Recovery
from sensor.files.files import Files
from sensor.guard.guard import Guard
from sensor.metrics import Metrics
from sensor.respond.containment import escape_of
from sensor.respond.silences import Silences
from sensor.rules.engine import Engine
from sensor.rules.folding import Folded, Folding
from sensor.rules.unit import Rule

Watched = Callable[[Cgroup], None]
_MIGRATED = int(layouts.Flag.MIGRATED)
# Most of all other records: what stands for nothing but its activity.
_PLAIN = (layouts.Exec, layouts.Exit, layouts.Connect, layouts.ConnectUnix, layouts.DeviceAttempt)
_SANDBOX_ID = layouts.Exec.__struct_fields__.index("sandbox_id")  # the same in every record
_FLOW_RECORDS = frozenset({layouts.Flow, layouts.Payload, layouts.Listen})


class Told(Protocol):
    """Where lines go: sensor.export.log's EventLog, or a replay's."""

    written: int  # bytes

    def add_activity(self, activity: AnyActivity) -> None: ...
    def add_detection(self, detection: Detection) -> None: ...
    def add_response(self, response: Response) -> None: ...
    def add_sandbox(self, change: SandboxChange) -> None: ...
    def add_notice(self, text: str, **fields: Any) -> None: ...
    def flush(self) -> None: ...


class Answering(Protocol):
    """What follows a detection: sensor.respond.responder's Responder, or nothing."""

    silences: Silences | None

    def answers(self, detection: Detection) -> bool: ...
    def respond(self, detection: Detection) -> list[Response]: ...


class Networking(Protocol):
    """sensor.network's Network, or a replay's, which does nothing about networks."""

    detectors: Detectors

    @property
    def busy(self) -> bool: ...
    def observe(self, activity: AnyActivity | SandboxChange) -> None: ...
    def tick(self, now_ns: int) -> None: ...


class Pipeline:
    """`watched` is told of parents of sandboxes that come and go; `now` is UTC in nanoseconds, `monotonic` that clock.

    Records of the sandbox `aside_id` go to `aside` and nowhere else: the self-test's are nobody's."""

    def __init__(  # noqa: PLR0917 - the stages, in their order
        self,
        enricher: Enricher,
        engine: Engine,
        log: Told,
        responder: Answering,
        metrics: Metrics,
        recovery: Recovery,
        watched: Watched,
        network: Networking,
        now: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.decoder = Decoder(split=True)
        self.enricher = enricher
        self._of_split = enricher.of_split
        self._plain = {kind: enricher.handlers[kind] for kind in _PLAIN}
        self.engine = engine
        self.correlating = Correlating(engine, metrics, now, monotonic)
        self.folding = Folding(0, 0)
        self.log = log
        self.responder = responder
        self.metrics = metrics
        self._events = metrics.tally("pinfold_events_total")
        self._connects = metrics.tally("pinfold_connects_total")
        self.watched = watched
        self.network = network
        self.detectors = network.detectors
        self.guard: Guard | None = None  # made later; without one nothing is contained
        self.utc_ns = 0  # of the last tick
        self.beside: Callable[[AnyActivity | SandboxChange], None] | None = None  # hears what is told without a record
        self._now = now
        self.files: Files | None = None
        self._last = (0, 0)  # id of the event told last
        self.aside_id = -1
        self.aside: list[Any] = []
        self.detections: dict[int, int] = {}  # sandbox id → detections since this start
        self.tally: dict[tuple[int, str], int] = {}  # (sandbox id, category) → events; whoever reads it empties it
        self._replay = recovery.last_event or (0, -1)
        self._told = recovery.pending_detections
        self._settled = recovery.settled

    def use(self, engine: Engine) -> None:
        """Other rules, from here on."""
        self.engine = engine
        self.correlating.use(engine)

    def close_intents(self, recovery: Recovery) -> None:
        """An intent of the last run that has no outcome gets one, unless its event is replayed and answered
        again. Whether its kill landed nobody knows; who it was for is in the detection."""
        for detection, action in recovery.pending_intents.items():
            if _event_of(detection) <= self._replay:
                reason = "the sensor ended before the outcome was known"
                self.log.add_response(
                    Response(detection, self._now(), action, "enforce", "failed", reason, targets=(), latency_ns=0)
                )

    def protect(self, guard: Guard) -> None:
        """From here on escapes are contained, and what the guard sees is told."""
        self.guard = guard
        guard.seen = self.tell_beside

    def take(self, buffer: Buffer, at: int, length: int, generation: int, position: int) -> None:
        """A record of `length` bytes at `at`. Never raises for anything a sandbox put into it."""
        record: Any = self.decoder.decode(buffer, at, length)
        if type(record) is not tuple:
            if record is not None:
                self._take_record(record, generation, position)
            return
        members = record[0]
        if members[_SANDBOX_ID] == self.aside_id:
            self.aside.append(READERS[members[0]][1](buffer, at))
        else:
            self._take(self._of_split[members[0]](record, generation, position))

    def drain(self, ring: Ring, most: int, generation: int) -> tuple[int, int]:
        """`take` of at most `most` records that lie in the ring, with less around each. How many there were, and the
        position behind the last."""
        data, decode, aside, of_split, take = ring.data, self.decoder.decode, self.aside_id, self._of_split, self._take
        count = following = 0
        records = [
            (decode(data, at, length), position, following, at)
            for position, following, at, length in ring.pending(most)
        ]
        for record, position, following, at in records:  # noqa: B007 - the last one is used
            count += 1
            if type(record) is tuple and record[0][_SANDBOX_ID] != aside:
                take(of_split[record[0][0]](record, generation, position))
            elif type(record) is tuple:
                self.aside.append(READERS[record[0][0]][1](data, at))
            elif record is not None:
                self._take_record(record, generation, position)
        return count, following

    def _take_record(self, record: Any, generation: int, position: int) -> None:
        if record.sandbox_id == self.aside_id:
            self.aside.append(record)
            return
        kind = type(record)
        plain = self._plain.get(kind)
        if plain is not None:
            told: Any = plain(record, generation, position)
            if told is not None:
                self._take(told)
            return
        if kind is Cgroup and record.class_id == WATCHED:
            self.watched(record)
            return
        if kind in _FLOW_RECORDS:
            for flow_activity in self.enricher.apply_flow(record, generation, position):
                self._take(flow_activity)
        elif kind is layouts.Inversion:
            self._inverted(record, generation, position)
        elif kind is layouts.Move or (kind is layouts.Fork and record.flags & _MIGRATED):
            self._crossed(record, generation, position)
        else:
            activity = self.enricher.apply(record, generation, position)
            if activity is not None:
                self._take(activity)

    def _crossed(self, record: layouts.Move | layouts.Fork, generation: int, position: int) -> None:
        """A process is on another side of a sandbox's border. One that broke out is stopped before anything is told."""
        change = self.enricher.apply(record, generation, position)
        migration = self.enricher.escapes.migration(record, generation, position + 1)
        if migration is not None and migration.Direction == "left" and migration.MoverSandboxed and self.guard:
            self.guard.containment.escaped(escape_of(record), migration.SandboxClass, again=self._is_replay(migration))
        for activity in (change, migration):
            if activity is not None:
                self._take(activity)

    def tick(self, monotonic_ns: int) -> None:
        """What comes of time and not of a record."""
        self.utc_ns = self._now()
        if self.guard is not None:
            self.guard.tick(monotonic_ns)
        self.network.tick(monotonic_ns)
        for activity in self.enricher.flows.settle(monotonic_ns):
            self._take(activity)
        self._last = (0, 0)
        self._derived(self.detectors.tick(monotonic_ns, self.utc_ns))
        for detection in self.correlating.tick(monotonic_ns):
            self._detected(detection)
        self._tell_folded(self.folding.tick(monotonic_ns))

    def fold(self, seconds: int, most_per_minute: int) -> None:
        """As the settings have it, from here on."""
        self._tell_folded(self.folding.tick(None))
        self.folding = Folding(seconds, most_per_minute)

    def end(self) -> None:
        """Nothing more will come: what is only told later is told now."""
        self._tell_folded(self.folding.tick(None))

    def _tell_folded(self, over: list[Folded]) -> None:
        for each in over:
            fields = {"detection": each.detection, "rule": each.rule_id, "title": each.rule_title, "level": each.level}
            times = {"count": each.count, "first_ns": each.first_ns, "last_ns": each.last_ns, "why": each.why}
            sandbox = {"SandboxId": each.sandbox_id, "SandboxName": each.sandbox_name}
            self.log.add_notice("repeats of a detection were folded", **fields, **times, **sandbox)

    def take_files(self) -> None:
        """What was done to files, after the records of whoever did it."""
        if self.files is not None:
            for activity in self.files.take():
                self.tell(activity)

    @property
    def busy(self) -> bool:
        """Whether something waits for a tick soon."""
        guarding = self.guard is not None and self.guard.busy
        return guarding or self.detectors.busy or self.network.busy or self.enricher.flows.holding

    def _take(self, activity: AnyActivity | SandboxChange, observed: bool = True) -> None:
        """Evaluate, respond, log, and show it to those who watch. What a replay shows again is not told again, but they
        must know it. One function: every event comes through, and a call would cost it a fiftieth."""
        kind = type(activity)
        told: Any = activity
        replayed = self._replay
        if observed and activity.generation == replayed[0] and activity.position <= replayed[1]:
            self.metrics.count("pinfold_replayed_events_total")
        elif kind is SandboxChange:
            self._tell_change(told)
        else:
            category = told.category
            self._events[category] += 1
            key = (told.SandboxId, category)
            self.tally[key] = self.tally.get(key, 0) + 1
            if rules := self.engine.match(told):
                self._matched(rules, told)
            if kind is NetworkConnection:
                self._connects[told.Verdict] += told.Count
            elif kind is not ProcessCreation:
                self._count(told)
            self.log.add_activity(told)
        if not observed:
            return
        if kind is not NetworkConnection:  # most of all, and nobody else's business
            if kind is not ProcessCreation:
                self.network.observe(activity)
            if self.files is not None:
                self.files.observe(activity)
            if self.guard is not None:
                self.guard.observe(activity)
        if behaviors := self.detectors.observe(activity):
            self._last = (activity.generation, activity.position)
            self._derived(behaviors)

    def tell(self, activity: AnyActivity | SandboxChange) -> None:
        """What is no record's, and nobody who watches must know."""
        self._take(activity, observed=False)

    def _matched(self, rules: tuple[Rule, ...], activity: AnyActivity) -> None:
        for rule in rules:
            if rule.id not in self.engine.silent:
                self._detected(_detection(rule, activity, self._now()))
            for detection in self.correlating.observe(rule.id, activity):
                self._detected(detection)

    def _derived(self, behaviors: list[NetworkBehavior]) -> None:
        for behavior in behaviors:
            placed = self._placed(behavior)
            if not self._is_replay(placed):
                self.tell(placed)

    def _placed(self, behavior: NetworkBehavior) -> NetworkBehavior:
        """With an id of its own: positions of records are multiples of eight, so seven fit behind each. What has
        no record, or no room, counts on by time."""
        generation, position = self._last
        if behavior.generation and behavior.generation == generation and position % 8 != 7:
            position += 1
        else:
            # A tick's has the tick's time; a recording has that too, so that a replay gives the same ids.
            utc_ns = self._now() if behavior.generation else behavior.time_ns
            generation, position = 0, max(utc_ns, position + 1 if generation == 0 else 0)
        self._last = (generation, position)
        return replace(behavior, generation=generation, position=position)

    def _is_replay(self, activity: AnyActivity | SandboxChange) -> bool:
        return activity.generation == self._replay[0] and activity.position <= self._replay[1]

    def _inverted(self, r: layouts.Inversion, generation: int, position: int) -> None:
        self._last = (generation, position)
        utc_ns = self.enricher.utc(r.time_ns)
        inversion = Inversion(
            generation, position, utc_ns, r.time_ns, r.sandbox_id, r.cookie, r.idle_ns, r.bytes_out, r.bytes_in,
            r.packets_out, r.packets_in, r.length, r.inversions,
        )  # fmt: skip
        self._derived(self.detectors.inversion(inversion))

    def tell_beside(self, activity: AnyActivity | SandboxChange) -> None:
        """What no record told: found at start, or seen by the guard."""
        if self.beside is not None:
            self.beside(activity)
        self.tell(activity)

    def _tell_change(self, change: SandboxChange) -> None:
        self._events[change.category] += 1
        self.log.add_sandbox(change)
        if change.change == "ended":
            self.detections.pop(change.SandboxId, None)

    def _count(self, activity: AnyActivity) -> None:
        """What is counted by more than its category."""
        if type(activity) is DeviceAccess:
            labels = (activity.DeviceClass, activity.Verdict)
            self.metrics.count("pinfold_device_attempts_total", labels, activity.Count)
        elif type(activity) is NetworkBehavior:
            self.metrics.count("pinfold_behaviors_total", (activity.Behavior,))
        elif type(activity) is NetworkProtocol:
            self.metrics.count("pinfold_protocols_total", (activity.ApplicationProtocol,))

    def _detected(self, detection: Detection) -> None:
        name, activity = detection.id, detection.activity
        if not self.responder.answers(detection) and self.folding.fold(detection, activity.monotonic_ns):
            self.metrics.count("pinfold_detections_folded_total", (detection.rule_id, detection.level))
            return
        self.detections[activity.SandboxId] = self.detections.get(activity.SandboxId, 0) + 1
        silences = self.responder.silences
        silent = silences is not None and silences.matches(detection)
        # What is silenced pages nobody; it is detected and logged like anything else.
        counted = "pinfold_detections_silenced_total" if silent else "pinfold_detections_total"
        self.metrics.count(counted, (detection.rule_id, detection.level))
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


def _detection(rule: Rule, activity: AnyActivity, utc_ns: int) -> Detection:
    name = f"{event_id(activity.generation, activity.position)}/{rule.id}"
    return Detection(name, utc_ns, rule.id, rule.title, rule.level, rule.tags, activity)


def _event_of(detection_id: str) -> tuple[int, int]:
    """Generation and position. The id comes from a log that may be damaged: what is none is long past."""
    generation, _, position = detection_id.partition("/")[0].partition("-")
    try:
        return int(generation, 16), int(position, 16)
    except ValueError:
        return 0, 0
