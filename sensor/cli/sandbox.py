"""`pinfold sandbox run` and `pinfold sandbox list`."""

from __future__ import annotations

import os
from typing import Any

import click

from sensor.cli.common import config_option, json_line, settings, table
from sensor.cli.escape import escape
from sensor.errors import ClientError


@click.group()
def sandbox() -> None:
    """Sandboxes: run one, list them."""


@sandbox.command(
    short_help="Run a command in a watched cgroup of its own.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@config_option
@click.option("--kill-leftovers", is_flag=True, help="Kill what is still in the sandbox when the command ends.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND [ARGUMENT]...")
def run(config_path: str | None, kill_leftovers: bool, name: str, command: tuple[str, ...]) -> int:
    """Run COMMAND as the sandbox NAME: in the cgroup <instance>/NAME, which is watched from its birth.

    The cgroup is removed when the command and everything it started have ended. Processes that stay behind are named,
    and left alone unless --kill-leftovers. Exit status: the command's, or 128 + n after signal n; 127 where there is
    no such command, 126 where it cannot be run. Needs root.
    """
    from sensor.cli.launch import Sandbox  # noqa: PLC0415
    from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount  # noqa: PLC0415

    arguments = command[1:] if command[0] == "--" else command
    if not arguments:
        raise click.UsageError("Missing argument 'COMMAND'.")
    box = Sandbox(os.path.join(find_cgroup2_mount(), settings(config_path).instance), name)
    box.create()
    status = box.run(arguments)
    if not box.wait_until_empty() and kill_leftovers:
        box.kill()
        box.wait_until_empty()
    if left := box.leftovers():
        processes = ", ".join(f"{tgid} {escape(comm)}" for tgid, comm in left)
        click.echo(f"pinfold: sandbox {name} still has processes: {processes}", err=True)
    else:
        box.remove()
    return status


@sandbox.command("list", short_help="List the sandboxes that the sensor knows.")
@config_option
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_(config_path: str | None, output: str) -> None:
    """List the sandboxes that the running sensor knows."""
    from sensor.control.client import Client  # noqa: PLC0415

    answer = Client.of(settings(config_path)).sandboxes()
    found = answer.get("sandboxes") if isinstance(answer, dict) else answer
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ClientError("the sensor's answer is no list of sandboxes: are it and this command of one version?")
    if output == "json":
        for one in found:
            json_line(one)
        return
    if not found:
        click.echo("no sandboxes", err=True)
        return
    names = [name for name in dict.fromkeys(name for one in found for name in one) if name != "id"]
    headings = [name.replace("_", " ").capitalize() for name in names]
    table(headings, ([_cell(one.get(name)) for name in names] for one in found))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{name} {number}" for name, number in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
