"""YAML with its lines: a rule file as plain data, and where each part of it stands.

Only in children and in tests: PyYAML is not for the core.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml
from msgspec import Struct

from sensor.rules import files
from sensor.rules.files import MAX_FILE_BYTES

MAX_NODES = 50_000  # aliases expand: a small file can stand for a huge tree
MAX_DEPTH = 32

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Plain scalars as YAML 1.2 has them. PyYAML's 1.1 makes a number of 2222:22 (base 60) and of 0777
    (octal), a date of 2024-01-01 and true of yes: a command line's words must stay words."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]+", "-+0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""])


class RefusalError(Exception):
    """Why a rule is refused, and the line; `line` 0 means wherever the caller is."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason = " ".join(reason.split())
        self.line = line


class Place:
    """A node of the document: its first line, and the places of what it holds."""

    def __init__(self, node: yaml.Node) -> None:
        self._node = node
        self.line: int = node.start_mark.line + 1

    def at(self, key: str) -> Place:
        """The key's place, or this one where there is no such key. Its line is the key's own."""
        return self.find(key) or self

    def find(self, key: str) -> Place | None:
        if isinstance(self._node, yaml.MappingNode):
            for key_node, value_node in self._node.value:
                if key_node.value == key:
                    place = Place(value_node)
                    place.line = key_node.start_mark.line + 1
                    return place
        return None

    def item(self, index: int) -> Place:
        if isinstance(self._node, yaml.SequenceNode) and index < len(self._node.value):
            return Place(self._node.value[index])
        return self


class Document(Struct, frozen=True):
    data: dict[str, Any]
    place: Place


def read(path: Path) -> str:
    """The file's text. Raises RefusalError."""
    try:
        content = files.read(path)
    except OSError as error:
        raise RefusalError(f"cannot be read: {error.strerror}", 1) from error
    if len(content) > MAX_FILE_BYTES:
        raise RefusalError(f"larger than {MAX_FILE_BYTES} bytes", 1)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusalError("is not UTF-8", content.count(b"\n", 0, error.start) + 1) from error


def documents(text: str) -> Iterator[Document]:
    """Each non-empty YAML document of a file; what follows a syntax error cannot be read.

    Raises RefusalError with the line.
    """
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            _check(node)
            data = loader.construct_document(node)
            if data is None:
                continue
            if not isinstance(data, dict):
                raise RefusalError("is not a mapping of keys to values", node.start_mark.line + 1)
            yield Document(data, Place(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RefusalError(f"YAML: {error.problem}", mark.line + 1 if mark else 1) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an explicit tag on what is not its type
        raise RefusalError(f"YAML: {error}", 1) from error


def _check(root: yaml.Node) -> None:
    """Refuse duplicate keys, of which YAML silently keeps the last, and trees that aliases blow up."""
    budget = MAX_NODES
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        budget -= 1
        if budget < 0 or depth > MAX_DEPTH:
            raise RefusalError("too large or too deep once its aliases are expanded", root.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            continue
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise RefusalError(f"key {key.value!r} is there twice", key.start_mark.line + 1)
                    seen.add(key.value)
                stack += ((key, depth + 1), (value, depth + 1))
        elif isinstance(node, yaml.SequenceNode):
            stack += [(item, depth + 1) for item in node.value]


def anything(text: str) -> Any:
    """One document of whatever shape, under the same bounds. Raises RefusalError with the line."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RefusalError(f"YAML: {error.problem}", mark.line + 1 if mark else 1) from error
    except (yaml.YAMLError, ValueError) as error:
        raise RefusalError(f"YAML: {error}", 1) from error
