"""`pinfold doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option, json_line, settings, table

if TYPE_CHECKING:
    from sensor.cli.hostchecks import Check


@click.command(short_help="What this kernel and host offer, and what to do about the rest.")
@config_option
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(config_path: str | None, output: str) -> int:
    """Say what this kernel and host offer, what is lost without it, and what to do.

    Exit status 1 if something is missing without which the sensor does not start. Needs root to be sure.
    """
    from msgspec.structs import asdict  # noqa: PLC0415

    from sensor.cli.hostchecks import checks  # noqa: PLC0415

    found = list(checks(settings(config_path)))
    if output == "json":
        json_line([asdict(check) for check in found])
    else:
        table(("What", "State", "Detail"), ((check.name, check.state, check.detail) for check in found))
        for check in found:
            if check.state != "supported":
                _advise(check)
    return 1 if any(check.required and check.state == "unsupported" for check in found) else 0


def _advise(check: Check) -> None:
    from sensor.cli.escape import escape  # noqa: PLC0415

    weight = "required" if check.required else "optional"
    click.echo(f"\n{escape(check.name)} ({weight}): {check.state}")
    click.echo(f"  without it: {escape(check.lost_without)}")
    if check.remedy:
        click.echo(f"  what to do: {escape(check.remedy)}")
