"""Things as a table, as JSON, or as one line each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from sensor.cli.common import json_line, styled, table
from sensor.cli.escape import escape

Row = dict[str, Any]
OUTPUTS = ("table", "json", "compact")

output_option = click.option(
    "-o", "output", type=click.Choice(OUTPUTS), default="table", show_default=True, help="compact: a line each."
)


class Column(NamedTuple):
    heading: str
    text: Callable[[Row], str]
    folds: bool = False  # over several lines, where the terminal is too narrow


def column(heading: str, name: str, folds: bool = False) -> Column:
    return Column(heading, lambda row: cell(row.get(name)), folds)


def emit(output: str, rows: Sequence[Row], columns: Sequence[Column], none: str) -> None:
    """`json` has everything, a line each; `compact` the columns, separated by tabs. `none` says on stderr that
    there is nothing to show."""
    if output == "json":
        for row in rows:
            json_line(row)
    elif output == "compact":
        for row in rows:
            click.echo("\t".join(escape(each.text(row)) for each in columns))
    elif rows:
        cells = [[each.text(row) for row in rows] for each in columns]
        # A column that says nothing of any row only takes room from the others.
        telling = [index for index, texts in enumerate(cells) if index == 0 or any(texts)]
        headings = [columns[index].heading for index in telling]
        folds = {columns[index].heading for index in telling if columns[index].folds}
        table(headings, zip(*(cells[index] for index in telling), strict=True), folds)
    if not rows:
        click.echo(none, err=True)


def facts(output: str, value: Any, pairs: Iterable[tuple[str, str]]) -> None:
    """One thing: what is known of it below each other, or as name=value in one line."""
    if output == "json":
        json_line(value)
    elif output == "compact":
        click.echo("\t".join(f"{name.lower().replace(' ', '_')}={escape(text)}" for name, text in pairs))
    else:
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in pairs:
            grid.add_row(escape(name), styled(text))
        Console(highlight=False).print(grid)


def pairs(known: Row, output: str) -> list[tuple[str, str]]:
    """What `facts` shows of an answer: in a table each of several texts in a line of its own."""
    found: list[tuple[str, str]] = []
    for name, value in known.items():
        title = name.removesuffix("_ns").replace("_", " ").capitalize()
        if isinstance(value, list | tuple):
            texts = [cell(one) for one in value] if output == "table" else ["; ".join(map(cell, value))]
            found += zip((title, *[""] * len(texts)), texts, strict=False)
        else:
            found.append((title, when(value) if name.endswith("_ns") else cell(value)))
    return [(title, text) for title, text in found if text]


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={cell(one)}" for name, one in value.items())
    return ", ".join(map(cell, value)) if isinstance(value, list | tuple) else str(value)


def whole(value: Any) -> int:
    """A number of an answer; 0 for whatever else stands in its place."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def when(ns: Any) -> str:
    """Of UTC nanoseconds; "" of none."""
    number = whole(ns)
    if not 0 < number < 253_402_300_800_000_000_000:  # the year 9999
        return ""
    return datetime.fromtimestamp(number / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def since(ns: Any) -> str:
    number = whole(ns)
    return span(max(time.time_ns() - number, 0)) if number > 0 else ""


def span(ns: int) -> str:
    """Two digits or three, and a unit: 420 µs, 12 ms, 3.1 s, 4 min, 5 h, 6 d."""
    for unit, size, most in (("µs", 1_000, 1_000), ("ms", 1_000_000, 1_000), ("s", 1_000_000_000, 100)):
        if ns < most * size:
            return f"{ns / size:.1f} {unit}" if ns < 10 * size else f"{ns // size} {unit}"
    minutes = ns // 60_000_000_000
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
