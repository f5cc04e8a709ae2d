"""JSON as a stranger's first bytes hold it: cut anywhere, spread over lines, or not quite JSON.

A decoder says nothing of half an object, and half is all that the first segment of a flow may bring.
"""

from __future__ import annotations

import re

import msgspec

from sensor.enrich.protocols.result import TEXT_MAX

LINE_MAX = 4096  # a longer line goes to the scanner, which stops at its bounds
OBJECTS_MAX = 8
TOKENS_MAX = 512
DEPTH_MAX = 6
MEMBERS_MAX = 64
_SPACE = b" \t\r\n,["  # between objects; with "," and "[" a JSON-RPC batch reads as its objects
_LITERAL = re.compile(rb'[^ \t\r\n,:{}\[\]"]+')
_QUOTE, _BACKSLASH, _OPEN, _OPEN_LIST, _CLOSE, _CLOSE_LIST, _COMMA = b'"\\{[}],'


class Cut(str):
    """A string whose end is not there."""

    __slots__ = ()


def objects(data: bytes, at: int = 0) -> list[dict[str, object]]:
    """The objects that follow each other from `at` on, at most OBJECTS_MAX; the last may be cut."""
    found: list[dict[str, object]] = []
    size = len(data)
    while len(found) < OBJECTS_MAX:
        while at < size and data[at] in _SPACE:
            at += 1
        if at == size or data[at] != _OPEN:
            break
        newline = data.find(b"\n", at)
        end = size if newline < 0 else newline
        whole = _decoded(data[at:end])
        if whole is None:
            whole, end = scan(data, at)
        found.append(whole)
        at = end
    return found


def _decoded(line: bytes) -> dict[str, object] | None:
    if len(line) > LINE_MAX or line.rstrip(b" \t\r")[-1:] != b"}":
        return None
    try:
        value = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return value if type(value) is dict else None


class _Tree:
    """What has been read so far. Objects and arrays nested deeper than DEPTH_MAX are only counted."""

    __slots__ = ("_deep", "_key", "_open", "root")

    def __init__(self) -> None:
        self.root: dict[str, object] = {}
        self._open: list[dict[str, object] | list[object]] = [self.root]
        self._key: str | None = None
        self._deep = 0

    def open(self, inner: dict[str, object] | list[object]) -> None:
        if self._deep or len(self._open) == DEPTH_MAX:
            self._deep += 1
            return
        self.put(inner)
        self._open.append(inner)

    def close(self) -> bool:
        """Whether it was the root."""
        self._key = None
        if self._deep:
            self._deep -= 1
        else:
            self._open.pop()
        return not self._open

    def comma(self) -> None:
        self._key = None

    def string(self, value: str) -> None:
        if self._key is None and not self._deep and type(self._open[-1]) is dict:
            self._key = value
        else:
            self.put(value)

    def put(self, value: object) -> None:
        container = self._open[-1]
        key, self._key = self._key, None
        if self._deep or len(container) >= MEMBERS_MAX:
            return
        if type(container) is list:
            container.append(value)
        elif type(container) is dict and key is not None:
            container[key] = value


def scan(data: bytes, at: int) -> tuple[dict[str, object], int]:
    """What can be read of the object that starts at `at`, and where it ends.

    Numbers and literals become None, a string without its end is a `Cut`. Each byte is looked at once,
    besides backslashes before a quote.
    """
    tree = _Tree()
    at += 1
    for _ in range(TOKENS_MAX):
        at = _token(data, at)
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        if byte == _QUOTE:
            end = _string_end(data, at)
            tree.string(_string(data, at, end))
            at = len(data) if end < 0 else end + 1
        elif byte in (_OPEN, _OPEN_LIST):
            tree.open({} if byte == _OPEN else [])
        elif byte == _COMMA:
            tree.comma()
        elif byte not in (_CLOSE, _CLOSE_LIST):
            literal = _LITERAL.match(data, at - 1)
            at = literal.end() if literal else at
            tree.put(None)
        elif tree.close():
            return tree.root, at
    return tree.root, len(data)


def _token(data: bytes, at: int) -> int:
    while at < len(data) and data[at] in b" \t\r\n:":
        at += 1
    return at


def _string_end(data: bytes, start: int) -> int:
    """Where the quote is that ends the string, -1 if it is not there."""
    at = data.find(b'"', start)
    while at >= 0:
        before = at - 1
        while before >= start and data[before] == _BACKSLASH:
            before -= 1
        if (at - before) % 2:  # an even number of backslashes
            return at
        at = data.find(b'"', at + 1)
    return -1


def _string(data: bytes, start: int, end: int) -> str:
    if end < 0:
        return Cut(data[start : start + LINE_MAX].decode("utf-8", "replace"))
    raw = data[start:end]
    if b"\\" in raw:
        try:
            return str(msgspec.json.decode(data[start - 1 : end + 1]))
        except (msgspec.MsgspecError, ValueError):  # an escape that is none
            pass
    return raw.decode("utf-8", "replace")


def said(value: object, most: int = TEXT_MAX) -> str:
    """A whole string, printable and cut to `most`; "" for all else."""
    if type(value) is not str:
        return ""
    text = value[:most]
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)
