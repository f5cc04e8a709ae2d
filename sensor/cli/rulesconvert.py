"""`pinfold rules convert`: Falco's rules as drafts of Sigma rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensor.cli.escape import escape

if TYPE_CHECKING:
    from sensor.rules.falco.drafts import Draft


@click.command()
@click.option("-o", "folder", metavar="FOLDER", help="Write a file for each draft there; without it, print them.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def convert(folder: str | None, files: tuple[str, ...]) -> int:
    """Make Sigma rules of Falco's. Several files are one rule set, in this order.

    Lists and macros are put in their places; a rule on several types of event becomes a draft for each category. What
    has no counterpart is left out and told on stderr, also in the draft's description; so is a rule of which nothing is
    left: then the exit status is 1. Read the drafts, give them examples, and run `pinfold rules check` on them.
    """
    from sensor.errors import UsageError  # noqa: PLC0415
    from sensor.rules.falco.drafts import convert as converted  # noqa: PLC0415

    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"{folder}: no such folder: make it first")
    found = converted([Path(file) for file in files])
    written: set[str] = set()
    for draft in found.drafts:
        _put(draft, folder, written)
        for one in draft.left_out:
            _say(f"{draft.rule}: left out: {one}")
    for name, reason in found.refused:
        _say(f"{name}: not converted: {reason}")
    _say(f"{len(found.drafts)} drafts")
    return 1 if found.refused else 0


def _put(draft: Draft, folder: str | None, written: set[str]) -> None:
    if folder is None:
        click.echo("---")
        click.echo("\n".join(map(escape, draft.text.splitlines())))
        return
    name, number = draft.name, 1
    while name in written:
        number += 1
        name = f"{draft.name}_{number}"
    written.add(name)
    with (Path(folder) / f"{name}.yml").open("x", encoding="utf-8") as out:
        out.write(draft.text)


def _say(line: str) -> None:
    click.echo(escape(line), err=True)
