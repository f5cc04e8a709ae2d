"""What the `rules` commands are given: paths of rules, one rule, one event."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.common import settings
from sensor.cli.escape import escape
from sensor.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from sensor.events.activity import Activity
    from sensor.rules.correlation.model import Correlation
    from sensor.rules.unit import Rule

paths_argument = click.argument("paths", nargs=-1, metavar="[PATH]...")
event_help = (
    "EVENT is the id of an event or a detection in the log, a file with a JSON line of it (of several, the last), "
    "or - for stdin."
)
_EVENT_BYTES = 4 * 1024 * 1024


def where(config_path: str | None, paths: tuple[str, ...]) -> tuple[str, ...]:
    """PATHs, else those of the configuration."""
    from sensor.config import rule_paths  # noqa: PLC0415

    return paths or rule_paths(settings(config_path))


def say(lines: Iterable[str]) -> int:
    status = 0
    for line in lines:
        click.echo(escape(line), err=True)
        status = 1
    return status


def find_rule(config_path: str | None, word: str) -> Rule | Correlation:
    """By id, title, file, or the end of its path without the suffix: `ssh_odd_port`, `tunnels/ssh_odd_port`.

    :raises NotFoundError: :raises UsageError: several are meant.
    """
    from sensor.rules.ruleset import load  # noqa: PLC0415

    paths = (word,) if os.path.isfile(word) else where(config_path, ())
    ruleset = load(paths, None, keep_going=True)
    rules: tuple[Rule | Correlation, ...] = (*ruleset.rules, *ruleset.correlations)
    wanted = word.casefold()
    found = [
        rule
        for rule in rules
        if paths == (word,) or wanted in {rule.id.casefold(), rule.title.casefold()} or _names(rule.file, word)
    ]
    distinct = {rule.id: rule for rule in found}
    if not distinct:
        raise NotFoundError(f"no rule {word!r} in {', '.join(paths)}: `pinfold rules list` shows them")
    if len(distinct) > 1:
        some = ", ".join(sorted(rule.id for rule in distinct.values())[:4])
        raise UsageError(f"{word!r} means {len(distinct)} rules: name one by its id ({some})")
    return found[0]


def _names(file: str, word: str) -> bool:
    return f"/{os.path.splitext(file)[0]}".endswith(f"/{word}")


def find_event(config_path: str | None, word: str, *, redacted: bool = False) -> tuple[Activity, dict[str, Any]]:
    """The activity, and the record it was made of; `redacted`: with MARK for each secret, for what is kept.

    :raises NotFoundError: :raises UsageError: it is no event.
    """
    from sensor.export.redact import redact  # noqa: PLC0415
    from sensor.rules.recorded import recorded  # noqa: PLC0415

    record = _record(config_path, word)
    record = redact(record) if redacted else record
    try:
        return recorded(record), record
    except ValueError as why:
        raise UsageError(f"{word}: {why}: give a line of the log of the kind event or detection") from why


def _record(config_path: str | None, word: str) -> dict[str, Any]:
    from sensor.cli.choose import parsed  # noqa: PLC0415

    if word == "-" or os.path.isfile(word):
        lines = [line for line in _content(word).splitlines() if line.strip()]
        record = parsed(lines[-1]) if lines else {}
        if not record:
            raise UsageError(f"{word}: holds no JSON object: give a line of `pinfold events -o json`")
        return record
    return _logged(config_path, word)


def _content(word: str) -> bytes:
    if word == "-":
        return sys.stdin.buffer.read(_EVENT_BYTES)
    with open(word, "rb") as file:
        return file.read(_EVENT_BYTES)


def _logged(config_path: str | None, word: str) -> dict[str, Any]:
    """Of a detection, its event: that has all fields, and stands right behind it."""
    from sensor.cli.choose import parsed  # noqa: PLC0415
    from sensor.cli.events import log_path, readable  # noqa: PLC0415
    from sensor.export.reader import backwards  # noqa: PLC0415

    path = log_path(settings(config_path))
    readable(path)
    event, detection = word.partition("/")[0], word
    mark = event.encode()
    known: dict[str, Any] = {}
    for line in backwards(path):
        if mark not in line:
            continue
        record = parsed(line)
        if record.get("kind") == "event" and record.get("id") == event:
            known = {**known, **record}
        elif record.get("kind") == "detection" and str(record.get("id", "")).startswith(detection):
            rule = record.get("rule")
            return {**record, **known, "rule": rule} if known else record
        if known and "/" not in word:
            return known
    if known:
        return known
    raise NotFoundError(f"no event {word!r} in {path}: `pinfold events -o json` shows ids")


def walked(parts: Iterable[Any], depth: int = 0) -> Iterator[tuple[int, Any]]:
    """Nodes of an explanation with their depth, each before what it is made of."""
    for part in parts:
        yield depth, part
        yield from walked(part.parts, depth + 1)
