"""What a process reads from and writes to: the kinds of its standard streams."""

from __future__ import annotations

from sensor.events.layouts import Stream

_NAMES = tuple("" if kind is Stream.NONE else kind.name.lower() for kind in Stream)


def stream_name(kind: int) -> str:
    return _NAMES[kind] if kind < len(_NAMES) else "other"
