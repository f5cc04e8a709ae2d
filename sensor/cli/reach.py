"""The daemon where it answers; else this command by itself, on what outlives the daemon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import click

from sensor.cli import find
from sensor.cli.common import json_line
from sensor.cli.escape import escape
from sensor.cli.show import Row, cell
from sensor.errors import ClientError, NotFoundError, UnreachableError

if TYPE_CHECKING:
    from sensor.config import Config
    from sensor.control.client import Client

STRANGE = "are the sensor and this command of one version?"
_POLL_S = 0.05
_KEPT_S = 0.6  # the api keeps an answer for half a second: one that was born since is not in it


class Hand(Protocol):
    """What can be asked and done either way. Rows are as the API gives them."""

    online: bool

    def status(self) -> Row: ...
    def sandboxes(self) -> list[Row]: ...
    def quarantines(self) -> list[Row]:
        """All that are known, ended ones included."""

    def quarantine(self, quarantine_id: str) -> Row: ...
    def release(self, quarantine_id: str, reason: str, dry_run: bool) -> Row:
        """The record; of a dry run, what would be done."""

    def kill(self, quarantine_id: str, reason: str, dry_run: bool) -> Row: ...
    def kill_sandbox(self, sandbox: Row, reason: str, dry_run: bool) -> Row: ...
    def advance(self) -> None:
        """Let some time pass, in which what was begun goes on."""


class Online:
    online = True

    def __init__(self, client: Client) -> None:
        self.client = client

    def status(self) -> Row:
        return row(self.client.get("/v1/status"))

    def sandboxes(self) -> list[Row]:
        return rows(self.client.get("/v1/sandboxes"), "sandboxes")

    def quarantines(self) -> list[Row]:
        return rows(self.client.get("/v1/quarantines", all=1), "quarantines")

    def quarantine(self, quarantine_id: str) -> Row:
        return row(self.client.get(f"/v1/quarantines/{escaped(quarantine_id)}"))

    def release(self, quarantine_id: str, reason: str, dry_run: bool) -> Row:
        return self.change(f"/v1/quarantines/{escaped(quarantine_id)}/release", reason, dry_run)

    def kill(self, quarantine_id: str, reason: str, dry_run: bool) -> Row:
        return self.change(f"/v1/quarantines/{escaped(quarantine_id)}/kill", reason, dry_run)

    def kill_sandbox(self, sandbox: Row, reason: str, dry_run: bool) -> Row:
        # By its id: a name could be another's by now.
        return self.change(f"/v1/sandboxes/{int(sandbox['id'])}/kill", reason, dry_run)

    def change(self, path: str, reason: str, dry_run: bool) -> Row:
        return row(self.client.post(path, {"reason": reason} | ({"dry_run": True} if dry_run else {})))

    def advance(self) -> None:
        time.sleep(_POLL_S)


def online(config: Config) -> Online:
    """:raises UnreachableError: with the first request."""
    from sensor.control.client import Client  # noqa: PLC0415

    return Online(Client.of(config))


def hand(config: Config) -> Hand:
    """:raises DeniedError: nobody answers, and without root nothing can be done alone."""
    reached = online(config)
    try:
        reached.status()
    except UnreachableError as why:
        from sensor.cli.offline import alone  # noqa: PLC0415

        found = alone(config)
        if (context := click.get_current_context(silent=True)) is not None:
            context.call_on_close(found.close)
        say(f"{why}; going on alone, on pins, ledger and cgroups")
        return found
    return reached


def sandbox(reached: Hand, word: str) -> Row:
    """The one that is meant. :raises NotFoundError: with the nearest. :raises UsageError: several are."""
    try:
        return find.sandbox(reached.sandboxes(), word)
    except NotFoundError:
        if not reached.online:
            raise
        time.sleep(_KEPT_S)
        return find.sandbox(reached.sandboxes(), word)


def say(text: str) -> None:
    click.echo(f"pinfold: {escape(text)}", err=True)


def would(output: str, answer: Row) -> int:
    """Shows what a dry run answers; the exit status."""
    if output == "json":
        json_line(answer)
    else:
        told = answer.get("would")
        for line in told if isinstance(told, list) else ():
            click.echo(escape(cell(line)))
    say("dry run: nothing was done")
    return 0


def escaped(text: str) -> str:
    from sensor.control.client import segment  # noqa: PLC0415

    return segment(text)


def row(answer: Any) -> Row:
    if not isinstance(answer, dict):
        raise ClientError(f"the sensor's answer is no object: {STRANGE}")
    return answer


def rows(answer: Any, name: str) -> list[Row]:
    found = answer.get(name) if isinstance(answer, dict) else answer
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ClientError(f"the sensor's answer is no list of {name}: {STRANGE}")
    return found
