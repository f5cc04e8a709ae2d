"""What must be there for a rule to match at all: the index is made of it.

A clause is a set of atoms of which at least one must hold. A rule becomes a candidate only if its
clauses hold, and only candidates are evaluated; a clause may say too little, never too much.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from sensor.rules import ir

AtomKind = Literal["exact", "name", "literal", "network", "number", "flag"]
Clause = frozenset["Atom"]

MIN_LITERAL = 2  # a single character is in nearly every text


class Atom(Struct, frozen=True):
    """exact: the whole folded text; name: its last path component; literal: part of it; network: CIDR."""

    attribute: str
    kind: AtomKind
    value: str | int | float | bool


class Need(Struct, frozen=True):
    """At most two clauses: `cheap` without the direct field, `direct` with it. None: nothing is known."""

    cheap: Clause | None
    direct: Clause | None


# The field whose values are nearly all distinct: searched for each event, never remembered.
DIRECT = {"process_creation": "CommandLine"}


def of_rule(expression: ir.Expression, category: str) -> Need:
    """The best clause of each sort that `expression` (any shape) implies."""
    field = DIRECT.get(category)
    clauses = _clauses(ir.simplified(expression), field)
    return Need(_best(c for c in clauses if not _uses(c, field)), _best(c for c in clauses if _uses(c, field)))


def _uses(clause: Clause, field: str | None) -> bool:
    return any(atom.attribute == field for atom in clause)


def _best(clauses: Iterable[Clause]) -> Clause | None:
    return min(clauses, key=_likelihood, default=None)


def _clauses(item: ir.Expression, direct: str | None) -> list[Clause]:
    """`item` simplified: each clause is implied by it, all of them together."""
    if isinstance(item, ir.And):
        return [clause for part in item.items for clause in _clauses(part, direct)]
    if isinstance(item, ir.Or):
        return _of_alternatives([_clauses(part, direct) for part in item.items], direct)
    atoms = [] if isinstance(item, ir.Not) else _atoms(item, direct)
    return [frozenset(atoms)] if atoms else []


def _of_alternatives(parts: list[list[Clause]], direct: str | None) -> list[Clause]:
    """One clause of each alternative, joined: the best ones, and the best without the direct field."""
    joined: list[Clause] = []
    for among in (parts, [[clause for clause in part if not _uses(clause, direct)] for part in parts]):
        best = [_best(part) for part in among]
        if best and all(best):
            joined.append(frozenset(atom for clause in best if clause for atom in clause))
    return joined


def _likelihood(clause: Clause) -> float:
    """A rough guess of how often the clause holds; only its order matters."""
    return sum(map(_weight, clause))


def _weight(atom: Atom) -> float:
    if atom.kind == "flag":
        return 5.0 if atom.value else 1000.0
    if atom.kind == "literal":
        return 60.0 / len(str(atom.value)) ** 2
    return 1.0


def _atoms(item: ir.Expression, direct: str | None) -> list[Atom]:
    """Empty where the leaf implies nothing that can be looked up."""
    if isinstance(item, (ir.Text, ir.Pattern, ir.Regex)):
        return [] if item.numeric else _of_text(item, direct)
    if isinstance(item, ir.Cidr):
        return [Atom(item.attribute, "network", item.network)]
    if isinstance(item, ir.Number) and item.compare == "eq":
        return [Atom(item.attribute, "number", item.value)]
    if isinstance(item, ir.Flag):
        return [Atom(item.attribute, "flag", item.value)]
    return [Atom(item.attribute, "exact", "")] if isinstance(item, ir.Empty) and item.attribute != direct else []


def _of_text(item: ir.Text | ir.Pattern | ir.Regex, direct: str | None) -> list[Atom]:
    if isinstance(item, ir.Pattern):
        longest = max((part for part in item.parts if isinstance(part, str)), key=len, default="")
        return _literal(item.attribute, ir.fold(longest))
    if isinstance(item, ir.Regex):
        return [atom for text in required_literals(item.pattern) for atom in _literal(item.attribute, ir.fold(text))]
    value = ir.fold(item.value)
    if item.attribute != direct:
        if item.shape == "exact":
            return [Atom(item.attribute, "exact", value)]
        if item.shape == "suffix" and value.rfind("/") == 0:
            return [Atom(item.attribute, "name", value[1:])]
    return _literal(item.attribute, value)


def _literal(attribute: str, value: str) -> list[Atom]:
    return [Atom(attribute, "literal", value)] if len(value) >= MIN_LITERAL else []


def required_literals(pattern: str) -> list[str]:
    """Texts of which every match of the regex holds at least one; empty where none is certain.

    Deliberately simple: literal ASCII runs outside groups and classes, one for each alternative.
    """
    found = [max(_runs(branch), key=len, default="") for branch in _branches(pattern)]
    return found if all(len(text) >= MIN_LITERAL for text in found) else []


def _branches(pattern: str) -> list[list[str]]:
    """The pattern's alternatives at top level as tokens; a group or class is one token."""
    branches: list[list[str]] = [[]]
    at = 0
    while at < len(pattern):
        end = _token_end(pattern, at)
        if end < 0:  # \\Q...\\E, x flags and the like: understood by RE2, not by this
            return [[]]
        if pattern[at] == "|":
            branches.append([])
        else:
            branches[-1].append(pattern[at:end])
        at = end
    return branches


def _token_end(pattern: str, at: int) -> int:
    """End of the token that begins at `at`; negative where it is beyond this simple reading."""
    char = pattern[at]
    if char == "\\":
        # A letter or digit after the backslash may take more characters (\\x{41}, \\pN, \\Q): give up on
        # those, except on the classes and assertions that stand alone.
        escape = pattern[at + 1 : at + 2]
        return at + 2 if escape in set("dDsSwWbBAz") or (escape and not escape.isalnum()) else -1
    if char == "[":
        return _class_end(pattern, at)
    if char == "(":
        return _group_end(pattern, at)
    if char == "{":
        close = pattern.find("}", at)
        return close + 1 if close >= 0 else -1
    return at + 1


def _class_end(pattern: str, at: int) -> int:
    at += 2 if pattern[at + 1 : at + 2] == "^" else 1
    first = True
    while at < len(pattern):
        if pattern.startswith("[:", at):
            return -1
        if pattern[at] == "]" and not first:
            return at + 1
        at += 2 if pattern[at] == "\\" else 1
        first = False
    return -1


def _group_end(pattern: str, at: int) -> int:
    depth = 0
    while at < len(pattern):
        if pattern[at] == "(":
            depth += 1
            at += 1
        elif pattern[at] == ")":
            depth -= 1
            at += 1
            if depth == 0:
                return at
        else:
            at = _token_end(pattern, at)
            if at < 0:
                return -1
    return -1


def _runs(tokens: list[str]) -> list[str]:
    """Literal runs of one alternative. A quantifier that allows zero takes its character away."""
    runs = [""]
    for index, piece in enumerate(tokens):
        following = tokens[index + 1][0] if index + 1 < len(tokens) else ""
        plain = piece[-1] if (len(piece) == 1 and piece not in set(".^$*+?")) or _escaped_literal(piece) else ""
        if plain and plain.isascii() and following not in set("*?{+"):
            runs[-1] += plain
        else:
            runs.append("")
    return runs


def _escaped_literal(piece: str) -> bool:
    return len(piece) == 2 and piece[0] == "\\" and not piece[1].isalnum()
