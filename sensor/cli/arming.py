"""`pinfold disarm` and `pinfold arm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option, settings

if TYPE_CHECKING:
    from sensor.config import Config


@click.command(short_help="Lift all enforcement, at once.")
@config_option
def disarm(config_path: str | None) -> None:
    """Lift all enforcement within a second, also with the sensor dead; until `pinfold arm`.

    Nothing is refused and nobody is killed any more. Detection goes on.
    """
    from sensor.respond.disarm import Arming  # noqa: PLC0415

    config = settings(config_path)
    # Both halves are tried, whatever becomes of the first: each lifts something.
    try:
        Arming(config.paths.state).disarm()
    finally:
        _in_kernel(config, armed=False)
    click.echo("disarmed: nothing is refused and nobody is killed until `pinfold arm`", err=True)


@click.command(short_help="Enforce again.")
@config_option
def arm(config_path: str | None) -> None:
    """Enforce again what the configuration says, after `pinfold disarm`."""
    from sensor.respond.disarm import Arming  # noqa: PLC0415

    config = settings(config_path)
    _in_kernel(config, armed=True)
    Arming(config.paths.state).arm()
    click.echo("armed: the configuration is enforced", err=True)


def _in_kernel(config: Config, armed: bool) -> None:
    from sensor.bpf import objects  # noqa: PLC0415

    if not objects.arm(config.paths.bpffs, config.instance, armed):
        click.echo(f"no probes are pinned for the instance {config.instance}", err=True)
