"""A YAML file into a msgspec.Struct, every complaint with its line.

Nothing here knows what the keys mean: `read` takes the Struct and a function that says what is
wrong with its values. YAML comes through libyaml's safe loader; on top of it stand refusals that a
file read by a root process deserves: who else may write it, its size, nesting, aliases (a few lines of
them can expand to gigabytes) and duplicate keys, where YAML itself would silently keep the last.
"""

from __future__ import annotations

import os
import stat
import types
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import msgspec

from sensor.errors import ConfigError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 12
MAX_PROBLEMS = 20  # told at once; the rest follows when these are mended
_FOUND_CHARACTERS = 60
_ALIKE = 0.6

KeyPath = tuple[str | int, ...]
T = TypeVar("T", bound=msgspec.Struct)


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one value. `path` leads to it: ("sandboxes", 0, "path")."""

    path: KeyPath
    expected: str
    found: str


class _Unreadable(Exception):
    """The text is no YAML that is accepted here: nothing else can be said about the file."""

    def __init__(self, line: int, expected: str, found: str) -> None:
        super().__init__(expected)
        self.line, self.expected, self.found = line, expected, found

    def told(self, path: str) -> str:
        return f"{_shown_path(path)}:{self.line}: file: expected {self.expected}, found {self.found}"


def read(path: str, kind: type[T], check: Callable[[T], Iterable[Problem]]) -> T:
    """The file's settings as `kind`. Raises ConfigError with a line `FILE:LINE: KEY: expected …,
    found …` for each problem, in the order of the file."""
    try:
        document = _Document(_text(path))
        data = document.value
        problems = document.problems + list(_mistyped(kind, data, ()))
        settings = None if problems else msgspec.convert(_without_empty(kind, data), kind)
    except _Unreadable as why:
        raise ConfigError(why.told(path)) from why
    if settings is not None:
        problems = list(check(settings))
        if not problems:
            return settings
    located = sorted(((document.line(problem.path), problem) for problem in problems), key=lambda pair: pair[0])
    lines = [
        f"{_shown_path(path)}:{line}: {key_name(problem.path)}: expected {problem.expected}, found {problem.found}"
        for line, problem in located[:MAX_PROBLEMS]
    ]
    raise ConfigError("\n".join(lines))


class Lines:
    """Where in a file its keys are. Called with a path of keys: the line (from 1) of that key or, where it is not in
    the file, of the section that it would be in."""

    def __init__(self, document: _Document) -> None:
        self._document = document

    def __call__(self, path: KeyPath) -> int:
        return self._document.line(path)

    def written(self, path: KeyPath) -> bool:
        """Whether the file has that key: what it does not have is a default."""
        return self._document.has(path)


def lines(path: str) -> Lines:
    """Of a file that `read` accepts. Raises ConfigError where it is no YAML that is accepted here."""
    try:
        return Lines(_Document(_text(path)))
    except _Unreadable as why:
        raise ConfigError(why.told(path)) from why


def near(value: str, choices: Collection[str]) -> str:
    """What was perhaps meant, to be put behind `found`; nothing where nothing is like it."""
    import difflib  # noqa: PLC0415 - only where something is wrong

    close = difflib.get_close_matches(value[:_FOUND_CHARACTERS].lower(), list(choices), 1, _ALIKE)
    return f"; did you mean {close[0]}?" if close else ""


def found(value: object) -> str:
    """A value from the file as a message shows it: one line, bounded, nothing unprintable."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) > 1 << 64:
        return "a huge number"  # its decimal form alone can cost seconds
    shown = repr(value) if isinstance(value, str) else str(value)
    return shown if len(shown) <= _FOUND_CHARACTERS else shown[:_FOUND_CHARACTERS] + "…"


def key_name(path: KeyPath) -> str:
    """`sandboxes[0].path`; `file` for the whole."""
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{_shown_key(part)}"
    return name.lstrip(".") or "file"


def _shown_key(key: str) -> str:
    return key if key.isprintable() and len(key) <= _FOUND_CHARACTERS else found(key)


def _shown_path(path: str) -> str:
    return path if path.isprintable() else repr(path)


def _text(path: str) -> str:
    try:
        # Non-blocking: a FIFO in its place must not stop a root process.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            _refuse_foreign(os.fstat(fd))
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as why:
        if isinstance(why, OSError) and os.path.islink(path):
            raise _Unreadable(1, "a file of its own", "a symbolic link, which could come to lead elsewhere") from why
        reason = why.strerror if isinstance(why, OSError) else str(why)
        raise _Unreadable(1, "a file that can be read", (reason or "an error").lower()) from why
    if len(content) > MAX_BYTES:
        raise _Unreadable(1, f"at most {MAX_BYTES} bytes", "more")
    try:
        return content.decode()
    except UnicodeDecodeError as why:
        line = content.count(b"\n", 0, why.start) + 1
        raise _Unreadable(line, "UTF-8", f"the byte {content[why.start]:#04x}") from why


def _refuse_foreign(status: os.stat_result) -> None:
    """Whoever may write the file decides what a root process does."""
    if stat.S_ISDIR(status.st_mode):
        return  # reading it says so
    if not stat.S_ISREG(status.st_mode):
        raise _Unreadable(1, "a file that can be read", "something that is no regular file")
    if status.st_uid not in {0, os.geteuid()}:
        raise _Unreadable(1, "a file that root owns", f"one of uid {status.st_uid}; run `chown root` on it")
    if status.st_mode & 0o022:
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}; run `chmod go-w` on it"
        raise _Unreadable(1, "a file that only its owner may write", mode)


class _Document:
    """The file as plain Python values, and the line (from 1) of every key and item in it."""

    def __init__(self, text: str) -> None:
        self.problems: list[Problem] = []
        self._lines: dict[KeyPath, int] = {(): 1}
        root = _compose(text)
        self.value: Any = None if root is None else self._plain(root, ())

    def line(self, path: KeyPath) -> int:
        """Of the key or, where it is not in the file, of the section it would be in."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def has(self, path: KeyPath) -> bool:
        return path in self._lines

    def _plain(self, node: yaml.Node, path: KeyPath) -> Any:
        import yaml  # noqa: PLC0415

        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*path, index)] = item.start_mark.line + 1
            return [self._plain(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            self.problems.append(Problem(path, "a plain value", found(str(node.value))))
            return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str) or key_node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                self._lines.setdefault((*path, str(key)), line)
                self.problems.append(Problem((*path, str(key)), "a name (quote it)", found(key)))
                continue
            inner = (*path, key)
            if key in result:
                self.problems.append(Problem(inner, "each key once", f"a second one in line {line}"))
                continue
            self._lines[inner] = line
            result[key] = self._plain(value_node, inner)
        return result


def _compose(text: str) -> yaml.Node | None:
    import yaml  # noqa: PLC0415

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        # libyaml's composer recurses in C: the depth is checked on the flat events, beforehand.
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise _Unreadable(_line(event.start_mark), "no aliases", f"*{_shown_key(event.anchor or '')}")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _Unreadable(_line(event.start_mark), f"at most {MAX_DEPTH} levels", "more")
        node: yaml.Node | None = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as why:
        if "nesting depth" in (why.problem or ""):  # newer libyaml has a bound of its own, met before our events
            raise _Unreadable(_line(why.problem_mark), f"at most {MAX_DEPTH} levels", "more") from why
        raise _Unreadable(_line(why.problem_mark or why.context_mark), "YAML", _one_line(why.problem)) from why
    except yaml.YAMLError as why:
        raise _Unreadable(1, "YAML", _one_line(str(why))) from why
    return node


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1


def _one_line(text: str | None) -> str:
    line = " ".join((text or "an error").split())[:120]
    return line if line.isprintable() else repr(line)


def _mistyped(kind: Any, value: Any, path: KeyPath) -> Iterable[Problem]:
    """Walks the Struct beside the data, so that each problem has its own path: msgspec alone stops
    at the first, and its paths do not name the keys of a dict."""
    kind = _wanted(kind)
    if value is None and _is_section(kind):
        return  # a key with everything below it commented out
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from _mistyped_struct(kind, value, path)
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            yield Problem(path, "a mapping", found(value))
            return
        for key, item in value.items():
            yield from _mistyped(get_args(kind)[1], item, (*path, key))
    elif get_origin(kind) is tuple:
        if not isinstance(value, list):
            yield Problem(path, "a list", found(value))
            return
        for index, item in enumerate(value):
            yield from _mistyped(get_args(kind)[0], item, (*path, index))
    else:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            meant = near(value, [str(choice) for choice in get_args(kind)]) if isinstance(value, str) else ""
            yield Problem(path, _expected(kind), found(value) + meant)


def _mistyped_struct(kind: type[msgspec.Struct], value: Any, path: KeyPath) -> Iterable[Problem]:
    if not isinstance(value, dict):
        yield Problem(path, "a mapping", found(value))
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, item in value.items():
        if key in fields:
            yield from _mistyped(fields[key].type, item, (*path, key))
        else:
            said = f"the unknown key {_shown_key(key)}{near(key, fields)}"
            yield Problem((*path, key), f"one of the keys {', '.join(sorted(fields))}", said)
    for name, field in fields.items():
        if field.required and name not in value:
            yield Problem(path, f"the key {name}", "none")


def _wanted(kind: Any) -> Any:
    """Of `X | None`, which a key may leave out, X."""
    if get_origin(kind) is types.UnionType:
        return next(one for one in get_args(kind) if one is not types.NoneType)
    return kind


def _is_section(kind: Any) -> bool:
    return get_origin(kind) in (dict, tuple) or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))


def _without_empty(kind: Any, value: Any) -> Any:
    """The data without sections that hold nothing: their defaults then apply."""
    kind = _wanted(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        kinds = {field.encode_name: _wanted(field.type) for field in msgspec.structs.fields(kind)}
        data = value or {}
        return {
            key: _without_empty(kinds[key], item)
            for key, item in data.items()
            if not (item is None and _is_section(kinds[key]))
        }
    if get_origin(kind) is dict:
        return {key: _without_empty(get_args(kind)[1], item) for key, item in (value or {}).items()}
    if get_origin(kind) is tuple:
        return [_without_empty(get_args(kind)[0], item) for item in value or ()]
    return value


def _expected(kind: Any) -> str:
    named = {str: "text", int: "an integer", float: "a number", bool: "true or false"}.get(kind)
    return named or "one of " + ", ".join(str(choice) for choice in get_args(kind))
