"""Responses that were announced and wait for their grace to end. Kept in the state folder: a sensor that is restarted
meanwhile carries them out, or else whoever can crash it could buy itself out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast, get_args

import msgspec
from msgspec import Struct

from sensor.config import Action
from sensor.events.activity import ProcessTermination
from sensor.events.detection import Detection
from sensor.respond.statefile import StateFile

MOST_WAITING = 256
_BOOT = "/proc/sys/kernel/random/boot_id"


class _Stored(Struct):
    """What acting needs of a detection. Nothing of a program's own words: they may be long, and are in the log."""

    boot: str  # pids, start times and cgroup ids are one boot's
    due_ns: int
    action: str
    id: str
    time_ns: int
    rule_id: str
    rule_title: str
    level: str
    tags: tuple[str, ...]
    generation: int
    position: int
    event_ns: int
    monotonic_ns: int
    sandbox_id: int
    sandbox_name: str
    sandbox_class: str
    cgroup_id: int
    process_id: int
    process_guid: str


class Waiting(Struct, frozen=True):
    detection: Detection
    action: Action
    due_ns: int  # UTC, since a restart has no other clock to go on with


class Graces:
    """In the order of their announcements."""

    def __init__(self, state: str, now: Callable[[], int] = time.time_ns, boot: str | None = None) -> None:
        self._file = StateFile(state, "announced.json")
        self._now = now
        self._boot = _boot_id() if boot is None else boot
        self._waiting: dict[str, Waiting] = {}
        self._first_ns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def due(self) -> bool:
        return bool(self._waiting) and self._first_ns <= self._now()

    def restore(self) -> list[Waiting]:
        """Once, at start: what the last run had announced in this boot.

        :raises OSError, ValueError: it cannot be read.
        """
        content = self._file.read()
        try:
            stored = msgspec.json.decode(content, type=list[_Stored]) if content else []
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(str(error)) from error
        for each in stored[:MOST_WAITING]:
            if each.boot == self._boot and each.action in get_args(Action):
                self._waiting[each.id] = Waiting(_restored(each), cast(Action, each.action), each.due_ns)
        self._set_first()
        return list(self._waiting.values())

    def add(self, detection: Detection, action: Action, seconds: int) -> bool:
        """False: so many wait that this one cannot, and is to be done at once.

        :raises OSError: it waits, but not over a restart.
        """
        if detection.id in self._waiting:
            return True
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting[detection.id] = Waiting(detection, action, self._now() + seconds * 1_000_000_000)
        self._set_first()
        self._save()
        return True

    def take_due(self) -> list[Waiting]:
        """They wait no more, but stay in the file until `settled`: a crash in between does them again, and doing them
        twice is doing them once."""
        now_ns = self._now()
        over = [each for each in self._waiting.values() if each.due_ns <= now_ns]
        for each in over:
            del self._waiting[each.detection.id]
        self._set_first()
        return over

    def settled(self) -> None:
        """:raises OSError: the file still has what was taken."""
        self._save()

    def _set_first(self) -> None:
        self._first_ns = min((each.due_ns for each in self._waiting.values()), default=0)

    def _save(self) -> None:
        self._file.write(msgspec.json.encode([_stored(each, self._boot) for each in self._waiting.values()]))


def _stored(waiting: Waiting, boot: str) -> _Stored:
    detection, activity = waiting.detection, waiting.detection.activity
    return _Stored(
        boot, waiting.due_ns, waiting.action, detection.id, detection.time_ns, detection.rule_id, detection.rule_title,
        detection.level, detection.tags, activity.generation, activity.position, activity.time_ns,
        activity.monotonic_ns, activity.SandboxId, activity.SandboxName, activity.SandboxClass, activity.CgroupId,
        activity.ProcessId, activity.ProcessGuid,
    )  # fmt: skip


def _restored(each: _Stored) -> Detection:
    """As an event that says no more than who it was."""
    activity = ProcessTermination(
        each.generation, each.position, each.event_ns, each.monotonic_ns, each.sandbox_id, each.sandbox_name,
        each.sandbox_class, each.cgroup_id, each.process_id, each.process_guid, "", "", "", "", 0, "", "", "", "",
        True, None, 0, 0,
    )  # fmt: skip
    return Detection(each.id, each.time_ns, each.rule_id, each.rule_title, each.level, each.tags, activity)


def _boot_id() -> str:
    try:
        with open(_BOOT, encoding="ascii") as file:
            return file.read(36)
    except OSError:
        return ""
