"""Files of Falco rules: lists and macros in their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from sensor.errors import RuleError
from sensor.rules.document import RefusalError, anything, read
from sensor.rules.falco import grammar
from sensor.rules.falco.grammar import And, Check, Known, Name, Not, Or, Tree

MOST_NODES = 20_000  # of one condition, once its macros are in their places
MOST_DEPTH = 60
# What these macros mean is known, and said by `meaning`, whether or not the file defines them, and how.
KNOWN: dict[str, Tree] = {
    "spawned_process": Check("evt.type", "in", ("execve", "execveat")),
    "container": Known(True),
    "outbound": And(
        (
            Check("evt.type", "in", ("connect", "sendto", "sendmsg")),
            Check("fd.typechar", "=", ("4",)),
            Not(Check("fd.snet", "in", ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))),
        )
    ),
    "inbound": And((Check("evt.type", "in", ("accept", "accept4", "listen")), Check("fd.typechar", "=", ("4",)))),
    "inbound_outbound": And(
        (Check("evt.type", "in", ("accept", "accept4", "connect")), Check("fd.typechar", "=", ("4",)))
    ),
    "open_write": And((Check("evt.type", "in", ("open", "openat")), Check("evt.is_open_write", "=", ("true",)))),
    "open_read": And((Check("evt.type", "in", ("open", "openat")), Check("evt.is_open_read", "=", ("true",)))),
    "always_true": Known(True),
    "never_true": Known(False),
}


class Rule(Struct, frozen=True):
    name: str
    description: str
    priority: str
    tags: tuple[str, ...]
    condition: Tree
    exceptions: bool  # it has some, which are not converted


class Read(Struct, frozen=True):
    """`refused`: rule's name and why."""

    rules: tuple[Rule, ...]
    refused: tuple[tuple[str, str], ...]


def rules(paths: Sequence[Path]) -> Read:
    """Files in the order in which Falco reads them: a later one may change what an earlier one says. Raises RuleError
    where a file is none of Falco's."""
    together = _Files()
    for path in paths:
        try:
            items = anything(read(path))
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise RefusalError("is not a list of rules, macros and lists, as Falco has it", 1)
        except RefusalError as error:
            raise RuleError(f"{path}:{error.line or 1}: {error.reason}") from error
        for item in items:
            together.take(item)
    return together.read()


class _Files:
    def __init__(self) -> None:
        self._lists: dict[str, list[Any]] = {}
        self._macros: dict[str, str] = {}
        self._rules: dict[str, dict[str, Any]] = {}
        self._budget = MOST_NODES

    def take(self, item: dict[str, Any]) -> None:
        override = item.get("override")
        added = item.get("append") is True or (isinstance(override, dict) and "append" in override.values())
        if "list" in item:
            values = item.get("items")
            before = self._lists.get(str(item["list"]), []) if added else []
            self._lists[str(item["list"])] = [*before, *(values if isinstance(values, list) else [])]
        elif "macro" in item:
            name, text = str(item["macro"]), str(item.get("condition", ""))
            self._macros[name] = f"{self._macros.get(name, '')} {text}" if added else text
        elif "rule" in item:
            name = str(item["rule"])
            known = self._rules.get(name, {})
            if added:
                item = {**known, "condition": f"{known.get('condition', '')} {item.get('condition', '')}"}
            self._rules[name] = {**known, **item}

    def read(self) -> Read:
        found, refused = [], []
        for name, item in self._rules.items():
            try:
                found.append(self._rule(name, item))
            except RefusalError as error:
                refused.append((name, error.reason))
        return Read(tuple(found), tuple(refused))

    def _rule(self, name: str, item: dict[str, Any]) -> Rule:
        tags = item.get("tags")
        self._budget = MOST_NODES
        return Rule(
            name=name,
            description=" ".join(str(item.get("desc", "")).split()),
            priority=str(item.get("priority", "")).casefold(),
            tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
            condition=self._placed(grammar.parse(str(item.get("condition", ""))), ()),
            exceptions=bool(item.get("exceptions")),
        )

    def _placed(self, tree: Tree, within: tuple[str, ...]) -> Tree:
        self._budget -= 1
        if self._budget < 0 or len(within) > MOST_DEPTH:
            raise RefusalError("too large or too deep once its macros are in their places")
        if isinstance(tree, Name):
            return self._macro(tree.name, within)
        if isinstance(tree, Check):
            return structs.replace(tree, values=tuple(self._values(tree))) if tree.operator in grammar.LISTS else tree
        if isinstance(tree, Not):
            return Not(self._placed(tree.item, within))
        if isinstance(tree, And | Or):
            return type(tree)(tuple(self._placed(item, within) for item in tree.items))
        return tree

    def _macro(self, name: str, within: tuple[str, ...]) -> Tree:
        if name in KNOWN:
            return KNOWN[name]
        if name not in self._macros:
            raise RefusalError(f"macro {name!r} is in no file")
        if name in within:
            raise RefusalError(f"macro {name!r} is made of itself")
        return self._placed(grammar.parse(self._macros[name]), (*within, name))

    def _values(self, check: Check) -> list[str]:
        """Lists may name lists."""
        found: dict[str, None] = {}
        waiting, seen = list(reversed(check.values)), set()
        while waiting:
            value = waiting.pop()
            if value in self._lists:
                if value not in seen:
                    seen.add(value)
                    waiting += reversed([_bare(str(one)) for one in self._lists[value]])
            else:
                found[value] = None
            if len(found) > MOST_NODES:
                raise RefusalError("a list is too long")
        return list(found)


def _bare(item: str) -> str:
    """Lists are put into conditions as text: what must not be taken apart there stands in quotes of its own."""
    return item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in "\"'" else item
