"""What operators said of detections: this one is seen to, those need nobody for a while.

Kept in one file of the state folder, which is replaced as a whole. Nothing is detected, logged or done otherwise for
it: it decides who is told. Crashes of the process are covered; what the last seconds before a power loss said is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from secrets import token_hex
from typing import Any

import msgspec
from msgspec import Struct, field

from sensor.errors import ActError, NotFoundError

FILE = "silences.json"
MOST_ACKS = 4096  # the latest; more detections than the api shows
MOST_SILENCES = 256
_MOST_BYTES = 16 * 1024 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Ack(Struct, frozen=True):
    time_ns: int  # UTC, as all here
    operator: str
    reason: str


class Silence(Struct, frozen=True):
    """What all of its selectors fit is silent, from `from_ns` until `until_ns`."""

    id: str
    from_ns: int
    until_ns: int
    operator: str
    reason: str
    created_ns: int
    rule: str = ""  # id or title
    sandbox: int = 0
    class_: str = field(name="class", default="")

    def fits(self, rule_id: str, rule_title: str, sandbox_id: int, class_: str, time_ns: int) -> bool:
        return (
            self.from_ns <= time_ns < self.until_ns
            and (not self.rule or self.rule in (rule_id, rule_title))
            and (not self.sandbox or self.sandbox == sandbox_id)
            and (not self.class_ or self.class_ == class_)
        )


class Kept(Struct):
    acks: dict[str, Ack] = {}
    silences: list[Silence] = []


def read(folder: str) -> Kept:
    """What the file holds; empty where there is none.

    :raises OSError:
    :raises msgspec.MsgspecError: it is damaged.
    """
    try:
        fd = os.open(os.path.join(folder, FILE), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Kept()
    with open(fd, "rb") as file:
        return msgspec.json.decode(file.read(_MOST_BYTES), type=Kept)


class Silences:
    """`folder`: the state directory. `damage` is one line for the operator, where the file could not be read: it is
    kept aside, and nothing is silent."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.damage = ""
        try:
            self._kept = read(folder)
        except (OSError, msgspec.MsgspecError) as why:
            self._kept = Kept()
            path = os.path.join(folder, FILE)
            self.damage = f"{path}: cannot be read, and is kept as {FILE}.damaged: {why}"
            with suppress(OSError):
                os.replace(path, path + ".damaged")
        self._acks: dict[str, Any] = msgspec.to_builtins(self._kept.acks)

    def acknowledge(self, detection_id: str, reason: str, operator: str) -> Ack:
        """:raises ActError: as all that change something: it cannot be written, and is not so."""
        ack = Ack(time.time_ns(), operator, reason)
        acks = {**self._kept.acks, detection_id: ack}
        while len(acks) > MOST_ACKS:
            del acks[next(iter(acks))]
        self._write(Kept(acks, self._kept.silences))
        self._acks = msgspec.to_builtins(acks)  # some ms for thousands, but once for each that somebody types
        return ack

    def acks(self) -> Mapping[str, Any]:
        return self._acks

    def add(
        self, selectors: Mapping[str, Any], begins_ns: int, ends_ns: int, reason: str, operator: str
    ) -> dict[str, Any]:
        """`selectors`: rule, sandbox (its id), class; one at least."""
        now = time.time_ns()
        living = self._living(now)
        if len(living) >= MOST_SILENCES:
            raise ActError(f"there are {len(living)} silences already: end some first")
        made = Silence(
            "s-" + token_hex(4), begins_ns, ends_ns, operator, reason, now,
            str(selectors.get("rule") or ""), int(selectors.get("sandbox") or 0), str(selectors.get("class") or ""),
        )  # fmt: skip
        if not (made.rule or made.sandbox or made.class_):
            raise ActError("a silence without a rule, a sandbox or a class would silence everything")
        self._write(Kept(self._kept.acks, [*living, made]))
        return _shown(made)

    def remove(self, id: str) -> dict[str, Any]:
        """:raises NotFoundError:"""
        living = self._living(time.time_ns())
        found = [one for one in living if one.id == id]
        if not found:
            raise NotFoundError(f"no silence {id[:64]!a} in force; see pinfold detections silences")
        self._write(Kept(self._kept.acks, [one for one in living if one.id != id]))
        return _shown(found[0])

    def list(self) -> list[dict[str, Any]]:
        """Those that are in force, and those to come."""
        return [_shown(one) for one in self._living(time.time_ns())]

    def silent(self, rule_id: str, rule_title: str, sandbox_id: int, class_: str, time_ns: int) -> str:
        """The id of a silence that fits, or ""."""
        if not self._kept.silences:
            return ""
        fitting = (one.id for one in self._kept.silences if one.fits(rule_id, rule_title, sandbox_id, class_, time_ns))
        return next(fitting, "")

    def _living(self, now_ns: int) -> tuple[Silence, ...]:
        return tuple(one for one in self._kept.silences if one.until_ns > now_ns)

    def _write(self, kept: Kept) -> None:
        path = os.path.join(self._folder, FILE)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with open(os.open(path + ".new", _FLAGS, 0o600), "wb") as file:
                file.write(msgspec.json.encode(kept))
            os.replace(path + ".new", path)
        except OSError as why:
            raise ActError(f"{path}: cannot be written, and nothing was changed: {why.strerror}") from why
        self._kept = kept


def _shown(silence: Silence) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(silence)
    return {name: value for name, value in shown.items() if value not in ("", 0)}
