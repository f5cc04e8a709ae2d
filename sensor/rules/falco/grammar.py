"""Falco's condition language: and, or, not, parentheses, checks of fields, and names of macros.

Source: Falco's documentation, "Condition syntax" and "Operators".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyparsing as pp
from msgspec import Struct

from sensor.rules.document import RefusalError

MOST_CHARACTERS = 100_000
LISTS = ("in", "intersects", "pmatch")
WORDS = (
    "icontains", "bcontains", "contains", "bstartswith", "startswith", "endswith", "iglob", "glob", "regex",
)  # fmt: skip
SIGNS = ("!=", "==", "<=", ">=", "=", "<", ">")


class Check(Struct, frozen=True):
    """`values`: one, or several of a list; `exists` has none."""

    field: str
    operator: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.values[:4]) + (", …" if len(self.values) > 4 else "")
        return f"{self.field} {self.operator} {f'({shown})' if len(self.values) > 1 else shown}".rstrip()


class Name(Struct, frozen=True):
    """Of a macro."""

    name: str


class Known(Struct, frozen=True):
    value: bool


class Not(Struct, frozen=True):
    item: Tree


class And(Struct, frozen=True):
    items: tuple[Tree, ...]


class Or(Struct, frozen=True):
    items: tuple[Tree, ...]


Tree = Check | Name | Known | Not | And | Or


def _grammar() -> pp.ParserElement:
    field = pp.Regex(r"[A-Za-z]\w*(?:\.\w+)+(?:\[[^\]\s]*\])?")
    bare = pp.Regex(r"[^()\"'\s=,]+")
    value = pp.QuotedString('"', esc_char="\\") | pp.QuotedString("'", esc_char="\\") | bare
    several = pp.Suppress("(") + pp.Optional(pp.DelimitedList(value, allow_trailing_delim=True)) + pp.Suppress(")")
    word = pp.Regex(rf"(?:{'|'.join(WORDS)})\b")
    check = (
        (field + pp.Keyword("exists"))
        | (field + pp.Regex(rf"(?:{'|'.join(LISTS)})\b") + (several | bare))
        | (field + (pp.one_of(SIGNS) | word) + value)
    )
    check.set_parse_action(lambda found: Check(found[0], found[1], tuple(found[2:])))
    name = ~(pp.Keyword("and") | pp.Keyword("or") | pp.Keyword("not")) + pp.Regex(r"[A-Za-z_]\w*")
    name.set_parse_action(lambda found: Name(found[0]))
    whole = pp.Forward()
    negated = pp.Forward()
    atom = (pp.Suppress("(") + whole + pp.Suppress(")")) | check | name
    negation = pp.Suppress(pp.Keyword("not")) + negated
    negation.set_parse_action(lambda found: Not(found[0]))
    negated <<= negation | atom
    every = negated + pp.ZeroOrMore(pp.Suppress(pp.Keyword("and")) + negated)
    every.set_parse_action(lambda found: _joined(And, found))
    whole <<= every + pp.ZeroOrMore(pp.Suppress(pp.Keyword("or")) + every)
    whole.set_parse_action(lambda found: _joined(Or, found))
    return whole


def _joined(kind: type[And] | type[Or], found: Any) -> Tree:
    items: tuple[Tree, ...] = tuple(found)
    return items[0] if len(items) == 1 else kind(items)


_WHOLE = _grammar()


def parse(text: str) -> Tree:
    """Raises RefusalError that says where in the text it is not understood."""
    if len(text) > MOST_CHARACTERS:
        raise RefusalError(f"condition: longer than {MOST_CHARACTERS} characters")
    try:
        tree: Tree = _WHOLE.parse_string(text, parse_all=True)[0]
    except pp.ParseBaseException as error:
        near = " ".join(text[error.loc : error.loc + 40].split())
        raise RefusalError(f"condition: not understood at {near!r}") from error
    except RecursionError as error:
        raise RefusalError("condition: nested too deeply") from error
    return tree


def checks(tree: Tree) -> Iterator[Check]:
    if isinstance(tree, Check):
        yield tree
    elif isinstance(tree, Not):
        yield from checks(tree.item)
    elif isinstance(tree, And | Or):
        for item in tree.items:
            yield from checks(item)


def simplified(tree: Tree) -> Tree:
    """Without constants, unless the whole is one; no And in And, no Or in Or."""
    if isinstance(tree, Not):
        item = simplified(tree.item)
        if isinstance(item, Known):
            return Known(not item.value)
        return item.item if isinstance(item, Not) else Not(item)
    if isinstance(tree, And | Or):
        kind, neutral = type(tree), isinstance(tree, And)
        items: list[Tree] = []
        for item in map(simplified, tree.items):
            if isinstance(item, Known):
                if item.value is not neutral:
                    return item
            else:
                items += item.items if isinstance(item, And | Or) and type(item) is kind else (item,)
        distinct = tuple(dict.fromkeys(items))
        if not distinct:
            return Known(neutral)
        return distinct[0] if len(distinct) == 1 else kind(distinct)
    return tree
