"""What operators know of already: acknowledged detections, and silences of a rule, sandbox or class for a while.

Still detected and logged; only the response is left out. Kept in the state folder. What cannot be read is put aside and
silences nothing: then everything is answered, which is the safe side.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from sensor.errors import ActError, NotFoundError, UsageError
from sensor.events.detection import Detection
from sensor.respond.statefile import StateFile

FILE = "silences.json"
MOST_SILENCES = 256
MOST_ACKNOWLEDGED = 4096
MOST_SECONDS = 366 * 24 * 3600
MOST_CHARACTERS = 500
SECOND_NS = 1_000_000_000


class Silence(Struct, frozen=True):
    """All that is given must fit. Times are UTC in nanoseconds."""

    id: str
    reason: str
    operator: str
    from_ns: int
    until_ns: int
    rule: str = ""  # id or title
    sandbox: str = ""  # cgroup id or name
    class_: str = field(name="class", default="")  # * for every one

    def fits(self, detection: Detection, now_ns: int) -> bool:
        activity = detection.activity
        return (
            self.from_ns <= now_ns < self.until_ns
            and self.rule in ("", detection.rule_id, detection.rule_title)
            and self.sandbox in ("", str(activity.SandboxId), activity.SandboxName)
            and self.class_ in ("", "*", activity.SandboxClass)
        )


class Acknowledgement(Struct, frozen=True):
    detection_id: str
    reason: str
    operator: str
    time_ns: int


class Kept(Struct):
    """The file."""

    version: int = 1
    silences: list[Silence] = []
    acknowledged: list[Acknowledgement] = []


class Silences:
    """`told(text, **fields)` is told of a file that had to be put aside. `now` is UTC in nanoseconds."""

    def __init__(self, state: str, told: Callable[..., None], now: Callable[[], int] = time.time_ns) -> None:
        self._file = StateFile(state, FILE)
        self._now = now
        kept = self._load(told)
        self._silences = {silence.id: silence for silence in kept.silences[:MOST_SILENCES]}
        self._acknowledged = {each.detection_id: each for each in kept.acknowledged[-MOST_ACKNOWLEDGED:]}
        self._shown = _acks(self._acknowledged)

    def matches(self, detection: Detection) -> str:
        """Why its response is left out, in one line; "" where it is not."""
        now_ns = self._now()
        for silence in self._silences.values():
            if silence.fits(detection, now_ns):
                return f"silence {silence.id} of {silence.operator}: {silence.reason}"
        return ""

    def acknowledged(self, detection: Detection) -> str:
        """As `matches`, of this one detection."""
        found = self._acknowledged.get(detection.id)
        return f"acknowledged by {found.operator}: {found.reason}" if found is not None else ""

    def add(self, wanted: Silence) -> Silence:
        """With an id of its own, whatever `wanted` has.

        :raises UsageError: it is for nothing, for ever, or too many are in force.
        :raises ActError: it cannot be kept, and is not in force.
        """
        now_ns = self._now()
        self._drop_ended(now_ns)
        _refuse(wanted, now_ns)
        if len(self._silences) >= MOST_SILENCES:
            raise UsageError(f"{MOST_SILENCES} silences are in force already: remove some")
        made = replace(wanted, id=os.urandom(4).hex())
        self._save(self._silences | {made.id: made}, self._acknowledged)
        return made

    def remove(self, silence_id: str) -> Silence:
        """:raises NotFoundError: no silence has that id.
        :raises ActError: it cannot be written down, and stays in force."""
        found = self._silences.get(silence_id)
        if found is None:
            raise NotFoundError(f"no silence has the id {silence_id[:64]!a}")
        self._save({key: each for key, each in self._silences.items() if key != silence_id}, self._acknowledged)
        return found

    def acknowledge(self, detection_id: str, reason: str, operator: str) -> Acknowledgement:
        """:raises UsageError: without a reason. :raises ActError: it cannot be kept."""
        for text in (detection_id, reason, operator):
            _refuse_text(text)
        made = Acknowledgement(detection_id, reason, operator, self._now())
        acknowledged = {key: each for key, each in self._acknowledged.items() if key != detection_id}
        acknowledged[detection_id] = made
        while len(acknowledged) > MOST_ACKNOWLEDGED:
            del acknowledged[next(iter(acknowledged))]
        self._save(self._silences, acknowledged)
        return made

    def acks(self) -> Mapping[str, Any]:
        """What was acknowledged, by detection, as JSON objects."""
        return self._shown

    def listed(self) -> list[Silence]:
        """Those that are in force or will be, by when they end."""
        now_ns = self._now()
        return sorted(
            (each for each in self._silences.values() if each.until_ns > now_ns), key=lambda one: one.until_ns
        )

    def acknowledgement(self, detection_id: str) -> Acknowledgement | None:
        return self._acknowledged.get(detection_id)

    def _drop_ended(self, now_ns: int) -> None:
        self._silences = {key: each for key, each in self._silences.items() if each.until_ns > now_ns}

    def _save(self, silences: dict[str, Silence], acknowledged: dict[str, Acknowledgement]) -> None:
        """In force only once it is written: a restart must not bring back what somebody took back."""
        kept = Kept(1, list(silences.values()), list(acknowledged.values()))
        try:
            self._file.write(msgspec.json.encode(kept))
        except OSError as error:
            raise ActError(f"{self._file.path}: cannot be written: {error.strerror}") from error
        self._silences, self._acknowledged = silences, acknowledged
        self._shown = _acks(acknowledged)

    def _load(self, told: Callable[..., None]) -> Kept:
        try:
            content = self._file.read()
            kept = msgspec.json.decode(content, type=Kept) if content is not None else Kept()
            if kept.version != 1:
                raise ValueError(f"its version is {kept.version}")
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            try:
                where = self._file.put_aside()
            except OSError:
                where = self._file.path
            told(f"silences cannot be read, none is in force: {reason}; see {where!a}", reason=reason, file=where)
            return Kept()
        return kept


def read(state: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Acknowledgements by detection, and silences, as JSON objects: for whoever only looks, with the sensor dead.

    :raises OSError:
    :raises msgspec.MsgspecError: it is damaged.
    """
    content = StateFile(state, FILE).read()
    kept = msgspec.json.decode(content, type=Kept) if content is not None else Kept()
    silences: list[dict[str, Any]] = msgspec.to_builtins(kept.silences)
    return _acks({each.detection_id: each for each in kept.acknowledged}), silences


