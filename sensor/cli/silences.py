"""`pinfold detections ack`, `silence`, `silences` and `unsilence`: what an operator says of detections."""

from __future__ import annotations

import time
from typing import Any

import click

from sensor.cli import moments
from sensor.cli.acting import mutation, reason_of
from sensor.cli.common import config_option, settings
from sensor.cli.show import Column, Row, cell, column, output_option, when

_SECOND_NS = 1_000_000_000


@click.command(short_help="Say that somebody has seen to a detection.")
@config_option
@mutation
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def ack(config_path: str | None, reason: str | None, dry_run: bool, ids: tuple[str, ...]) -> None:
    """Acknowledge the detections ID, or those whose ids begin so. --reason says what was found; it is audited."""
    from sensor.cli.found import Detections  # noqa: PLC0415
    from sensor.cli.reach import escaped, say  # noqa: PLC0415

    why = reason_of(reason, dry_run)
    found = Detections(settings(config_path))
    whole = [found.identity(word) for word in ids]  # all of them are known before one is acknowledged
    for identity in whole:
        found.client.post(f"/v1/detections/{escaped(identity)}/ack", _body(why, dry_run))
        say(f"{'dry run: would acknowledge' if dry_run else 'acknowledged'} {identity}")


@click.command(short_help="Tell nobody of some detections for a while.")
@config_option
@click.option("--rule", metavar="RULE", help="Of this rule: its id or title.")
@click.option("--sandbox", metavar="SANDBOX", help="In this sandbox: name, cgroup id or path.")
@click.option("--class", "class_", metavar="CLASS", help="In sandboxes of this class.")
@click.option("--for", "for_s", metavar="DURATION", callback=moments.duration, help="Such as 30m, 2h, 1d.")
@click.option("--from", "from_ns", metavar="TIME", callback=moments.moment, help="Begins then; without it, now.")
@click.option("--until", "until_ns", metavar="TIME", callback=moments.moment, help="Ends then. Times are UTC.")
@mutation
def silence(config_path: str | None, reason: str | None, dry_run: bool, **chosen: Any) -> None:
    """Silence detections for a while: they are recorded and acted on as ever, but nobody is told.

    One of --rule, --sandbox and --class at least; all that are given must hold. A maintenance window may begin later:
    --from 2026-12-01T02:00 --for 4h.
    """
    from sensor.cli.reach import row, say  # noqa: PLC0415
    from sensor.control.client import Client  # noqa: PLC0415

    why = reason_of(reason, dry_run)
    selected = {
        name: value for name in ("rule", "sandbox", "class") if (value := chosen["class_" if name == "class" else name])
    }
    if not selected:
        raise click.UsageError("what to silence: --rule, --sandbox or --class, one at least")
    begin, end = _window(chosen["for_s"], chosen["from_ns"], chosen["until_ns"])
    body = {**_body(why, dry_run), **selected, "until_seconds": end}
    if begin:
        body["from_seconds"] = begin
    answer = row(Client.of(settings(config_path)).post("/v1/silences", body))
    now = time.time_ns()
    window = f"{when(now + begin * _SECOND_NS) if begin else 'now'} until {when(now + end * _SECOND_NS)}"
    shown = ", ".join(f"{name} {value}" for name, value in selected.items())
    say(f"{'dry run: would silence' if dry_run else 'silenced'} {shown}, from {window}")
    if not dry_run:
        click.echo(cell(answer.get("id")))


@click.command("silences", short_help="What is silenced, and until when.")
@config_option
@output_option
def silences(config_path: str | None, output: str) -> None:
    """List the silences that are in force or begin later."""
    from sensor.cli.reach import rows  # noqa: PLC0415
    from sensor.cli.show import emit  # noqa: PLC0415
    from sensor.control.client import Client  # noqa: PLC0415

    emit(output, rows(Client.of(settings(config_path)).get("/v1/silences"), "silences"), _COLUMNS, "no silences")


@click.command(short_help="End a silence before its time.")
@config_option
@mutation
@click.argument("id_", metavar="ID")
def unsilence(config_path: str | None, reason: str | None, dry_run: bool, id_: str) -> None:
    """End the silence ID; see `pinfold detections silences`."""
    from sensor.cli.reach import escaped, say  # noqa: PLC0415
    from sensor.control.client import Client  # noqa: PLC0415

    why = reason_of(reason, dry_run)
    query: dict[str, str | int] = {"reason": why, "dry_run": 1} if dry_run else {"reason": why}
    Client.of(settings(config_path)).delete(f"/v1/silences/{escaped(id_)}", **query)
    say(f"{'dry run: would end' if dry_run else 'ended'} the silence {id_}")


def _body(reason: str, dry_run: bool) -> Row:
    return {"reason": reason, "dry_run": True} if dry_run else {"reason": reason}


def _window(for_s: int | None, from_ns: int | None, until_ns: int | None) -> tuple[int, int]:
    """In how many seconds it begins and ends."""
    if (for_s is None) == (until_ns is None):
        raise click.UsageError("how long: either --for DURATION or --until TIME")
    now = time.time_ns()
    begin = max(0, -(-(from_ns - now) // _SECOND_NS)) if from_ns is not None else 0
    end = begin + for_s if for_s is not None else -(-((until_ns or 0) - now) // _SECOND_NS)
    if end <= begin:
        raise click.UsageError("it would end before it begins: --until must lie in the future, and after --from")
    return begin, end


def _selector(name: str) -> Column:
    return Column(name.capitalize(), lambda one: cell(one.get(name)) or "any", True)


_COLUMNS = (
    column("Id", "id"),
    *map(_selector, ("rule", "sandbox", "class")),
    Column("From", lambda one: when(one.get("from_ns"))),
    Column("Until", lambda one: when(one.get("until_ns"))),
    column("By", "operator", True),
    column("Reason", "reason", True),
)
