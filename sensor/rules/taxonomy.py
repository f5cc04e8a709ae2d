"""What the names of a foreign rule mean here: taxonomy.yaml, read once, and asked by logsource, category and name.

Only in the child: it reads YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from sensor.events.derived import ARGUMENTS
from sensor.rules import fields
from sensor.rules.document import documents
from sensor.rules.fields import Field

_FOLDER = Path(__file__).parent


class Source(Struct, frozen=True):
    """`categories`: those whose events can be what the logsource means; none: `missing` says why."""

    categories: tuple[str, ...]
    missing: str = ""


class Meaning(Struct, frozen=True):
    """Of a name in a category: fields of which any may have the value, or the values it has in every event."""

    fields: tuple[Field, ...]
    constants: tuple[str, ...] = ()


class _Table(Struct, frozen=True):
    services: dict[str, dict[str, list[str]]]
    product: dict[str, list[str]]
    categories: dict[str, str]
    elsewhere: dict[str, str]
    fields: dict[str, dict[str, str | list[str]]]
    constants: dict[str, dict[str, list[str]]]
    absent: dict[str, str]


def _yaml(name: str) -> dict[Any, Any]:
    (document,) = documents((_FOLDER / name).read_text(encoding="utf-8"))
    return document.data


@cache
def _table() -> _Table:
    return _Table(**_yaml("taxonomy.yaml"))


@cache
def _system_calls() -> dict[int, str]:
    runs = _yaml("syscalls.yaml").items()
    return {int(first) + i: name for first, names in runs for i, name in enumerate(names.split())}


def system_call(number: int) -> str:
    """The name of an x86-64 system call, "" where there is none of this number."""
    return _system_calls().get(number, "")


def source(logsource: Mapping[str, Any], used: Iterable[str]) -> Source | None:
    """`used`: the fields that the rule names, "" for a keyword. None for a category that neither Sigma nor we know."""
    table = _table()
    category, service = logsource.get("category"), logsource.get("service")
    if category is not None:
        category = table.categories.get(str(category), str(category))
        if category in fields.CATEGORIES:
            return Source((category,))
        return Source((), f"category {category} ({table.elsewhere[category]})") if category in table.elsewhere else None
    named = set(used)
    if service is not None and service not in table.services:
        if named <= set(
            fields.of_category("process_creation")
        ):  # SigmaHQ has such: the service is where to look for it
            return Source(("process_creation",))
        return Source((), f"service {service} (its log is not read)")
    found = table.product if service is None else table.services[str(service)]
    return Source(tuple(name for name, only_if in found.items() if not only_if or named.intersection(only_if)))


def known_categories() -> tuple[str, ...]:
    return tuple(fields.CATEGORIES)


@cache
def look(category: str, name: str) -> Meaning | None:
    """What a field's name means in events of a category; None where they have no such field."""
    own = fields.of_category(category)
    if name in own:
        return Meaning((own[name],))
    foreign = _of(_table().fields, category)
    if name in foreign:
        to = foreign[name]
        return Meaning(tuple(_field(category, name, attribute) for attribute in ([to] if isinstance(to, str) else to)))
    constants = _of(_table().constants, category).get(name)
    if constants is not None:
        return Meaning((), tuple(constants))
    number = _position(name)
    if category == "process_creation" and 0 <= number < ARGUMENTS:
        return Meaning((arguments()[number],))
    return None


@cache
def arguments() -> tuple[Field, ...]:
    """Of process_creation, each of argv's positions that can be named."""
    return tuple(Field(f"a{i}", f"Argument{i}", "text", f"argument {i}") for i in range(ARGUMENTS))


def _of(tables: Mapping[str, Mapping[str, Any]], category: str) -> dict[str, Any]:
    return {**tables.get("all", {}), **tables.get(category, {})}


def _field(category: str, name: str, attribute: str) -> Field:
    own = fields.of_category(category).get(attribute)
    return Field(name, attribute, own.kind if own else "text", own.description if own else "")


def _position(name: str) -> int:
    """Of auditd's a0, a1, …; -1 for any other name."""
    digits = name[1:]
    return int(digits) if name[:1] == "a" and digits.isascii() and digits.isdigit() and len(digits) < 4 else -1


def why_absent(categories: Iterable[str], name: str) -> str:
    """One line for a rule that names a field which none of the categories has, without a colon."""
    categories = tuple(categories)
    line = f"{categories[0]} has no field {name!r}"
    if len(categories) > 1:
        line = f"none of {', '.join(categories)} has a field {name!r}"
    reason = _table().absent.get(name)
    if reason:
        return f"{line} ({reason})"
    close = difflib.get_close_matches(name, _names(categories), n=1)
    return f"{line}; did you mean {close[0]!r}?" if close else line


def _names(categories: Iterable[str]) -> list[str]:
    names: dict[str, None] = {}
    for category in categories:
        names.update(dict.fromkeys(fields.of_category(category)))
        names.update(dict.fromkeys(_of(_table().fields, category)))
    return list(names)


def markdown() -> str:
    """The table of foreign names, by category, and of what logsources without a category of ours stand for."""
    table = _table()
    lines = ["### Foreign names", "", "| category | name | what it is here |", "|---|---|---|"]
    for category, names in table.fields.items():
        for name, to in names.items():
            of = [to] if isinstance(to, str) else to
            lines.append(f"| {category} | `{name}` | {' or '.join(f'`{one}`' for one in of)} |")
    lines.append(f"| process_creation | `a0` to `a{ARGUMENTS - 1}` | that argument, the program's name being `a0` |")
    for category, constants in table.constants.items():
        for name, values in constants.items():
            lines.append(f"| {category} | `{name}` | always {', '.join(values)} |")
    lines += ["", "| logsource | stands for |", "|---|---|", f"| `product: linux` alone | {', '.join(table.product)} |"]
    lines += (f"| `service: {name}` | {', '.join(of)} |" for name, of in table.services.items())
    lines += (f"| `category: {name}` | {to} |" for name, to in table.categories.items())
    return "\n".join([*lines, ""])
