"""A recording through the pipeline: the same stages as live, over answers of then. What comes out depends on the file
and the rules alone, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sensor.config import Config, Paths, complete
from sensor.errors import RecordingError
from sensor.events.activity import AnyActivity, SandboxChange
from sensor.events.detection import Detection, Response
from sensor.events.kinds import filled
from sensor.export.lines import activity_line, detection_line, notice_line, response_line, sandbox_line
from sensor.export.recovery import Recovery
from sensor.metrics import Metrics
from sensor.pipeline import Pipeline
from sensor.recording import entries
from sensor.recording.file import Reader
from sensor.recording.older import OlderDecoder, record_layouts
from sensor.recording.world import NOWHERE, Answers, Clock, Still, World, enricher_of
from sensor.respond.policy import Policy
from sensor.respond.silences import Silences
from sensor.rules.engine import Engine

_NOTHING = Recovery(None, frozenset(), {}, frozenset(), 0, 0)


class Lines:
    """`log`: the file that gets every line; `detected`: gets the lines of detections."""

    def __init__(self, log: BinaryIO | None, detected: Callable[[bytes], object]) -> None:
        self._log = log
        self._detected = detected
        self.events = self.detections = self.written = 0
        self.now: Callable[[], int] = lambda: 0  # UTC; the player sets it

    def add_activity(self, activity: AnyActivity) -> None:
        self.events += 1
        if self._log is not None:
            self._log.write(activity_line(activity))

    def add_detection(self, detection: Detection) -> None:
        self.detections += 1
        line = detection_line(detection)
        self._detected(line)
        if self._log is not None:
            self._log.write(line)

    def add_response(self, response: Response) -> None:
        if self._log is not None:
            self._log.write(response_line(response, None))

    def add_sandbox(self, change: SandboxChange) -> None:
        if self._log is not None:
            self._log.write(sandbox_line(change))

    def add_notice(self, text: str, **fields: Any) -> None:
        """Of the sensor itself: a replay has none but of what it folds."""
        if self._log is not None:
            self._log.write(notice_line(self.now(), text, fields))

    def flush(self) -> None:
        """Whoever opened the file closes it."""


class Would:
    """In the responder's place: says what would have been done, and does nothing."""

    def __init__(self, config: Config, log: Lines, now: Callable[[], int]) -> None:
        self.silences: Silences | None = None
        self._policy = Policy(config)
        self._log = log
        self._now = now

    def answers(self, detection: Detection) -> bool:
        decision = self._policy.of_detection(detection)
        return decision.action != "log" and decision.mode == "enforce"

    def respond(self, detection: Detection) -> list[Response]:
        decision = self._policy.of_detection(detection)
        if decision.action == "log":
            return []
        response = Response(
            detection.id, self._now(), decision.action, decision.mode, "would", "a replay acts on nobody",
            (detection.activity.ProcessId,), 0,
        )  # fmt: skip
        self._log.add_response(response)
        return [response]


