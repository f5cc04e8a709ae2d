"""The inverse of lines.py for events: a line of the log to the activity that it was made of.

What a line does not keep does not come back: whether a cut argv ended with a NUL, and lone surrogates, of which there
are none.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from calendar import timegm
from typing import Any

import msgspec
import orjson

from sensor.events.activity import AnyActivity
from sensor.events.kinds import filled
from sensor.export.lines import VERSION

HEAD = b'{"v":%d,"kind":"event","category":"' % VERSION
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{9})Z", re.ASCII)
_TAIL = "_b64"


def activity_of(line: bytes) -> AnyActivity | None:
    """None for what is no event, or of no category that this version knows. Raises ValueError for a damaged line."""
    if not line.startswith(HEAD):
        return None
    fields = orjson.loads(line)
    category = str(fields.pop("category"))
    generation, _, position = _string(fields.pop("id", None)).partition("-")
    values: dict[str, Any] = {
        "generation": _hexadecimal(generation),
        "position": _hexadecimal(position),
        "time_ns": _nanoseconds(_string(fields.pop("time", None))),
        "argv": _argv(fields),
        "raw": _raw(fields),
    }
    try:
        found: AnyActivity | None = filled(category, fields | values)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    return found


def _argv(fields: dict[str, Any]) -> bytes:
    encoded, arguments = fields.pop("Argv_b64", None), fields.pop("Argv", None)
    if encoded is not None:
        return _decoded(encoded)
    if not isinstance(arguments, list):
        return b""
    return "".join(f"{_string(each)}\0" for each in arguments).encode()


def _raw(fields: dict[str, Any]) -> dict[str, bytes] | None:
    names = [name for name in fields if name.endswith(_TAIL)]
    return {name.removesuffix(_TAIL): _decoded(fields.pop(name)) for name in names} or None


def _decoded(text: Any) -> bytes:
    try:
        return b64decode(_string(text), validate=True)
    except binascii.Error as error:
        raise ValueError("what should be base64 is not") from error


def _hexadecimal(text: str) -> int:
    number = int(text, 16)
    if not 0 <= number < 1 << 64:
        raise ValueError("an id beyond 64 bits")
    return number


def _nanoseconds(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("no time that we write")
    *date, nanoseconds = map(int, match.groups())
    return timegm((*date, 0, 0, 0)) * 1_000_000_000 + nanoseconds


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a number where a text belongs")
    return value
