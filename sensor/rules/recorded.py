"""A line of the log as the activity it was made of, as far as rules can see one.

Lines are JSON that anybody may hand in: what is no field of the category, or of the wrong kind, is left out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from sensor.events.activity import Activity, ProcessCreation
from sensor.rules import fields
from sensor.rules.testing import activity

_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,), "address": (str,), "number": (int,), "time": (int,), "flag": (bool,),
}  # fmt: skip


def recorded(record: dict[str, Any]) -> Activity:
    """Of an event or a detection (which has fewer fields). Raises ValueError for what is neither."""
    category = record.get("category")
    if not isinstance(category, str) or category not in fields.CATEGORIES:
        raise ValueError(f"not an event: its category is {category!r}")
    values = known(category, record)
    time_ns = _time_ns(record.get("time"))
    if time_ns:
        values["time_ns"] = time_ns
    made = activity(category, values)
    argv = record.get("Argv")
    if isinstance(made, ProcessCreation) and isinstance(argv, list):
        made = replace(made, argv=b"".join(str(word).encode("utf-8", "replace") + b"\0" for word in argv))
    return made


def known(category: str, record: dict[str, Any]) -> dict[str, Any]:
    """Fields of the category that the record has, with values of their kind."""
    table = fields.of_category(category)
    return {
        name: value
        for name, value in record.items()
        if name in table and type(value) in _KINDS[table[name].kind] and table[name].attribute == name
    }


def _time_ns(text: Any) -> int:
    """Of RFC 3339 with up to nine digits; 0 of anything else."""
    try:
        whole, _, rest = str(text).removesuffix("Z").partition(".")
        second = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
        return second * 10**9 + int(rest[:9].ljust(9, "0") or 0)
    except (ValueError, OverflowError):
        return 0
