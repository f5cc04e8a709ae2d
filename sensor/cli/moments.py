"""Durations and times as an operator types them, as callbacks of options. Times without a zone are UTC, as the
log's are."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import click

_SECOND_NS = 1_000_000_000
_DAY_NS = 86400 * _SECOND_NS
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(?:[0-9]{1,6}[smhdw]){1,5}")
_PART = re.compile(r"([0-9]+)([smhdw])")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """`90s`, `2h`, `1h30m`, `7d`: as whole seconds."""
    if value is None:
        return None
    if not _DURATION.fullmatch(value) or not (seconds := _seconds(value)):
        raise click.BadParameter(f"expected a duration such as 90s, 2h, 1h30m or 7d, found {value!r}")
    return seconds


def moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """`2026-12-01T02:00`, `2026-12-01`, `02:00` (the next time it is that late), `now`: as UTC nanoseconds."""
    return None if value is None else _moment(value.strip(), datetime.now(UTC))


def since(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """A moment in the past, or how long ago: as UTC nanoseconds."""
    if value is None:
        return None
    if _DURATION.fullmatch(value):
        return time.time_ns() - _seconds(value) * _SECOND_NS
    found = _moment(value.strip(), datetime.now(UTC))
    return found - _DAY_NS if _CLOCK.fullmatch(value.strip()) else found  # the last time it was that late


def _seconds(value: str) -> int:
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(value))


def _moment(text: str, now: datetime) -> int:
    try:
        return int(_parsed(text, now).timestamp()) * _SECOND_NS
    except (ValueError, OverflowError) as why:
        expected = "a time such as 02:00, 2026-12-01T02:00 or 2026-12-01T02:00+01:00"
        raise click.BadParameter(f"expected {expected}, found {text!r}") from why


def _parsed(text: str, now: datetime) -> datetime:
    if text == "now":
        return now
    if clock := _CLOCK.fullmatch(text):
        found = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
        return found if found > now else found + timedelta(days=1)
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
