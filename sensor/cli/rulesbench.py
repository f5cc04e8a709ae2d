"""`pinfold rules bench`: how many events a second rules take, and which of them are dear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sensor.cli.common import config_option, json_line
from sensor.cli.rulefind import paths_argument, say, where
from sensor.cli.show import Column, column, emit, output_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sensor.events.activity import Activity

_PACES = (
    column("Category", "category", True),
    column("Rules", "rules"),
    column("Events", "events"),
    column("Matched", "matched"),
    Column("Events/s", lambda row: f"{row['per_second']:,}"),
)
_PRICES = (
    Column("µs/event", lambda row: f"{row['ns'] / 1000:.2f}"),
    column("Matched", "matched"),
    column("Indexed", "indexed"),
    column("Category", "category", True),
    column("Rule", "title", True),
)


@click.command()
@config_option
@output_option
@click.option("--log", "log", metavar="FILE", help="Events of this log, rather than those of the rules' examples.")
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=0.5, show_default=True, help="For each category.")
@click.option("-n", "number", type=click.IntRange(min=0), default=10, show_default=True, help="The dearest rules.")
@paths_argument
def bench(
    config_path: str | None, output: str, *, log: str | None, seconds: float, number: int, paths: tuple[str, ...]
) -> int:
    """Measure the rules in PATHs, else all that are configured: events a second, and what each rule takes alone.

    Processor time on one core of this machine. A rule that is not indexed is evaluated for every event of its
    category.
    """
    from msgspec.structs import asdict  # noqa: PLC0415

    from sensor.errors import UsageError  # noqa: PLC0415
    from sensor.rules.measuring import events_of, measure  # noqa: PLC0415

    places = where(config_path, paths)
    events = list(_logged(log)) if log is not None else events_of(places)
    if not events:
        raise UsageError(f"{log or 'the examples'}: no events there: give a log with --log")
    measured = measure(places, events, seconds)
    paces = [asdict(pace) for pace in measured.paces]
    prices: list[dict[str, Any]] = [
        {"ns": one.ns, "matched": one.matched, "indexed": one.indexed, "category": one.rule.category,
         "title": one.rule.title, "id": one.rule.id, "file": one.rule.file}
        for one in measured.prices[:number]
    ]  # fmt: skip
    if output == "json":
        json_line({"paces": paces, "rules": prices})
    else:
        emit(output, paces, _PACES, "no rule is about any of the events")
        if output == "table" and prices:
            click.echo()
        if prices:
            emit(output, prices, _PRICES, "")
    return say(measured.refused)


def _logged(path: str) -> Iterator[Activity]:
    """Newest first, over its rotated files; what is no event is passed over."""
    from sensor.cli.choose import parsed  # noqa: PLC0415
    from sensor.cli.events import readable  # noqa: PLC0415
    from sensor.export.reader import backwards  # noqa: PLC0415
    from sensor.rules.measuring import MOST_EVENTS  # noqa: PLC0415
    from sensor.rules.recorded import recorded  # noqa: PLC0415

    readable(path)
    left = MOST_EVENTS
    for line in backwards(path):
        record = parsed(line)
        if record.get("kind") != "event":
            continue
        try:
            yield recorded(record)
        except ValueError:
            continue
        left -= 1
        if not left:
            return
