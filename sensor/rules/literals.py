"""Which literals every match of a regex must hold, so that the index can look for them first.

The idea is that of RE2's own prefilter: small sets of exact strings are multiplied along a sequence and
kept as a clause (one of them must be there) when they grow too large or something unknown comes
between. What this reading does not know makes it say less, never something wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from sensor.rules import ordinary

MAX_EXACT = 64  # strings in one exact set
MAX_AHEAD = 16  # strings of which one comes next
MAX_CLAUSES = 4  # that are kept of alternatives
MAX_CLASS = 16  # characters of a class that is spelt out

# Bytes that a shell or a program takes as a word's end are one byte to the index: a handful of literals
# then stands for every way in which a word can be set off. Those by which a shell goes on to another command are
# another: most command lines have none of them. The same map is applied to text and literals.
_SEPARATORS, _OPERATORS = b"\t\n\v\f\r\"'`(),=", b";|&"
NORMAL = bytes.maketrans(_SEPARATORS + _OPERATORS, b" " * len(_SEPARATORS) + b";" * len(_OPERATORS))
FOLDED = bytes(range(128)).lower().translate(NORMAL) + bytes(range(128, 256))  # the same for ASCII, case-folded too

BEGIN, END = "\x01", "\x02"  # the text's or a line's two ends; the index sets text off with spaces

# Characters that are themselves, taken together: one by one they are most of the work.
_PLAIN = re.compile(rf"[^{BEGIN}{END}\x80-\U0010ffff\\()\[.^$|?*+{{]+(?![?*+{{])")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_CLASSES = {"s": "\t\n\f\r ", "d": "0123456789"}


def normal(text: str) -> bytes:
    """Folded, as the index sees text: UTF-8 with every separator a space."""
    return text.casefold().encode("utf-8", "replace").translate(NORMAL)


class _Unknown(Exception):
    """Syntax beyond this reading."""


class _Info(Struct, frozen=True):
    """`exact`: all the strings it can match, None if not known. Then `head` and `tail`: what it begins and
    ends with, and `clauses`: of each, too, every match holds one string."""

    exact: frozenset[str] | None
    clauses: tuple[frozenset[str], ...] = ()
    head: frozenset[str] = frozenset({""})
    tail: frozenset[str] = frozenset({""})


_NOTHING = frozenset({""})  # the empty string alone
_ANYTHING = _Info(None)


def _begins(item: _Info) -> frozenset[str]:
    return item.head if item.exact is None else item.exact


def _ends(item: _Info) -> frozenset[str]:
    return item.tail if item.exact is None else item.exact


def _holds(item: _Info) -> list[frozenset[str]]:
    """The clauses that tell anything, the two at its ends among them."""
    found = [item.head, *item.clauses, item.tail] if item.exact is None else [item.exact]
    return [clause for clause in found if all(text.strip(f" {BEGIN}{END}") for text in clause)]


@lru_cache(maxsize=4096)
def required(pattern: str) -> tuple[frozenset[bytes], ...]:
    """Clauses over `normal` text set off with a space at both ends; empty where nothing is certain."""
    try:
        reader = _Reader(pattern)
        info = reader.alternatives()
        if reader.at != len(pattern):
            return ()
    except (_Unknown, RecursionError):
        return ()
    return tuple(dict.fromkeys(frozenset(map(_resolved, clause)) for clause in _holds(info)))


def _resolved(text: str) -> bytes:
    """An anchor at the right end of a string is a space there; anywhere else it takes no room."""
    if BEGIN not in text and END not in text:
        return normal(text)
    body = text.replace(BEGIN, "").replace(END, "")
    head, tail = text[: len(text) - len(text.lstrip(BEGIN + END))], text[len(text.rstrip(BEGIN + END)) :]
    return (b" " if BEGIN in head else b"") + normal(body) + (b" " if END in tail and body else b"")


_LINES = [normal(f" {line} ") for line in ordinary.LINES]
_TEXT = b"\n".join(_LINES)


@lru_cache(maxsize=65536)
def _met(literal: bytes) -> tuple[int, float]:
    """A bit for each ordinary line that holds it, and how often it may be in any other: what is short, in any word."""
    lines = sum((literal in line) << number for number, line in enumerate(_LINES)) if literal in _TEXT else 0
    return lines, 0.08 / 4 ** len(literal)


def likelihood(literals: Iterable[bytes]) -> float:
    """A rough guess of how often a command line holds one of them; only its order matters."""
    lines, by_chance = 0, 0.0
    for literal in literals:
        of_literal, chance = _met(literal)
        lines |= of_literal
        by_chance += chance
    return lines.bit_count() / len(_LINES) + by_chance


@lru_cache(maxsize=65536)
def _of_clause(clause: frozenset[str]) -> float:
    return likelihood(map(_resolved, clause))


class _Sequence:
    """Multiplies exact sets along a sequence; what cannot be multiplied any more becomes a clause."""

    def __init__(self) -> None:
        self.current = _NOTHING
        self.clauses: list[frozenset[str]] = []
        self.head: frozenset[str] | None = None

    def add(self, item: _Info) -> None:
        if item.exact is not None:
            self.multiply(item.exact)
            return
        self.multiply(item.head)
        self.cut()
        self.clauses += item.clauses
        self.current = item.tail

    def multiply(self, texts: frozenset[str]) -> None:
        if len(self.current) * len(texts) > MAX_EXACT:
            self.cut()
        if self.current == _NOTHING:
            self.current = texts
        else:
            self.current = frozenset([left + right for left in self.current for right in texts])

    def optional(self, item: _Info, ahead: frozenset[str]) -> None:
        """Something that may be there or not, or several times; `ahead`: one of these comes next in any case."""
        before = self.current
        self.multiply(ahead)
        self.cut()
        self.current = _one_of(before | _ends(item), MAX_EXACT)

    def cut(self) -> None:
        if self.head is None:
            self.head = self.current
        elif self.current != _NOTHING:
            self.clauses.append(self.current)
        self.current = _NOTHING

    def info(self) -> _Info:
        if self.head is None:
            return _Info(self.current)
        return _Info(None, tuple(self.clauses), self.head, self.current)


def _one_of(texts: frozenset[str], most: int) -> frozenset[str]:
    return texts if len(texts) <= most and "" not in texts else _NOTHING


def _ahead(items: list[tuple[_Info, bool]]) -> list[frozenset[str]]:
    """Of each place before an item, or behind the last: strings of which one comes there."""
    found = [_NOTHING]
    for item, optional in reversed(items):
        begins = _begins(item)
        texts = begins - _NOTHING
        if optional or "" in begins:
            texts |= found[-1]
        unknown = item.exact is None and "" in begins
        found.append(_NOTHING if unknown else _one_of(texts, MAX_AHEAD))
    return found[::-1]


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self, count: int = 1) -> str:
        taken = self.pattern[self.at : self.at + count]
        if len(taken) < count:
            raise _Unknown
        self.at += count
        return taken

    def alternatives(self) -> _Info:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.take()
            branches.append(self.sequence())
        return _joined(branches)

    def sequence(self) -> _Info:
        items: list[tuple[_Info, bool]] = []  # and whether it may be missing
        while self.peek() not in {"", "|", ")"}:
            plain = _PLAIN.match(self.pattern, self.at)
            if plain:
                self.at = plain.end()
                items.append((_Info(frozenset({normal(plain[0]).decode()})), False))
                continue
            item = self.item()
            least, most = self.quantifier()
            if (least, most) == (0, 1) and item.exact is not None:
                items.append((_Info(item.exact | {""}), False))
            elif most is None and least and item.exact is not None:  # the first time, then anything, then the last time
                items.append((_Info(None, (), item.exact, item.exact), False))
            else:
                items.append((item, not least))
        ahead = _ahead(items) if any(optional for _, optional in items) else []
        sequence = _Sequence()
        for number, (item, optional) in enumerate(items):
            if optional:
                sequence.optional(item, ahead[number])
            else:
                sequence.add(item)
        return sequence.info()

    def quantifier(self) -> tuple[int, int | None]:
        char = self.peek()
        found: tuple[int, int | None] = (1, 1)
        if char in {"?", "*", "+"}:
            self.take()
            found = {"?": (0, 1), "*": (0, None), "+": (1, None)}[char]
        elif char == "{":
            end = self.pattern.find("}", self.at)
            least = self.pattern[self.at + 1 : max(end, 0)].partition(",")[0]
            if not (least.isascii() and least.isdigit()):
                raise _Unknown  # RE2 takes such a brace as itself
            self.at = end + 1
            found = (min(int(least), 1), None)
        if found != (1, 1) and self.peek() == "?":
            self.take()
        return found

    def item(self) -> _Info:
        char = self.take()
        if char == "(":
            return self.group()
        if char == "[":
            return self.character_class()
        if char == "\\":
            return self.escape()
        if char == ".":
            return _ANYTHING
        if char in {"^", "$"}:
            return _Info(frozenset({BEGIN if char == "^" else END}))
        return _characters((char,))

    def group(self) -> _Info:
        if self.peek() == "?":
            self.take()
            head = self.take()
            if head == "P" or (head == "<" and self.peek() not in {"=", "!"}):
                self.at = self.pattern.find(">", self.at) + 1 or len(self.pattern) + 1
            else:
                while head in set("imsU-"):
                    head = self.take()
                if head == ")":  # flags for what follows: case is folded, and the others change no literal
                    return _Info(_NOTHING)
                if head != ":":
                    raise _Unknown
        inside = self.alternatives()
        if self.take() != ")":
            raise _Unknown
        return inside

    def escape(self) -> _Info:
        char = self.take()
        if char in {"b", "B"}:
            return _Info(_NOTHING)
        if char in {"A", "z"}:
            return _Info(frozenset({BEGIN if char == "A" else END}))
        if char in _CLASSES:
            return _characters(tuple(_CLASSES[char]))
        if char in set("DSwW"):
            return _ANYTHING
        return _characters((self.literal(char),))

    def literal(self, char: str) -> str:
        """The character that a backslash and `char` stand for."""
        if char == "x" and self.peek() != "{":
            return chr(int(self.hexadecimal(), 16))
        if char.isalnum():
            if char not in _ESCAPED:
                raise _Unknown  # \\pL, \\Q…\\E, octal numbers
            return _ESCAPED[char]
        return char

    def hexadecimal(self) -> str:
        digits = self.take(2)
        if not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise _Unknown
        return digits

    def character_class(self) -> _Info:
        negated = self.peek() == "^"
        if negated:
            self.take()
        members: set[str] = set()
        known = not negated
        first = True
        while first or self.peek() != "]":
            first = False
            if self.pattern.startswith("[:", self.at):
                self.at = self.pattern.find(":]", self.at) + 2
                if self.at < 2:
                    raise _Unknown
                known = False
                continue
            known &= self.member(members)
        self.take()
        return _characters(tuple(sorted(members))) if known else _ANYTHING

    def member(self, members: set[str]) -> bool:
        """One character, range or escape of a class; False where it is not spelt out."""
        low = self.take()
        if low == "\\":
            escape = self.take()
            if escape in set("dDsSwW"):
                members.update(_CLASSES.get(escape, ""))
                return escape in _CLASSES
            low = self.literal(escape)
        if self.peek() != "-" or self.pattern[self.at + 1 : self.at + 2] in {"]", ""}:
            members.add(low)
            return True
        self.take()
        high = self.take()
        if high == "\\":
            high = self.literal(self.take())
        if ord(high) - ord(low) >= MAX_CLASS:
            return False
        members.update(map(chr, range(ord(low), ord(high) + 1)))
        return True


@lru_cache(maxsize=4096)
def _characters(members: tuple[str, ...]) -> _Info:
    """Separators are one character here already, so that they multiply once."""
    text = "".join(members)
    if not text.isascii() or BEGIN in text or END in text:
        return _ANYTHING  # case beyond ASCII is RE2's affair
    distinct = frozenset(normal(text).decode())
    return _Info(distinct) if 0 < len(distinct) <= MAX_CLASS else _ANYTHING


def _joined(branches: list[_Info]) -> _Info:
    exact = _union([branch.exact for branch in branches if branch.exact is not None])
    if exact != _NOTHING and all(branch.exact is not None for branch in branches):
        return _Info(exact)
    if len(branches) == 1:
        return branches[0]
    held = [sorted(_holds(branch), key=_of_clause)[:MAX_CLAUSES] for branch in branches]
    clauses = [  # the rarest of each, the second of each, and so on: any choice is implied
        frozenset(text for texts in held for text in texts[min(rank, len(texts) - 1)])
        for rank in range(max(map(len, held)) if all(held) else 0)
    ]
    return _Info(None, tuple(clauses), _union(list(map(_begins, branches))), _union(list(map(_ends, branches))))


def _union(sets: list[frozenset[str]]) -> frozenset[str]:
    """All of the strings, or the empty one for any when they are too many or one of them is empty."""
    union = frozenset(text for texts in sets for text in texts)
    return union if union and len(union) <= MAX_EXACT else _NOTHING
