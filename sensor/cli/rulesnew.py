"""`pinfold rules new`: a rule and its examples from an event that was recorded."""

from __future__ import annotations

from pathlib import Path

import click

from sensor.cli.common import config_option
from sensor.cli.escape import escape
from sensor.cli.rulefind import event_help, find_event

_HELP = """Write a rule that matches an event, and examples beside it.

The rule names what is likely to be the same the next time: the program's name, its options, ports and protocols; not
paths, addresses or ids. Read it, and make it say what you mean."""


@click.command(help=f"{_HELP}\n\n{event_help}")
@config_option
@click.option("--from", "event", metavar="EVENT", required=True, help="The event: an id, a file, or - for stdin.")
@click.option("--title", default="", help="Of the rule; else one made of the event.")
@click.option("-o", "file", metavar="FILE", required=True, help="Where to write the rule: NAME.yml.")
def new(config_path: str | None, event: str, title: str, file: str) -> None:
    from sensor.errors import UsageError  # noqa: PLC0415
    from sensor.rules.scaffold import draft, known_tags, write  # noqa: PLC0415
    from sensor.rules.testing import examples_file  # noqa: PLC0415

    path = Path(file)
    if path.suffix not in {".yml", ".yaml"} or path.name.endswith((".events.yml", ".events.yaml")):
        raise UsageError(f"{file}: not a rule's file name: give NAME.yml")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder: make it first")
    for there in (path, examples_file(path)):
        if there.exists():
            raise UsageError(f"{there}: is there already: give another name")
    activity, record = find_event(config_path, event, redacted=True)
    made = draft(activity, title, known_tags(record))
    write(made, path)
    click.echo(escape(f"{path}: a draft; its examples are in {examples_file(path)}"))
    click.echo(escape(f"Next: edit both, then `pinfold rules test {path}`"))
