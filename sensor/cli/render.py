"""A record of the log as one line for people: time, sandbox, mark, what.

A record is read as it comes: a log that somebody damaged must still be shown.
"""

from __future__ import annotations

import os
import shutil
import sys

import click

from sensor.cli import rendercorrelation, renderguard, rendernet
from sensor.cli.escape import escape, fit
from sensor.cli.rendernet import program
from sensor.cli.rendernet import text as _text
from sensor.export.redact import redact

_TIME, _SANDBOX, _MARK = 12, 14, 8  # columns
_COLOURS = {
    "critical": "bright_red",
    "high": "red",
    "medium": "yellow",
    "low": "cyan",
    "info": "cyan",
    "kill": "magenta",
    "exec": "green",
    "connect": "blue",
    "device": "blue",
    "flow": "blue",
    "protocol": "blue",
    "dns": "blue",
    "listen": "blue",
    "behavior": "yellow",
    "migrate": "red",
    "sensor": "red",
    "file": "blue",
    "syscall": "blue",
    "notice": "yellow",
}
_CATEGORIES = {
    "process_creation": "exec",
    "network_connection": "connect",
    "device_access": "device",
    "process_termination": "exit",
    "network_flow": "flow",
    "network_protocol": "protocol",
    "dns_query": "dns",
    "network_listen": "listen",
    "network_behavior": "behavior",
    "process_migration": "migrate",
    "sensor_access": "sensor",
    "file_event": "file",
    "file_access": "file",
    "file_rename": "file",
    "file_delete": "file",
    "file_change": "file",
    "system_call": "syscall",
}

Record = rendernet.Record
_SUBJECTS = rendernet.SUBJECTS | renderguard.SUBJECTS


def compact(record: Record, width: int | None, colours: bool, *, unredacted: bool = False) -> str:
    """At most `width` columns; None: as long as it is."""
    if not unredacted:
        record = redact(record)
    mark, what = _mark(record), escape(_what(record))
    time = escape(_text(record, "time")[11:23]).ljust(_TIME)
    sandbox = fit(escape(_text(record, "SandboxName") or "-"), _SANDBOX)
    head = f"{time} {_padded(sandbox, _SANDBOX)} "
    label = _padded(fit(escape(mark), _MARK), _MARK)
    if width is not None:
        what = fit(what, max(width - _TIME - _SANDBOX - _MARK - 3, 8))
    if colours:
        bold = record.get("kind") == "detection"
        colour = _COLOURS.get(mark.lower())
        label = click.style(label, fg=colour, bold=bold)
        what = click.style(what, bold=True) if bold else what
        head = click.style(head, dim=True)
    return f"{head}{label} {what}"


def terminal_width() -> int | None:
    """Of stdout; None where it is a file or a pipe, which nothing is cut for."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return None
    return shutil.get_terminal_size().columns


def colours_wanted(terminal: bool) -> bool:
    """https://no-color.org: any value but the empty one turns them off."""
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _padded(text: str, width: int) -> str:
    from rich.cells import cell_len  # noqa: PLC0415

    return text + " " * (width - cell_len(text))


def _mark(record: Record) -> str:
    kind = record.get("kind")
    if kind == "detection":
        return "INFO" if level(record) == "informational" else level(record).upper()
    if kind == "response":
        action = _text(record, "action")
        return "kill" if action.startswith("kill") else action
    if kind == "sandbox":
        return _text(record, "change")
    return _CATEGORIES.get(_text(record, "category"), _text(record, "kind"))


def level(record: Record) -> str:
    rule = record.get("rule")
    return _text(rule, "level") if isinstance(rule, dict) else ""


def _what(record: Record) -> str:
    kind = record.get("kind")
    if kind == "detection":
        rule = record.get("rule")
        title = _text(rule, "title") if isinstance(rule, dict) else "?"
        return f"{title}{rendercorrelation.brief(record)}: {_subject(record)}"
    if kind == "response":
        return _response(record)
    if kind == "sandbox":
        return f"{_text(record, 'CgroupPath')} ({_text(record, 'SandboxClass')})"
    if kind == "notice":
        fields = record.get("fields")
        named = " ".join(f"{name}={value}" for name, value in fields.items()) if isinstance(fields, dict) else ""
        return f"{_text(record, 'text')} {named}".rstrip()
    return _subject(record)


def subject(record: Record, *, unredacted: bool = False) -> str:
    """Whom or what it is about, without a rule's title; not escaped."""
    return _subject(record if unredacted else redact(record))


def _subject(record: Record) -> str:
    category = record.get("category")
    if category == "network_connection":
        return f"{program(record)} {rendernet.direction(record)} {_destination(record)}{_outcome(record)}"
    if isinstance(category, str) and category in _SUBJECTS:
        return _SUBJECTS[category](record)
    if category == "device_access":
        numbers = f"{_text(record, 'DeviceMajor')}:{_text(record, 'DeviceMinor')}"
        access = f"{_text(record, 'DeviceClass')} {numbers} {_text(record, 'Access')}"
        return f"{program(record)} opens {access}{_outcome(record)}"
    if category == "process_termination":
        signal = record.get("ExitSignal")
        return f"{program(record)} {f'signal {signal}' if signal else 'status ' + _text(record, 'ExitCode')}"
    facts = (("Killed", "[killed] "), ("ImageMemfd", "[memfd] "), ("ImageDeleted", "[deleted] "))
    return "".join(shown for name, shown in facts if record.get(name)) + (
        _text(record, "CommandLine") or _text(record, "Image")
    )


def _destination(record: Record) -> str:
    if record.get("Protocol") == "unix":
        return f"unix {_text(record, 'DestinationPath')}"
    name = _text(record, "DestinationHostname")
    return f"{_text(record, 'Protocol')} {rendernet.endpoint(record)}{f' ({name})' if name else ''}"


def _outcome(record: Record) -> str:
    verdict, count = _text(record, "Verdict"), record.get("Count")
    times = f" ×{count}" if isinstance(count, int) and count > 1 else ""
    return ("" if verdict == "allowed" else f" {verdict}") + times


def response(record: Record) -> str:
    """What was done and came of it; not escaped."""
    return _response(record)


def _response(record: Record) -> str:
    targets = record.get("targets")
    number = len(targets) if isinstance(targets, list) else 0
    latency = record.get("latency_ns")
    shown = [f"{_text(record, 'action')}: {_text(record, 'outcome')}"]
    if number:
        shown.append(f"{number} process{'es' if number > 1 else ''}")
    if isinstance(latency, int) and latency > 0:
        shown.append(f"after {latency / 1e6:.1f} ms")
    if reason := _text(record, "reason"):
        shown.append(reason)
    return ", ".join(shown)
