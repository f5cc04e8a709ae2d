"""What every command that changes something has: a reason, a dry run and, where it destroys, consent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sensor.cli.escape import escape

Command = TypeVar("Command", bound=Callable[..., Any])

MOST_REASON = 512  # characters, as the daemon has it
DRY_RUN = "dry run"  # the reason of one that has none

_reason = click.option("--reason", metavar="TEXT", help="Why, for the audit. Asked for on a terminal.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done; do nothing.")
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")


def mutation(command: Command) -> Command:
    return _reason(_dry_run(command))


def destruction(command: Command) -> Command:
    return _reason(_dry_run(_yes(command)))


def on_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def reason_of(given: str | None, dry_run: bool) -> str:
    """:raises click.UsageError: there is none, and nobody to ask."""
    if given is None and dry_run:
        return DRY_RUN
    if given is None and on_terminal():
        given = click.prompt("Reason", default="", show_default=False, err=True)
    given = (given or "").strip()
    if not given:
        raise click.UsageError("a reason is needed, for the audit: --reason TEXT")
    if len(given) > MOST_REASON or not given.isprintable():
        raise click.UsageError(f"the reason must be one line of at most {MOST_REASON} printable characters")
    return given


def can_consent(yes: bool, dry_run: bool) -> None:
    """Before anything else is done. :raises click.UsageError: nobody said yes, and there is nobody to ask."""
    if not (yes or dry_run or on_terminal()):
        raise click.UsageError("this cannot be undone, and there is no terminal to ask on: pass --yes, or --dry-run")


def consent(question: str, yes: bool, dry_run: bool) -> None:
    if yes or dry_run:
        return
    if not click.confirm(escape(question), err=True):
        click.echo("pinfold: nothing was done", err=True)
        raise click.exceptions.Exit(1)
