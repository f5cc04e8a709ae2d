"""`pinfold status`."""

from __future__ import annotations

import click

from sensor.cli.common import config_option, settings
from sensor.cli.find import IN_FORCE
from sensor.cli.reach import Hand, hand
from sensor.cli.show import Row, cell, facts, output_option, whole
from sensor.errors import PinfoldError, UnreachableError

FINDINGS = 10
# Told first and in this order; what else the sensor tells of itself follows.
_FIRST = ("version", "generation", "daemon", "armed", "kernel", "rules", "sandboxes", "quarantines")


@click.command(short_help="How the sensor is, and whether anything needs somebody.")
@config_option
@output_option
@click.option("--check", is_flag=True, help="Exit status 10 where there is a finding.")
def status(config_path: str | None, output: str, check: bool) -> int:
    """Say how the sensor is, also where the daemon is dead: then what is pinned and quarantined goes on.

    Findings: detections that nobody acknowledged, quarantines in force, lost events, enforcement lifted. Exit status:
    5 where the daemon does not answer; 10 with --check where there are findings.
    """
    reached = hand(settings(config_path))
    now = reached.status()
    found = findings(reached, now)
    facts(output, {**now, "findings": found}, _pairs(now, found, output))
    if not reached.online:
        return UnreachableError.exit_status
    return FINDINGS if check and found else 0


def findings(reached: Hand, now: Row) -> list[str]:
    """One short line each."""
    found = []
    if now.get("armed") is False or now.get("kernel") == "disarmed":
        found.append("disarmed: nothing is refused, nobody is killed")
    if not reached.online:
        found.append("the daemon does not answer: nothing is detected")
    if lost := _total(now.get("lost")):
        found.append(f"{lost} events lost")
    if (ledger := now.get("ledger", "sound")) != "sound":
        found.append(f"the ledger is damaged: {cell(ledger)}")
    found += [f"a rule is too dear: {cell(one)}" for one in now.get("dear") or ()]
    found += _held(reached)
    if tamperable := whole(now.get("tamperable")):
        found.append(f"{tamperable} {'sandbox' if tamperable == 1 else 'sandboxes'} that can reach the sensor")
    if reached.online and (detections := _unacknowledged(reached, now)):
        found.append(f"{detections} {'detection' if detections == 1 else 'detections'} that nobody acknowledged")
    return found


def _held(reached: Hand) -> list[str]:
    try:
        held = sum(1 for one in reached.quarantines() if one.get("state") in IN_FORCE)
    except PinfoldError as why:
        return [f"which quarantines are in force is not known: {why}"]
    return [f"{held} {'quarantine' if held == 1 else 'quarantines'} in force"] if held else []


def _unacknowledged(reached: Hand, now: Row) -> int:
    told = now.get("unacknowledged")
    if isinstance(told, int):
        return told
    return sum(whole(one.get("detections")) for one in reached.sandboxes())


def _pairs(now: Row, found: list[str], output: str) -> list[tuple[str, str]]:
    names = [name for name in _FIRST if name in now] + [name for name in now if name not in (*_FIRST, "dear")]
    pairs = [(_title(name), _value(name, now[name])) for name in names]
    told = found or ["none"]
    if output == "compact":
        told = ["; ".join(told)]
    titles = ("Findings", *[""] * len(told))
    return [(name, text) for name, text in pairs if text] + list(zip(titles, told, strict=False))


def _title(name: str) -> str:
    return "Enforcement" if name == "armed" else name.replace("_", " ").capitalize()


def _value(name: str, value: object) -> str:
    if name == "armed":
        return "armed" if value else "disarmed"
    if name == "lost":
        return cell(value) or "none"
    return cell(value)


def _total(lost: object) -> int:
    return sum(map(whole, lost.values())) if isinstance(lost, dict) else whole(lost)