def _acks(acknowledged: Mapping[str, Acknowledgement]) -> dict[str, Any]:
    """Some milliseconds for thousands, but once for each that somebody types."""
    return {key: msgspec.to_builtins(each) for key, each in acknowledged.items()}


def _refuse(wanted: Silence, now_ns: int) -> None:
    for text in (wanted.reason, wanted.operator):
        _refuse_text(text)
    if not (wanted.rule or wanted.sandbox or wanted.class_):
        raise UsageError("a silence needs a rule, a sandbox or a class (* for every class)")
    for text in (wanted.rule, wanted.sandbox, wanted.class_):
        if len(text) > MOST_CHARACTERS or not text.isprintable():
            raise UsageError(f"at most {MOST_CHARACTERS} printable characters name what is silenced")
    if not now_ns < wanted.until_ns <= now_ns + MOST_SECONDS * SECOND_NS:
        raise UsageError(f"a silence ends within {MOST_SECONDS} seconds from now, and after now")
    if wanted.from_ns >= wanted.until_ns:
        raise UsageError("a silence begins before it ends")


def _refuse_text(text: str) -> None:
    if not text.strip() or len(text) > MOST_CHARACTERS or not text.isprintable():
        raise UsageError(f"a reason is mandatory: one line of at most {MOST_CHARACTERS} printable characters")
