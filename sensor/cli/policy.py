"""`pinfold policy`: show, check, explain, test, suggest, reload."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from sensor.cli import asking, complete, find
from sensor.cli.acting import mutation, reason_of
from sensor.cli.common import config_file, config_option, json_line, settings
from sensor.cli.escape import escape
from sensor.cli.reach import Online, online, row, say
from sensor.cli.show import Column, Row, cell, column, emit, facts, output_option, pairs, whole
from sensor.cli.status import FINDINGS
from sensor.errors import ActError, ConfigError, HostError, UnreachableError, UsageError

if TYPE_CHECKING:
    from sensor.config import Config

_PROBLEM = re.compile(r"(?P<file>.*?):(?P<line>[0-9]+): (?P<key>.*?): (?P<reason>.*)")
_IN_WHERE = frozenset({"key", "line", "default", "file"})
_PROGRESS_S = 1.0
_RELOAD_S = 120.0  # rules may have to be compiled
_EVERY = 4096  # lines between two looks at the clock


@click.group()
def policy() -> None:
    """What sandboxes may do, and what follows a detection."""


@policy.command(short_help="The policy in force.")
@config_option
@output_option
def show(config_path: str | None, output: str) -> None:
    """Show the classes in force; where the daemon does not answer, those of the configuration (said on stderr)."""
    from msgspec import to_builtins  # noqa: PLC0415

    config = settings(config_path)
    try:
        in_force = row(online(config).client.get("/v1/policy"))
    except UnreachableError as why:
        say(f"{why}; what follows is the configuration, {config_file(config_path) or 'without a file'}")
        in_force = {"classes": to_builtins(config.classes)}
    if output == "json":
        json_line(in_force)
        return
    classes = in_force.get("classes")
    named = classes.items() if isinstance(classes, dict) else ()
    emit(output, [{"name": name, **one} for name, one in named if isinstance(one, dict)], _CLASS, "no classes")


@policy.command(short_help="Look for mistakes in a policy.")
@config_option
@output_option
@click.argument("file", required=False)
def check(config_path: str | None, output: str, file: str | None) -> int:
    """Check FILE, else the configuration. Findings are data, as FILE:LINE: key: reason; then the exit status is 10.

    A warning is about a policy that is taken as it is, and may not do what was meant.
    """
    from sensor.config import load  # noqa: PLC0415

    path = file or config_file(config_path)
    if path is None:
        say("there is no configuration: the defaults are in force")
        return 0
    _readable(path)
    try:
        config = load(path)
        found = asking.warnings(config, path)
        said = f"no findings in {len(config.classes)} classes and {len(config.sandboxes)} patterns"
    except ConfigError as why:
        found = [_problem(path, line) for line in str(why).splitlines()]
    if not found:
        say(f"{path}: {said}")
        return 0
    if output == "table":
        for one in found:
            click.echo(escape(_line(one)))
    else:
        emit(output, found, _FINDING, "")
    return FINDINGS


@policy.command(short_help="What would happen, and which line says so.")
@config_option
@output_option
@click.option("--sandbox", metavar="SANDBOX", shell_complete=complete.sandboxes, help="As the daemon has it in force.")
@click.option("--class", "class_", metavar="NAME", help="A class of the configuration instead, without the daemon.")
@click.option(
    "--connect", metavar="HOST:PORT[/PROTOCOL]", help="A connection, such as 192.0.2.1:53/udp or github.com:22."
)
@click.option("--device", metavar="DEVICE", help="An open of it, such as nvidia0 or /dev/kvm.")
@click.option(
    "--exec", "exec_", metavar="PROGRAM", help="A program: its path, its name, sha256:DIGITS, memfd, deleted."
)
def explain(
    config_path: str | None,
    output: str,
    *,
    sandbox: str | None,
    class_: str | None,
    connect: str | None,
    device: str | None,
    exec_: str | None,
) -> None:
    """Say what would happen if a sandbox connected there, opened this device or ran this program, and why."""
    question = {
        name: value for name, value in (("connect", connect), ("device", device), ("exec", exec_)) if value is not None
    }
    if len(question) != 1:
        raise click.UsageError("exactly one of --connect, --device and --exec is needed")
    if (sandbox is None) == (class_ is None):
        raise click.UsageError("one of --sandbox and --class is needed")
    config = settings(config_path)
    if class_ is not None:
        if class_ not in config.classes:
            raise ConfigError(f"no class {class_!r}{find.nearest(class_, config.classes)}")
        ((kind, text),) = question.items()
        answer = asking.explain(config, class_, kind, text, config_file(config_path))
    else:
        assert sandbox is not None
        reached = online(config)
        known = find.sandbox(reached.sandboxes(), sandbox)
        answer = row(reached.client.post("/v1/policy/explain", {"sandbox": str(int(known["id"])), **question}))
    # Where it says so tells the key and the line too.
    told = {name: value for name, value in answer.items() if "where" not in answer or name not in _IN_WHERE}
    facts(output, answer, pairs(told, output))


@policy.command(short_help="Run a policy's own examples.")
@output_option
@click.argument("file")
def test(output: str, file: str) -> int:
    """Run the examples that FILE has of itself. Those that fail are told; then the exit status is 10."""
    from sensor.config import load  # noqa: PLC0415

    results = asking.test(load(file), file)
    failed = [one for one in results if not one.get("ok")]
    if output == "table":
        emit(output, failed, _EXAMPLE, f"{len(results)} examples, all as expected")
    else:
        emit(output, results, _EXAMPLE, "no examples")
    if failed:
        say(f"{len(failed)} of {len(results)} examples are not answered as they expect")
    elif not results:
        say(f"{file} has no examples of itself: see the key examples")
    return FINDINGS if failed else 0


@policy.command(short_help="Write a policy from what a sandbox did.")
@config_option
@click.option("-o", "output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option(
    "--sandbox", metavar="SANDBOX", required=True, shell_complete=complete.sandboxes, help="Its name or id in the log."
)
@click.option(
    "--class", "class_", metavar="NAME", default="suggested", show_default=True, help="What to call the class."
)
def suggest(config_path: str | None, output: str, sandbox: str, class_: str) -> None:
    """Write a class that allows what SANDBOX was seen to do in the event log, and no more. Read it before it is used.

    Works from the log alone, also of a sandbox that has ended.
    """
    config = settings(config_path)
    seen = _Seen(config, sandbox)
    try:
        text = asking.suggest(seen.lines(), sandbox, class_)
    except UsageError:
        if seen.matched or not seen.over:
            raise
        raise find.unknown(sandbox, sorted(seen.names)) from None
    if output == "json":
        json_line({"sandbox": sandbox, "lines": seen.matched, "policy": text})
    else:
        # Line by line: a newline is the document's, and whatever else is unprintable in it is the sandbox's.
        click.echo("\n".join(map(escape, text.splitlines())))


@policy.command(short_help="Read the policy again.")
@config_option
@mutation
@click.option("--no-wait", is_flag=True, help="Return when it is asked for.")
def reload(config_path: str | None, *, reason: str | None, dry_run: bool, no_wait: bool) -> int:
    """Have the daemon read configuration and rules again. What is wrong is refused, and what is in force stays.

    --dry-run checks the configuration here and sends nothing. Exit status: 1 where the daemon refuses it.
    """
    why = reason_of(reason, dry_run)
    config = settings(config_path)
    if dry_run:
        say(f"dry run: {len(config.classes)} classes and {len(config.sandboxes)} patterns would be read")
        return 0
    reached = online(config)
    before = _reloads(reached)
    reached.change("/v1/policy/reload", why, dry_run=False)
    if no_wait or not before:
        say("asked for; the log tells what became of it")
        return 0
    say("the daemon reads configuration and rules again")
    return _reloaded(reached, before)


def _reloads(reached: Online) -> Row:
    """How many were done and failed; empty where the sensor does not tell."""
    told = reached.status().get("reloads")
    return {name: whole(number) for name, number in told.items()} if isinstance(told, dict) else {}


def _reloaded(reached: Online, before: Row) -> int:
    """:raises ActError: it takes too long."""
    deadline = time.monotonic() + _RELOAD_S
    while time.monotonic() < deadline:
        now = _reloads(reached)
        if now.get("failed", 0) > before.get("failed", 0):
            say("refused, and what was in force stays in force: see pinfold events --kind notice")
            return 1
        if now.get("done", 0) > before.get("done", 0):
            say("done: the new policy is in force")
            return 0
        reached.advance()
    raise ActError(f"nothing is told of it after {_RELOAD_S:g} s: see pinfold events --kind notice")


class _Seen:
    """The lines of the log that are of one sandbox, oldest file first; which names there are beside."""

    _MOST_NAMES = 4096

    def __init__(self, config: Config, sandbox: str) -> None:
        self._path = os.path.join(config.paths.log, config.log.file)
        self._sandbox = sandbox
        self.matched = 0
        self.over = False  # all of the log was read
        self.names: set[str] = set()

    def lines(self) -> Iterator[bytes]:
        """:raises HostError: there is no log."""
        from sensor.cli.choose import parsed  # noqa: PLC0415
        from sensor.export.reader import backwards, files  # noqa: PLC0415

        if not files(self._path):
            raise HostError(f"no log at {self._path}: has the sensor run with this configuration?")
        told = time.monotonic()
        for number, line in enumerate(backwards(self._path), 1):
            if number % _EVERY == 0 and time.monotonic() > told + _PROGRESS_S:
                told = time.monotonic()
                click.echo(f"… {number} lines of the log are read, {self.matched} are of this sandbox", err=True)
            record = parsed(line)
            name = record.get("SandboxName")
            if isinstance(name, str) and len(self.names) < self._MOST_NAMES:
                self.names.add(name)
            if self._sandbox in (name, str(record.get("SandboxId"))):
                self.matched += 1
                yield line
        self.over = True


def _readable(path: str) -> None:
    """A file that is not there is no finding about a policy. :raises ConfigError: it cannot be read."""
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else str(why)
        raise ConfigError(f"{path}: cannot be read: {(reason or 'an error').lower()}") from why


def _problem(path: str, line: str) -> Row:
    match = _PROBLEM.fullmatch(line)
    if match is None:
        return {"file": path, "line": 0, "key": "", "reason": line, "severity": "error"}
    place = {"file": match["file"], "line": int(match["line"]), "key": match["key"]}
    return place | {"reason": match["reason"], "severity": "error"}


def _line(one: Row) -> str:
    warning = "warning: " if one["severity"] == "warning" else ""
    return f"{one['file']}:{one['line']}: {one['key']}: {warning}{one['reason']}" if one["line"] else str(one["reason"])


def _egress(one: Row) -> str:
    egress = one.get("egress")
    if not isinstance(egress, dict):
        return cell(egress)
    allowed = egress.get("allow")
    listed = f", {len(allowed)} allowed" if isinstance(allowed, list | tuple) and allowed else ""
    return f"{cell(egress.get('default'))}{listed}"


def _denied(one: Row) -> str:
    """Protocols and programs."""
    programs: Any = one.get("denied_executables")
    named = {name: value for name, value in programs.items() if value} if isinstance(programs, dict) else {}
    shown = [name.replace("_", " ") if value is True else cell(value) for name, value in named.items()]
    return ", ".join(filter(None, [cell(one.get("denied_protocols")), *shown]))


def _responses(one: Row) -> str:
    """What is done beyond logging."""
    responses: Any = one.get("responses")
    if not isinstance(responses, dict):
        return cell(responses)
    done = [f"{level} {action}" for level, action in responses.items() if isinstance(action, str) and action != "log"]
    rules = responses.get("rules")
    return ", ".join(done + ([f"{len(rules)} rules"] if isinstance(rules, list | tuple) and rules else [])) or "log"


_CLASS = (
    column("Class", "name", True),
    column("Mode", "mode"),
    column("Devices", "granted_devices", True),
    Column("Egress", _egress, True),
    Column("Denied", _denied, True),
    Column("Responses", _responses, True),
)
_FINDING = (
    column("File", "file", True),
    column("Line", "line"),
    column("Key", "key", True),
    column("Reason", "reason", True),
)
_EXAMPLE = (
    column("Line", "line"),
    column("Example", "question", True),
    column("Expected", "expected"),
    column("Found", "found"),
    column("Because", "why", True),
)
