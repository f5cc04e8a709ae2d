"""`pinfold kill`."""

from __future__ import annotations

import click

from sensor.cli import complete, reach
from sensor.cli.acting import can_consent, consent, destruction, reason_of
from sensor.cli.common import config_option, json_line, settings
from sensor.cli.escape import escape
from sensor.cli.reach import hand, say, would
from sensor.cli.show import cell, output_option, whole


@click.command(short_help="Kill every process of a sandbox.")
@config_option
@destruction
@output_option
@click.argument("name", metavar="SANDBOX", shell_complete=complete.sandboxes)
def kill(config_path: str | None, name: str, *, reason: str | None, dry_run: bool, yes: bool, output: str) -> int:
    """Kill every process of SANDBOX (its name, cgroup id or cgroup path), nested cgroups included.

    No evidence is collected: `pinfold quarantine add` does that first. Works with the daemon dead, for root; a
    process that left the sandbox's cgroup is not found then.
    """
    can_consent(yes, dry_run)
    why = reason_of(reason, dry_run)
    reached = hand(settings(config_path))
    sandbox = reach.sandbox(reached, name)
    number = whole(sandbox.get("processes"))
    consent(f"Kill {cell(sandbox.get('name'))} ({number} {'process' if number == 1 else 'processes'})?", yes, dry_run)
    answer = reached.kill_sandbox(sandbox, why, dry_run)
    if dry_run:
        return would(output, answer)
    killed = answer.get("killed")
    count = len(killed) if isinstance(killed, list) else whole(killed)
    if output == "json":
        json_line(answer)
    elif output == "compact":
        click.echo(f"{escape(cell(sandbox.get('name')))}\t{count}")
    say(f"killed {cell(sandbox.get('name'))}: {count} {'process' if count == 1 else 'processes'}")
    if answer.get("complete") is False:
        say("not all of it: something still lived after the last round; ask again")
        return 1
    return 0
