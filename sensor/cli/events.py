"""`pinfold events`, and `pinfold events follow`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sensor.cli.common import config_option, settings
from sensor.cli.redaction import json_text, unredacted_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sensor.cli.choose import Filter
    from sensor.cli.render import Record
    from sensor.config import Config

Command = TypeVar("Command", bound=Callable[..., Any])

_POLL_S = 0.2
LEVELS = ("informational", "low", "medium", "high", "critical")
KINDS = ("event", "detection", "response", "sandbox", "notice", "audit")


def _where(_context: Any, _parameter: Any, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for value in values:
        name, separator, wanted = value.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"expected FIELD=VALUE, found {value!r}")
        pairs.append((name, wanted))
    return tuple(pairs)


output_option = click.option(
    "-o", "output", type=click.Choice(["compact", "json"]), default="compact", show_default=True
)
_FILTERS = (
    click.option("--sandbox", metavar="NAME", help="Of this sandbox."),
    click.option("--category", metavar="CATEGORY", help="Such as process_creation, network_flow, network_behavior."),
    click.option("--kind", type=click.Choice(KINDS), help="Lines of this kind."),
    click.option("--level", type=click.Choice(LEVELS), help="Detections of this level and above."),
    click.option("--rule", metavar="RULE", help="Detections of this rule: its id or title."),
    click.option(
        "--where", metavar="FIELD=VALUE", multiple=True, callback=_where, help="* matches any text. Repeatable."
    ),
    output_option,
    unredacted_option,
)


def _filtered(command: Command) -> Command:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.group(invoke_without_command=True, short_help="Show, follow and filter the event log.")
@config_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on; Ctrl-C ends it.")
@click.option("-n", "number", type=click.IntRange(min=0), default=20, show_default=True, help="How many, the latest.")
@_filtered
def events(config_path: str | None, follow: bool, number: int, output: str, unredacted: bool, **chosen: Any) -> None:
    """Show the latest lines of the event log, oldest first. All filters must hold.

    -o json gives the lines as they are logged (schema.json), with what is not printable as \\uXXXX. Secrets in
    arguments are shown as ***; the log has them.
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        context.obj = config_path
        return
    from sensor.cli.choose import Filter  # noqa: PLC0415
    from sensor.export.reader import Follower  # noqa: PLC0415

    config = settings(config_path)
    path = log_path(config)
    wanted = Filter(**chosen)
    # Before the past is read, so that nothing falls between the two.
    follower = Follower(path) if follow else None
    printer = Printer(output, unredacted)
    printer.lines(_latest(path, number, wanted))
    if follower is not None:
        _along(follower, wanted, printer)


@events.command("follow", short_help="What happens from now on, as the sensor tells it.")
@config_option
@_filtered
def follow_(config_path: str | None, output: str, unredacted: bool, **chosen: Any) -> None:
    """Show what happens from now on, until Ctrl-C. All filters must hold.

    Comes from the running sensor, which leaves lines out for a reader that is too slow, and says how many. Where it
    does not answer, and with --unredacted, the log is followed.
    """
    from sensor.cli.choose import Filter  # noqa: PLC0415

    config = settings(config_path or click.get_current_context().obj)
    live(config, "/v1/events/stream", Filter(**chosen).fits, Printer(output, unredacted))


def log_path(config: Config) -> str:
    return os.path.join(config.paths.log, config.log.file)


def live(config: Config, stream: str, wanted: Callable[[Record], bool], printer: Printer) -> None:
    """From the sensor's stream; from the log where there is none, or when it ends."""
    from sensor.cli.reach import say  # noqa: PLC0415
    from sensor.control.client import Client  # noqa: PLC0415
    from sensor.errors import UnreachableError  # noqa: PLC0415
    from sensor.export.reader import Follower  # noqa: PLC0415

    why = ""
    if not printer.unredacted:
        try:
            for record in Client.of(config).stream(stream):
                if isinstance(record, dict):
                    told(record, wanted, printer)
            why = "the daemon has ended the stream"
        except UnreachableError as unreachable:
            why = str(unreachable)
    path = log_path(config)
    readable(path)
    follower = Follower(path)  # before anybody is told: what comes from then on is shown
    if why:
        say(f"{why}; following the log")
    _along(follower, _Records(wanted), printer)


def told(record: Record, wanted: Callable[[Record], bool], printer: Printer) -> None:
    """One record of a stream."""
    if record.get("kind") == "dropped":
        from sensor.cli.reach import say  # noqa: PLC0415

        say(f"{record.get('count')} lines are missing here, since this reader was too slow; the log has them")
    elif wanted(record):
        printer.record(record)


def readable(path: str) -> None:
    """:raises HostError: there is no log. :raises DeniedError: it is not ours to read."""
    from sensor.errors import DeniedError, HostError  # noqa: PLC0415
    from sensor.export.reader import files  # noqa: PLC0415

    try:
        found = files(path)
        if found and not os.access(found[0], os.R_OK):
            raise PermissionError
    except PermissionError as why:
        raise DeniedError(f"the log {path} is root's alone: be root") from why
    if not found:
        raise HostError(f"no log at {path}: has the sensor run with this configuration?")


def _along(follower: Any, wanted: Any, printer: Printer) -> None:
    while True:
        lines = follower.read()
        printer.lines(line for line in lines if wanted.takes(line))
        if not lines:
            time.sleep(_POLL_S)


class _Records:
    """Takes lines by their records."""

    def __init__(self, wanted: Callable[[Record], bool]) -> None:
        self._wanted = wanted

    def takes(self, line: bytes) -> bool:
        from sensor.cli.choose import parsed  # noqa: PLC0415

        record = parsed(line)
        return bool(record) and self._wanted(record)


def _latest(path: str, number: int, wanted: Filter) -> list[bytes]:
    from sensor.export.reader import backwards  # noqa: PLC0415

    readable(path)
    found: list[bytes] = []
    if number:
        for line in backwards(path):
            if wanted.takes(line):
                found.append(line)
                if len(found) == number:
                    break
    return found[::-1]


class Printer:
    """Records as lines on stdout."""

    def __init__(self, output: str, unredacted: bool) -> None:
        self._output = output
        self.unredacted = unredacted

    def lines(self, lines: Iterable[bytes]) -> None:
        from sensor.cli.choose import parsed  # noqa: PLC0415

        for line in lines:
            self._print(parsed(line), line)
        sys.stdout.flush()

    def record(self, record: Record) -> None:
        self._print(record, None)
        sys.stdout.flush()

    def _print(self, record: Record, line: bytes | None) -> None:
        from sensor.cli.render import colours_wanted, compact, terminal_width  # noqa: PLC0415

        if self._output == "json":
            click.echo(json_text(record, line, self.unredacted))
            return
        colours = colours_wanted(sys.stdout.isatty())
        click.echo(compact(record, terminal_width(), colours, unredacted=self.unredacted), color=True)
