"""`pinfold quarantine`: add, list, describe, release, kill."""

from __future__ import annotations

import re
from typing import NamedTuple

import click

from sensor.cli import complete, find, reach
from sensor.cli.acting import can_consent, consent, destruction, mutation, reason_of
from sensor.cli.common import config_option, settings
from sensor.cli.find import IN_FORCE, order
from sensor.cli.reach import Hand, hand, online, row, say, would
from sensor.cli.records import COLUMNS, ENDED, follow, shortfall
from sensor.cli.records import describe as show
from sensor.cli.show import Row, cell, emit, output_option
from sensor.cli.status import FINDINGS

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_LONGEST = 366 * 86400

no_wait_option = click.option("--no-wait", is_flag=True, help="Return when it has begun.")
id_argument = click.argument("which", metavar="ID", shell_complete=complete.quarantines)


class Span(click.ParamType[int]):
    """A span of time as seconds."""

    name = "span"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,9})(s|m|min|h|d)?", str(value))
        seconds = int(match[1]) * _UNITS[match[2] or ""] if match else 0
        if not 1 <= seconds <= _LONGEST:
            self.fail(f"expected a span such as 90s, 30m, 12h or 7d, up to a year, found {value!r}", parameter, context)
        return seconds


@click.group()
def quarantine() -> None:
    """Cut a sandbox off, keep evidence of it, and let it go again.

    A quarantine denies egress and ingress, destroys its sockets, revokes devices, stops new executables, freezes, and
    collects evidence, in this order. All but add works with the daemon dead too, for root.
    """


@quarantine.command(short_help="Quarantine a sandbox.")
@config_option
@mutation
@click.option("--ttl", type=Span(), metavar="SPAN", help="How long, such as 90s, 30m, 12h or 7d. Else until released.")
@click.option("--on-expiry", type=click.Choice(["hold", "release", "kill"]), default="hold", show_default=True)
@click.option("--no-freeze", is_flag=True, help="Let its processes run on.")
@click.option("--loopback", is_flag=True, help="Leave it the loopback of its own network namespace.")
@click.option("--no-evidence", is_flag=True, help="Collect none.")
@no_wait_option
@output_option
@click.argument("name", metavar="SANDBOX", shell_complete=complete.sandboxes)
def add(
    config_path: str | None,
    name: str,
    *,
    reason: str | None,
    dry_run: bool,
    ttl: int | None,
    on_expiry: str,
    no_freeze: bool,
    loopback: bool,
    no_evidence: bool,
    no_wait: bool,
    output: str,
) -> int:
    """Quarantine SANDBOX (its name, cgroup id or cgroup path), and wait until it is held.

    What the kernel refuses is refused at once; the other steps are told on stderr as they end. Exit status: 1 also
    where it is held and a step failed.
    """
    if on_expiry != "hold" and ttl is None:
        raise click.UsageError(f"--on-expiry {on_expiry} needs --ttl: without it nothing expires")
    why = reason_of(reason, dry_run)
    reached = online(settings(config_path))
    sandbox = reach.sandbox(reached, name)
    body = {
        "sandbox": str(int(sandbox["id"])),  # a name could be another's by now
        "reason": why,
        "ttl_seconds": ttl or 0,
        "on_expiry": on_expiry,
        "freeze": not no_freeze,
        "loopback": loopback,
        "evidence": not no_evidence,
        "dry_run": dry_run,
    }
    record = row(reached.client.post("/v1/quarantines", body))
    if dry_run:
        return would(output, record)
    if order(record).get("reason") not in (None, why):
        say(f"it is in quarantine already: {cell(record.get('id'))}")
    if not no_wait:
        record = follow(reached, record, {"held"})
    return _ended(output, record, {"beginning", "held"} if no_wait else {"held"})


@quarantine.command("list", short_help="List the quarantines.")
@config_option
@output_option
@click.option("-a", "--all", "all_", is_flag=True, help="Ended ones too.")
@click.option("--check", is_flag=True, help="Exit status 10 where one is in force.")
def list_(config_path: str | None, output: str, all_: bool, check: bool) -> int:
    """List the quarantines that are in force; from the ledger where the daemon is dead."""
    known = hand(settings(config_path)).quarantines()
    held = [one for one in known if one.get("state") in IN_FORCE]
    emit(output, known if all_ else held, COLUMNS, "no quarantines" if all_ else "no quarantines in force")
    return FINDINGS if check and held else 0


@quarantine.command(short_help="All that is known of a quarantine.")
@config_option
@output_option
@id_argument
def describe(config_path: str | None, output: str, which: str) -> None:
    """Describe the quarantine ID (or of the sandbox of that name), with its steps and the outcome of each."""
    show(output, _found(hand(settings(config_path)), which))


@quarantine.command(short_help="Let a sandbox go again.")
@config_option
@destruction
@no_wait_option
@output_option
@id_argument
def release(
    config_path: str | None, which: str, *, reason: str | None, dry_run: bool, yes: bool, no_wait: bool, output: str
) -> int:
    """Release the quarantine ID (or of the sandbox of that name): undo what it did, in reverse, and verify it."""
    asked = _Asked("release", which, reason, dry_run, yes, no_wait, output)
    return _end(config_path, asked)


@quarantine.command(short_help="End a sandbox that is in quarantine.")
@config_option
@destruction
@no_wait_option
@output_option
@id_argument
def kill(
    config_path: str | None, which: str, *, reason: str | None, dry_run: bool, yes: bool, no_wait: bool, output: str
) -> int:
    """Kill every process of the sandbox that the quarantine ID holds. Its evidence is kept."""
    asked = _Asked("kill", which, reason, dry_run, yes, no_wait, output)
    return _end(config_path, asked)


class _Asked(NamedTuple):
    verb: str
    which: str
    reason: str | None
    dry_run: bool
    yes: bool
    no_wait: bool
    output: str


def _end(config_path: str | None, asked: _Asked) -> int:
    can_consent(asked.yes, asked.dry_run)
    why = reason_of(asked.reason, asked.dry_run)
    reached = hand(settings(config_path))
    record = _found(reached, asked.which)
    quarantine_id = cell(record.get("id"))
    done, doing = ("released", "releasing") if asked.verb == "release" else ("killed", "killing")
    name = f"{cell(order(record).get('name'))} (quarantine {quarantine_id}, {cell(record.get('state'))})"
    if record.get("state") in ENDED:
        say(f"{quarantine_id} is over already: {cell(record.get('state'))}")
        return _ended(asked.output, record, {done})
    consent(f"{asked.verb.capitalize()} {name}?", asked.yes, asked.dry_run)
    act = reached.release if asked.verb == "release" else reached.kill
    before, record = record, act(quarantine_id, why, asked.dry_run)
    if asked.dry_run:
        return would(asked.output, record)
    if asked.no_wait and reached.online:  # alone, nobody would go on with it
        return _ended(asked.output, record, {done, doing})
    return _ended(asked.output, follow(reached, record, {done}, before), {done})


def _ended(output: str, record: Row, good: set[str]) -> int:
    """The record as data, and what is to be said of it."""
    emit(output, [record], COLUMNS, "")
    if failed := shortfall(record):
        say(f"{cell(record.get('id'))} is {cell(record.get('state'))}, but not all of it was done: {failed}")
        return 1
    if record.get("state") not in good:
        say(f"{cell(record.get('id'))} is {cell(record.get('state'))}")
        return 1
    return 0


def _found(reached: Hand, which: str) -> Row:
    found = find.quarantine(reached.quarantines(), which)
    return reached.quarantine(cell(found.get("id")))
