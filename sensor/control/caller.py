"""Who asks, as the core found out, and what a request can fail of."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sensor.configcontrol import Control
from sensor.errors import ActError, DeniedError, NeverTouchError, NotFoundError, PinfoldError, UsageError

Level = Literal["", "read", "touch", "change"]


class ConflictError(PinfoldError):
    """Not as things stand: several are meant, or its state forbids it."""


class BusyError(PinfoldError):
    """Not now: too much was asked for."""


class Caller(Struct, frozen=True):
    """`allowed`: everything, only reading, or (a tuple) touching sandboxes below these cgroups."""

    uid: int
    tgid: int
    executable: str
    allowed: Literal["", "read", "change"] | tuple[str, ...]

    @property
    def level(self) -> Level:
        return "touch" if isinstance(self.allowed, tuple) else self.allowed

    def __str__(self) -> str:
        """As an order's operator is written."""
        return f"uid {self.uid}, pid {self.tgid}, {self.executable}"


def allowed(
    control: Control, group: int, own: int, uid: int, groups: frozenset[int]
) -> Literal["", "read", "change"] | tuple[str, ...]:
    """:param own: the core's own uid, which is root's."""
    if uid in {0, own} or uid in control.uids:
        return "change"
    for launcher in control.launchers:
        if launcher.uid == uid:
            return launcher.parents
    return "read" if group in groups else ""


def code_of(error: PinfoldError) -> str:
    """Of wire.CODES."""
    if isinstance(error, UsageError):
        return "usage"
    if isinstance(error, NotFoundError):
        return "not_found"
    if isinstance(error, DeniedError):
        return "denied"
    if isinstance(error, ConflictError | NeverTouchError):
        return "conflict"
    if isinstance(error, BusyError):
        return "busy"
    assert isinstance(error, ActError | PinfoldError)
    return "failed"


def printable(text: str, most: int = 256) -> str:
    """Of what somebody else chose: one line, bounded, Unicode that can be encoded."""
    cut = text[:most]
    return "".join(each if each.isprintable() and not "\ud800" <= each <= "\udfff" else "\ufffd" for each in cut)
