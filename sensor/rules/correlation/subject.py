"""The event that a detection is about, kept as bytes until its window closes: who it was, and its texts cut short."""

from __future__ import annotations

import msgspec
from msgspec.structs import asdict

from sensor.events.activity import Activity
from sensor.rules.fields import CATEGORIES

MOST_TEXT = 256


def pack(activity: Activity) -> bytes:
    fields = {
        name: value[:MOST_TEXT] if isinstance(value, str | bytes) else value
        for name, value in asdict(activity).items()
        if name != "raw"
    }
    return msgspec.msgpack.encode((activity.category, {**fields, "raw": None}))


def unpack(packed: bytes) -> Activity | None:
    """None where it was another version's."""
    try:
        category, fields = msgspec.msgpack.decode(packed)
        return msgspec.convert(fields, CATEGORIES[category])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return None