class Player:
    """Raises RecordingError for what cannot be read; a sandbox's bytes in it raise nothing, as live."""

    def __init__(self, reader: Reader, engine: Engine, log: Lines) -> None:
        self._reader = reader
        self.config = _config(reader)
        self.answers = Answers()
        self._clock = Clock()
        self.enricher = enricher_of(self.config, self.answers, self._clock)
        self._utc_ns = reader.header.began_ns
        still = Still(self.config, World(self.enricher, self.config, self.answers, reader.header.cpus))
        log.now = lambda: self._utc_ns
        would = Would(self.config, log, lambda: self._utc_ns)
        self.pipeline = Pipeline(
            self.enricher,
            engine,
            log,
            would,
            Metrics(),
            _NOTHING,
            lambda _: None,
            still,
            lambda: self._utc_ns,
            lambda: 0,
        )
        self.records = 0
        if reader.header.layouts != record_layouts():
            self.pipeline.decoder = OlderDecoder(reader.header.layouts)
        self._handlers: dict[int, Callable[[bytes, int, int], None]] = {
            entries.RECORD: self._record,
            entries.TICK: self._tick,
            entries.ANSWER: self._answer,
            entries.KNOWN: self._known,
            entries.TOLD: self._told,
        }

    def play(self) -> Iterator[int]:
        """After each frame, how many bytes of the file are behind."""
        for frame in self._reader.frames:
            for kind, buffer, at, length in self._reader.entries(frame):
                handler = self._handlers.get(kind)
                if handler is not None:  # what a later version writes besides is passed over
                    handler(buffer, at, length)
            yield frame.at + frame.packed

    def _record(self, buffer: bytes, at: int, length: int) -> None:
        if length < entries.PLACE.size:
            raise self._damaged("a record without its place")
        generation, position = entries.PLACE.unpack_from(buffer, at)
        at += entries.PLACE.size
        length -= entries.PLACE.size
        if length >= entries.HEADER.size:
            self._utc_ns = entries.HEADER.unpack_from(buffer, at)[0] + self._clock.offset
        self.records += 1
        self.pipeline.take(buffer, at, length, generation, position)

    def _tick(self, buffer: bytes, at: int, length: int) -> None:
        if length < entries.MOMENT.size:
            raise self._damaged("a tick without its time")
        monotonic_ns, self._utc_ns = entries.MOMENT.unpack_from(buffer, at)
        self.pipeline.tick(monotonic_ns)

    def _answer(self, buffer: bytes, at: int, length: int) -> None:
        what, arguments, answer = self._decoded(buffer, at, length, tuple[str, list[Any], Any])
        if what == "clock" and isinstance(answer, int):
            self._clock.offset = answer
            self.enricher.timeline.state = (self.enricher.timeline.offset, 0, 0)
        elif what == "learn":
            self.enricher.names.learn(*self._converted(arguments, tuple[int, str, str, int, str]))
        elif what == "set_attributes":
            sandbox_id, attributes = self._converted(arguments, tuple[int, dict[str, str]])
            if (sandbox := self.enricher.sandboxes.by_id.get(sandbox_id)) is not None and not sandbox.ended_ns:
                self.enricher.sandboxes.set_attributes(sandbox_id, attributes)
        else:
            self.answers.learn(what, arguments, answer)

    def _known(self, buffer: bytes, at: int, length: int) -> None:
        found = self._decoded(buffer, at, length, entries.Known)
        self._clock.offset = found.timeline[0]
        entries.restore(self.enricher, found)

    def _told(self, buffer: bytes, at: int, length: int) -> None:
        category, fields = self._decoded(buffer, at, length, tuple[str, dict[str, Any]])
        try:
            activity = filled(category, fields)
        except msgspec.ValidationError as error:
            raise self._damaged(str(error)) from error
        if activity is not None:
            self.pipeline.tell(activity)

    def _decoded(self, buffer: bytes, at: int, length: int, shape: Any) -> Any:
        try:
            return msgspec.msgpack.decode(buffer[at : at + length], type=shape)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise self._damaged(str(error)) from error

    def _converted(self, value: Any, shape: Any) -> Any:
        try:
            return msgspec.convert(value, shape)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> RecordingError:
        return RecordingError(f"{self._reader.path!a}: an entry is damaged: {why[:200]}")


def _config(reader: Reader) -> Config:
    """What said then how records are understood. What this version does not take of it is as by default."""
    hints = get_type_hints(Config)
    found: dict[str, Struct] = {}
    for name, value in reader.header.settings.items():
        if name in hints:
            try:
                found[name] = msgspec.convert(value, hints[name])
            except msgspec.ValidationError:
                continue
    config = Config(**found)  # type: ignore[arg-type]
    return complete(replace(config, paths=Paths(*[NOWHERE] * len(Paths.__struct_fields__))))
