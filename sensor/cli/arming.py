"""`pinfold disarm` and `pinfold arm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensor.cli.acting import mutation, reason_of
from sensor.cli.audit import audited
from sensor.cli.common import config_option, settings
from sensor.cli.reach import say
from sensor.errors import DeniedError, PinfoldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sensor.config import Config

_TOLD_S = 2.0  # a daemon that hangs must not keep anybody waiting: all is lifted by then


@click.command(short_help="Lift all enforcement, at once.")
@config_option
@mutation
def disarm(config_path: str | None, reason: str | None, dry_run: bool) -> None:
    """Lift all enforcement within a second, also with the sensor dead; until `pinfold arm`.

    Nothing is refused and nobody is killed any more. Detection goes on.
    """
    why = reason_of(reason, dry_run)
    config = settings(config_path)
    if dry_run:
        say("dry run: all enforcement would be lifted; detection would go on")
        return
    _turn(config, "disarm", why, _disarm)
    click.echo("disarmed: nothing is refused and nobody is killed until `pinfold arm`", err=True)


@click.command(short_help="Enforce again.")
@config_option
@mutation
def arm(config_path: str | None, reason: str | None, dry_run: bool) -> None:
    """Enforce again what the configuration says, after `pinfold disarm`."""
    why = reason_of(reason, dry_run)
    config = settings(config_path)
    if dry_run:
        say("dry run: the configuration would be enforced again")
        return
    _turn(config, "arm", why, _arm)
    click.echo("armed: the configuration is enforced", err=True)


def _turn(config: Config, action: str, reason: str, here: Callable[[Config], None]) -> None:
    """First by ourselves, which depends on nobody; then the daemon is told, for its audit. Whom the daemon lets,
    it obeys also without root. Where it does not take it, the audit is ours to write.

    :raises PinfoldError: neither of us could.
    """
    failed: PinfoldError | OSError | None = None
    try:
        here(config)
    except (PinfoldError, OSError) as why:
        failed = why
    if _told(config, action, reason):
        return
    with audited(config.paths.state, action, "", reason):
        if failed is not None:
            raise _denied(failed)


def _told(config: Config, action: str, reason: str) -> bool:
    from sensor.control.client import Client  # noqa: PLC0415

    try:
        Client.of(config, _TOLD_S).post(f"/v1/{action}", {"reason": reason})
    except PinfoldError:
        return False
    return True


def _disarm(config: Config) -> None:
    from sensor.respond.disarm import Arming  # noqa: PLC0415

    # Both halves are tried, whatever becomes of the first: each lifts something.
    try:
        Arming(config.paths.state).disarm()
    finally:
        _in_kernel(config, armed=False)


def _arm(config: Config) -> None:
    from sensor.respond.disarm import Arming  # noqa: PLC0415

    _in_kernel(config, armed=True)
    Arming(config.paths.state).arm()


def _in_kernel(config: Config, armed: bool) -> None:
    from sensor.bpf import objects  # noqa: PLC0415

    if not objects.arm(config.paths.bpffs, config.instance, armed):
        click.echo(f"no probes are pinned for the instance {config.instance}", err=True)


def _denied(why: PinfoldError | OSError) -> PinfoldError | OSError:
    if isinstance(why, PermissionError) or isinstance(why.__cause__, PermissionError):
        return DeniedError(f"{why}: be root")
    return why
