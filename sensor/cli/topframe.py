"""One picture of `pinfold top`: what the sensor told, as rows that fit. Knows no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from msgspec import Struct

from sensor.cli.escape import escape, fit
from sensor.cli.rendernet import size
from sensor.export.redact import redact_text

Row = dict[str, Any]
Style = str  # "", title, head, bad, warn, good

SORTS = ("events_s", "connects_s", "bytes_out_s", "bytes_in_s", "detections", "lost", "processes", "name")
HELP = (
    "pinfold top: what the sandboxes do, from the running sensor, once a second",
    "",
    "  q, Ctrl-C    quit",
    "  s, S         sort by the next column, by the one before",
    "  p, space     hold the picture still, and go on",
    "  j k, arrows  scroll the sandboxes; PgUp, PgDn by pages, g G to the ends",
    "  ?, h         this help, and back",
    "",
    "State: clean; detected; unknown where events were lost; tamperable where the",
    "sandbox could reach the probes; quarantine. LOST counts events of a sandbox.",
    "Rates are of the last second, bytes are decimal: 1.2k, 35M.",
)
_STATES = {"detected": "bad", "tamperable": "bad", "quarantine": "warn", "unknown": "warn"}
_LEVELS = {"critical": "bad", "high": "bad", "medium": "warn"}
_LEAST_FOR_ALL = 8  # rows below which sandboxes alone are shown
_STALE_S = 5
_TEXT = 512  # of a name that is looked at


class Part(NamedTuple):
    text: str
    style: Style = ""


class View(Struct):
    """What somebody looks at, and how."""

    told: Row | None = None
    told_at: float = 0.0  # monotonic
    error: str = ""
    sort: int = 0
    scroll: int = 0
    shown: int = 0  # sandboxes, of the latest picture
    paused: bool = False
    help: bool = False


class _Column(NamedTuple):
    heading: str
    field: str
    width: int
    right: bool = True


_SANDBOXES = (
    _Column("SANDBOX", "name", 14, False), _Column("CLASS", "class", 8, False), _Column("STATE", "state", 10, False),
    _Column("PROC", "processes", 5), _Column("EV/S", "events_s", 6), _Column("CON/S", "connects_s", 6),
    _Column("OUT/S", "bytes_out_s", 6), _Column("IN/S", "bytes_in_s", 6), _Column("DET", "detections", 4),
    _Column("LOST", "lost", 5),
)  # fmt: skip
_TALKERS = (
    _Column("TALKER IN", "sandbox", 14, False), _Column("PROCESS", "process", 14, False),
    _Column("DESTINATION", "destination", 26, False), _Column("PROTOCOL", "protocol", 8, False),
    _Column("OUT/S", "bytes_out_s", 6), _Column("IN/S", "bytes_in_s", 6),
)  # fmt: skip
_DETECTIONS = (
    _Column("DETECTED", "time_ns", 8, False), _Column("LEVEL", "level", 8, False),
    _Column("SANDBOX", "sandbox", 14, False), _Column("RULE", "rule", 46, False),
)  # fmt: skip
_GROWS = {"name": 40, "sandbox": 40, "class": 16, "process": 24, "destination": 60, "rule": 200}


def frame(view: View, width: int, height: int, now: float | None = None) -> list[Part]:
    """At most `height` rows of at most `width` columns; never raises, whatever was told."""
    if width < 1 or height < 1:
        return []
    if view.help:
        rows = [Part(line, "" if number else "title") for number, line in enumerate(HELP)]
    else:
        now = time.monotonic() if now is None else now
        body = _body(view, width, max(0, height - len(_head(view, now)) - 1))
        rows = [*_head(view, now), *body]  # again: it tells which sandboxes are shown
    rows = rows[: height - 1] if height > 1 else rows[:1]
    if height > 1:
        keys = "q quit  s sort  p hold  j/k scroll  ? help"
        rows += [Part("")] * (height - 1 - len(rows)) + [Part("? back  q quit" if view.help else keys, "title")]
    return [Part(fit(escape(row.text), width), row.style) for row in rows]


def scrolled(view: View, by: int) -> None:
    """Within the sandboxes there are."""
    last = max(0, len(_list((view.told or {}).get("sandboxes"))) - 1)
    view.scroll = max(0, min(view.scroll + by, last))


def _head(view: View, now: float) -> list[Part]:
    told = view.told
    if told is None:
        return [Part("pinfold top", "title"), Part(view.error or "waiting for the sensor", "warn")]
    used, whole = number(told.get("ring_used")), number(told.get("ring_size"))
    full = min(used / whole, 1.0) if whole > 0 else 0.0
    ring = f"ring {full:.0%} [{'#' * round(full * 8):8}]" if whole > 0 else ""
    shown = [
        "pinfold top",
        _clock(told.get("time_ns")),
        "HELD" if view.paused else "",
        _counted(view, len(_list(told.get("sandboxes")))),
        f"{rate(told.get('events_s'))} events/s",
        ring,
    ]
    rows = [Part("  ".join(filter(None, shown)), "title"), _lost(told.get("lost"))]
    age = now - view.told_at
    if view.error:
        rows.append(Part(f"{view.error}; trying again; this is {age:.0f} s old", "bad"))
    elif age > _STALE_S and not view.paused:
        rows.append(Part(f"no news from the sensor for {age:.0f} s", "warn"))
    return rows


def _counted(view: View, sandboxes: int) -> str:
    part = f" ({view.scroll + 1}-{view.scroll + view.shown})" if 0 < view.shown < sandboxes else ""
    return f"{sandboxes} sandboxes{part}"


def _lost(value: Any) -> Part:
    lost = {str(name)[:64]: number(count) for name, count in value.items()} if isinstance(value, dict) else {}
    total = sum(lost.values())
    if total <= 0:
        return Part("lost 0 events", "good")
    worst = sorted(lost.items(), key=lambda pair: -pair[1])
    reasons = ", ".join(f"{name} {count:.0f}" for name, count in worst if count)
    return Part(f"LOST {total:.0f} events: {reasons}", "bad")


def _body(view: View, width: int, rows: int) -> list[Part]:
    told = view.told or {}
    sandboxes = _sorted(_list(told.get("sandboxes")), SORTS[view.sort % len(SORTS)])
    if view.told is None or rows <= 0:
        return []
    if rows < _LEAST_FOR_ALL:
        return _sandboxes(view, sandboxes, width, rows)
    talkers, detections = _list(told.get("talkers")), _list(told.get("detections"))
    for_sandboxes, for_talkers, for_detections = _shares(rows, len(sandboxes), len(talkers), len(detections))
    return [
        *_sandboxes(view, sandboxes, width, for_sandboxes),
        *_table(_TALKERS, talkers, width, for_talkers, none="nobody talks"),
        *_table(_DETECTIONS, detections, width, for_detections, none="none"),
    ]


def _shares(rows: int, sandboxes: int, talkers: int, detections: int) -> tuple[int, int, int]:
    """Rows for each, headings included. What one leaves, the sandboxes get; what they leave, the others."""
    wanted = [max(1, count) + 1 for count in (sandboxes, talkers, detections)]
    least = max(2, rows * 3 // 10)
    second, third = min(wanted[1], least), min(wanted[2], least)
    first = min(wanted[0], rows - second - third)
    left = rows - first - second - third
    more = min(left, wanted[2] - third)
    return first, second + min(left - more, wanted[1] - second), third + more


def _sandboxes(view: View, found: list[Row], width: int, rows: int) -> list[Part]:
    shown = max(0, rows - 1)
    view.scroll = max(0, min(view.scroll, len(found) - shown))
    part = found[view.scroll : view.scroll + shown]
    view.shown = len(part)
    return _table(_SANDBOXES, part, width, rows, none="no sandboxes", by=SORTS[view.sort % len(SORTS)])


def _table(
    columns: tuple[_Column, ...], found: list[Row], width: int, rows: int, *, none: str, by: str = ""
) -> list[Part]:
    if rows <= 0:
        return []
    widths = _widths(columns, width)
    heading = _cells(((f"{column.heading}{'*' * (column.field == by)}", column) for column in columns), widths)
    made = [Part(heading.ljust(width), "head")]
    for one in found[: rows - 1]:
        cells = _cells(((_cell(one, column.field), column) for column in columns), widths)
        made.append(Part(cells, _style(one)))
    return made if found else [*made, Part(none)][:rows]


def _widths(columns: tuple[_Column, ...], width: int) -> list[int]:
    widths = [column.width for column in columns]
    spare = width - sum(widths) - len(widths) + 1
    for index, column in enumerate(columns):
        more = max(0, min(spare, _GROWS.get(column.field, 0) - widths[index]))
        widths[index] += more
        spare -= more
    return widths


def _cells(cells: Iterable[tuple[str, _Column]], widths: list[int]) -> str:
    from rich.cells import cell_len  # noqa: PLC0415

    parts = []
    for (text, column), width in zip(cells, widths, strict=True):
        shown = fit(escape(text), width)
        space = " " * max(0, width - cell_len(shown))
        parts.append(space + shown if column.right else shown + space)
    return " ".join(parts).rstrip()


def _cell(one: Row, field: str) -> str:
    value = one.get(field)
    if field == "time_ns":
        return _clock(value)[:8]
    if field == "state" and one.get("quarantine"):
        return "quarantine"
    if field.endswith("_s") or field in ("processes", "detections", "lost"):
        return rate(sum(map(number, value.values())) if isinstance(value, dict) else value)
    return redact_text(str(value)[:_TEXT]) if value is not None else ""


def _style(one: Row) -> Style:
    if one.get("quarantine"):
        return "warn"
    return _STATES.get(str(one.get("state")), _LEVELS.get(str(one.get("level")), ""))


def _sorted(found: list[Row], by: str) -> list[Row]:
    if by == "name":
        return sorted(found, key=lambda one: str(one.get("name"))[:_TEXT])
    return sorted(found, key=lambda one: (-_weight(one.get(by)), str(one.get("name"))[:_TEXT]))


def _weight(value: Any) -> float:
    return sum(map(number, value.values())) if isinstance(value, dict) else number(value)


def _list(value: Any) -> list[Row]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def number(value: Any) -> float:
    """0 for what is none, and for what no clock or counter gives."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return 0.0
    return float(max(0, min(value, 1 << 63)))


def rate(value: Any) -> str:
    """`0.3`, `12`, `1.2k`."""
    exact = number(value)
    return f"{exact:.1f}" if 0 < exact < 9.95 and exact != int(exact) else size(round(exact))


def _clock(value: Any) -> str:
    ns = number(value)
    return time.strftime("%H:%M:%SZ", time.gmtime(min(ns / 1e9, 253402300799))) if ns else ""
