"""`pinfold sandbox`: run, list, describe, tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click

from sensor.cli import complete, reach
from sensor.cli.common import config_option, json_line, settings
from sensor.cli.escape import escape
from sensor.cli.reach import online, row, rows
from sensor.cli.show import Column, Row, cell, column, emit, facts, output_option, pairs, whole

COLUMNS = (
    column("Name", "name", True),
    column("Class", "class", True),
    column("Runtime", "runtime"),
    column("State", "state"),
    column("Procs", "processes"),
    column("Det.", "detections"),
    Column(
        "Lost", lambda one: cell(sum(map(whole, lost.values())) if isinstance(lost := one.get("lost"), dict) else 0)
    ),
    column("Quarantine", "quarantine"),
)
_FLOW = (
    column("Process", "tgid"),
    column("Protocol", "protocol"),
    Column("", lambda flow: "to" if flow.get("initiated") else "from"),
    column("Remote", "remote", True),
    column("Local", "local", True),
)
_DEEPEST = 24  # levels of a tree that are indented
name_argument = click.argument("name", metavar="SANDBOX", shell_complete=complete.sandboxes)


@click.group()
def sandbox() -> None:
    """Sandboxes: run one, list, describe them."""


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
@output_option
def list_(config_path: str | None, output: str) -> None:
    """List the sandboxes that the running sensor knows.

    State: clean; detected; unknown where events were lost, of which nothing can be said; tamperable. `sandbox describe`
    and -o json have all that is known of one.
    """
    emit(output, online(settings(config_path)).sandboxes(), COLUMNS, "no sandboxes")


@sandbox.command(short_help="All that is known of a sandbox.")
@config_option
@output_option
@name_argument
def describe(config_path: str | None, output: str, name: str) -> None:
    """Describe SANDBOX: its name, cgroup id or cgroup path."""
    reached = online(settings(config_path))
    found = reach.sandbox(reached, name)
    known = row(reached.client.get(f"/v1/sandboxes/{int(found['id'])}"))
    facts(output, known, pairs({name: value for name, value in known.items() if name != "flows"}, output))
    flows = known.get("flows")
    if output == "table" and isinstance(flows, list) and flows:
        click.echo()
        emit(output, [one for one in flows if isinstance(one, dict)], _FLOW, "")


@sandbox.command(short_help="The processes of a sandbox, as a tree.")
@config_option
@output_option
@name_argument
def tree(config_path: str | None, output: str, name: str) -> None:
    """Show the processes of SANDBOX with what they run, each below the one that forked it.

    -o json: the sensor's answer; compact: tgid, parent's tgid and command line, separated by tabs.
    """
    reached = online(settings(config_path))
    found = reach.sandbox(reached, name)
    answer = reached.client.get(f"/v1/sandboxes/{int(found['id'])}/tree")
    if output == "json":
        json_line(answer)
        return
    processes = rows(answer, "processes")
    for line in _compact(processes) if output == "compact" else _tree(processes):
        click.echo(line)
    if more := whole(row(answer).get("more")):
        click.echo(f"… {more} more processes are not told", err=True)
    if not processes:
        click.echo("no processes", err=True)


def _compact(processes: list[Row]) -> Iterator[str]:
    for one in processes:
        yield "\t".join((str(_tgid(one)), str(_parent(one)), escape(_what(one))))


def _tree(processes: list[Row]) -> Iterator[str]:
    """Each process once, whatever loops its parents make; without recursion, since depth is the sandbox's choice."""
    from sensor.cli.escape import fit  # noqa: PLC0415
    from sensor.cli.render import terminal_width  # noqa: PLC0415

    width = terminal_width()
    below: dict[int, list[Row]] = {}
    known = {_tgid(one) for one in processes}
    for one in processes:
        below.setdefault(_parent(one) if _parent(one) in known else 0, []).append(one)
    seen: set[int] = set()
    for start in (*below.get(0, ()), *processes):  # the second: who is his own ancestor, as claimed
        waiting = [(start, "", "")]
        while waiting:
            one, head, indent = waiting.pop()
            if _tgid(one) in seen:
                continue
            seen.add(_tgid(one))
            line = f"{head}{_tgid(one)} {escape(_what(one))}"
            yield line if width is None else fit(line, width)
            children = below.get(_tgid(one), []) if _tgid(one) else []
            room = len(indent) < 3 * _DEEPEST
            for behind, child in enumerate(reversed(children)):
                mark, more = ("└─ ", "   ") if not behind else ("├─ ", "│  ")
                waiting.append((child, indent + mark, indent + more if room else indent))


def _tgid(one: Row) -> int:
    return whole(one.get("tgid"))


def _parent(one: Row) -> int:
    return whole(one.get("parent_tgid"))


def _what(one: Row) -> str:
    argv: Any = one.get("argv") or one.get("command_line")
    text = " ".join(map(str, argv)) if isinstance(argv, list) else cell(argv)
    return text or cell(one.get("image")) or cell(one.get("comm")) or "?"
