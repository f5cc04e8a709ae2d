"""Secrets in what processes were called with are hidden from the screen, unless root says otherwise."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from sensor.errors import DeniedError

if TYPE_CHECKING:
    from sensor.cli.render import Record


def _root_only(_context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    if value and os.geteuid() != 0:
        raise DeniedError("--unredacted shows passwords and tokens: only root may ask for it")
    return value


unredacted_option = click.option(
    "--unredacted", is_flag=True, callback=_root_only, help="Show passwords and tokens too; root alone may."
)


def json_text(record: Record, line: bytes | None, unredacted: bool) -> str:
    """The record as one line of JSON: as it is logged (`line`), where nothing in it is hidden."""
    import orjson  # noqa: PLC0415

    from sensor.cli.escape import escape_json  # noqa: PLC0415
    from sensor.export.redact import redact  # noqa: PLC0415

    shown: Any = record if unredacted else redact(record)
    if line is not None and shown is record:
        return escape_json(line.decode("utf-8", "replace"))
    try:
        return escape_json(orjson.dumps(shown).decode())
    except TypeError:  # a lone surrogate, or a number beyond 64 bits
        return json.dumps(shown, separators=(",", ":"), default=str)
