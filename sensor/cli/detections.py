"""`pinfold detections`: list, describe, follow; acknowledge and silence are in `silences`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import click

from sensor.cli import moments, silences
from sensor.cli.common import config_option, settings
from sensor.cli.events import LEVELS
from sensor.cli.events import output_option as lines_option
from sensor.cli.redaction import unredacted_option
from sensor.cli.show import Column, Row, output_option

if TYPE_CHECKING:
    from sensor.cli.render import Record

FINDINGS = 10
_WIDE = 120  # columns of a terminal
_FOLLOWED = 4096  # detections whose responses are shown

_sandbox = click.option("--sandbox", metavar="SANDBOX", help="In this sandbox: its name or id.")
_level = click.option("--level", type=click.Choice(LEVELS), help="Of this level and above.")
_rule = click.option("--rule", metavar="RULE", help="Of this rule: its id or title.")


@click.group()
def detections() -> None:
    """What the rules found, and what was said of it."""


for _command in (silences.ack, silences.silence, silences.silences, silences.unsilence):
    detections.add_command(_command)


@detections.command("list", short_help="The latest detections, oldest first.")
@config_option
@_sandbox
@_level
@_rule
@click.option("--since", "since_ns", metavar="TIME", callback=moments.since, help="Such as 2h, 7d, 02:00, 2026-12-01.")
@click.option("-n", "number", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many, the latest.")
@click.option("--check", is_flag=True, help="Exit status 10 where one is neither acknowledged nor silenced.")
@output_option
@unredacted_option
def list_(
    config_path: str | None, since_ns: int | None, check: bool, output: str, unredacted: bool, **chosen: Any
) -> int:
    """List the latest detections, oldest first. All filters must hold.

    From the running sensor; where it does not answer, from the log, as root.
    """
    from sensor.cli.found import Detections, Wanted, acknowledged, short_ids, silenced  # noqa: PLC0415
    from sensor.cli.redaction import json_text  # noqa: PLC0415
    from sensor.cli.show import emit  # noqa: PLC0415

    wanted = Wanted(**chosen, since_ns=since_ns or 0)
    found = Detections(settings(config_path), unredacted).some(wanted)
    if output == "json":
        for one in found:
            click.echo(json_text(one, None, unredacted))
    else:
        emit(output, found, _columns(output, short_ids(found), unredacted), "no detections")
    return FINDINGS if check and any(not (acknowledged(one) or silenced(one)) for one in found) else 0


def _columns(output: str, short: dict[str, str], unredacted: bool) -> list[Column]:
    from sensor.cli.found import UNKNOWN, acknowledged, silenced  # noqa: PLC0415
    from sensor.cli.render import level, subject, terminal_width  # noqa: PLC0415

    def when(one: Row) -> str:
        time = str(one.get("time", ""))
        return time if output == "compact" else f"{time[5:10]} {time[11:19]}"

    def rule(one: Row) -> str:
        found = one.get("rule")
        return str(found.get("title", "")) if isinstance(found, dict) else ""

    def said(one: Row) -> str:
        if acknowledged(one):
            return "acked"
        return "silenced" if silenced(one) else "?" if one.get("acknowledged") == UNKNOWN else "new"

    def what(one: Row) -> str:
        text = subject(one, unredacted=unredacted)
        return text if output == "compact" or len(text) <= 120 else text[:119] + "…"

    columns = [
        Column("Time", when),
        Column("Level", lambda one: "info" if level(one) == "informational" else level(one)),
        Column("Sandbox", lambda one: str(one.get("SandboxName", "")), True),
        Column("Rule", rule, True),
        Column("What", what, True),
        Column("Said", said),
        Column("Id", lambda one: str(one.get("id")) if output == "compact" else short[str(one.get("id", ""))], True),
    ]
    if output == "table" and (terminal_width() or 80) < _WIDE:
        del columns[4]  # `describe` tells it
    return columns


@detections.command(short_help="All that is known of one detection.")
@config_option
@output_option
@unredacted_option
@click.argument("id_", metavar="ID")
def describe(config_path: str | None, output: str, unredacted: bool, id_: str) -> None:
    """Describe the detection ID, or the one whose id begins so: rule, processes, what it did, what was done."""
    from sensor.cli.describe import described  # noqa: PLC0415
    from sensor.cli.found import Detections  # noqa: PLC0415
    from sensor.cli.redaction import json_text  # noqa: PLC0415
    from sensor.cli.show import facts  # noqa: PLC0415
    from sensor.export.redact import redact  # noqa: PLC0415

    found = Detections(settings(config_path), unredacted).one(id_)
    if output == "json":
        click.echo(json_text(found, None, unredacted))
        return
    shown = found if unredacted else redact(found)
    facts(output, shown, described(shown))


@detections.command(short_help="Detections from now on.")
@config_option
@_sandbox
@_level
@_rule
@lines_option
@unredacted_option
def follow(config_path: str | None, output: str, unredacted: bool, **chosen: Any) -> None:
    """Show detections from now on, until Ctrl-C; with the responses to them, where the log is followed.

    Comes from the running sensor; where it does not answer, and with --unredacted, the log is followed.
    """
    from sensor.cli.events import Printer, live  # noqa: PLC0415
    from sensor.cli.found import Wanted  # noqa: PLC0415

    wanted = Wanted(**chosen)
    shown: deque[str] = deque(maxlen=_FOLLOWED)

    def takes(record: Record) -> bool:
        if record.get("kind") == "response":
            return str(record.get("detection")) in shown and record.get("outcome") != "intent"
        if not wanted.takes(record):
            return False
        shown.append(str(record.get("id")))
        return True

    live(settings(config_path), "/v1/detections/stream", takes, Printer(output, unredacted))
