"""The event and detection log: written here, read here, described by schema.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import orjson

from sensor.export.log import EventLog
from sensor.export.recovery import Recovery

__all__ = ["EventLog", "Recovery", "schema"]


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one line of the log."""
    return cast(dict[str, Any], orjson.loads(Path(__file__).with_name("schema.json").read_bytes()))
