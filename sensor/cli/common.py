"""What several commands share: the configuration, tables, JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.escape import escape, escape_json

if TYPE_CHECKING:
    from rich.text import Text

    from sensor.config import Config

DEFAULT_CONFIG = "/etc/pinfold/pinfold.yaml"

_STYLES = {
    **dict.fromkeys(("detected", "critical", "failed", "disarmed", "refused", "tamperable"), "bold red"),
    **dict.fromkeys(("unknown", "held", "beginning", "releasing", "killing", "high", "medium"), "yellow"),
    **dict.fromkeys(("clean", "armed", "done", "released", "allowed"), "green"),
}

config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="PINFOLD_CONFIG",
    help=f"The configuration. Without it {DEFAULT_CONFIG} or, where there is none, the defaults.",
)


def config_file(path: str | None) -> str | None:
    """The file to read, or None for the defaults."""
    return path or (DEFAULT_CONFIG if os.path.lexists(DEFAULT_CONFIG) else None)


def settings(path: str | None) -> Config:
    from sensor.config import Config, complete, load  # noqa: PLC0415

    file = config_file(path)
    return load(file) if file is not None else complete(Config())


def python() -> tuple[list[str], dict[str, str]]:
    """The beginning of a command line that runs this package's Python, and its environment. Never with
    the working directory on its path, as `-m` and `-c` would have it: a sandbox may have written there."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return [sys.executable, "-P"], {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], folds: Collection[str] | None = None) -> None:
    """On stdout, escaped, folded to the terminal's width: nothing is left out. `folds`: the columns that give
    way when it is too narrow; None: all of them."""
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        stays = folds is not None and heading not in folds
        grid.add_column(Text(escape(heading)), overflow="fold", no_wrap=stays)
    for row in rows:
        grid.add_row(*map(styled, row))
    Console(highlight=False).print(grid)


def styled(cell: str) -> Text:
    """Escaped, and coloured where the whole of it is a state. A Text: no markup is looked for in it."""
    from rich.text import Text  # noqa: PLC0415

    return Text(escape(cell), style=_STYLES.get(cell, ""))


def json_line(value: Any) -> None:
    import orjson  # noqa: PLC0415

    try:
        text = orjson.dumps(value, default=str).decode()
    except TypeError:  # a lone surrogate: paths of cgroups are bytes
        import json  # noqa: PLC0415

        text = json.dumps(value, default=str, separators=(",", ":"))
    click.echo(escape_json(text))
