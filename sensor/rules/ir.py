"""A rule's condition between Sigma and Python: few node types, every field already resolved.

`attribute` is the activity's attribute, never the alias. Text that is not `cased` holds its value
already case-folded: Unicode case folding maps each character by itself, so that text which contains
a literal still contains it when both are folded. (str.lower has a context-dependent final sigma.)
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Compare = Literal["eq", "lt", "lte", "gt", "gte"]
Shape = Literal["exact", "prefix", "suffix", "contains"]
Unit = Literal["minute", "hour", "day", "week", "month", "year"]

ANY = 0  # in Pattern.parts: *
ONE = 1  # in Pattern.parts: ?


class Text(Struct, frozen=True, tag=True):
    attribute: str
    shape: Shape
    value: str
    cased: bool
    numeric: bool = False  # the attribute is a number, compared as its decimal text


class Pattern(Struct, frozen=True, tag=True):
    """Wildcards other than at the two ends: literal text, ANY and ONE in turn."""

    attribute: str
    parts: tuple[str | int, ...]
    cased: bool
    numeric: bool = False


class Regex(Struct, frozen=True, tag=True):
    attribute: str
    pattern: str  # RE2 syntax, flags inlined; searched, not anchored
    numeric: bool = False


class Cidr(Struct, frozen=True, tag=True):
    attribute: str
    network: str


class Number(Struct, frozen=True, tag=True):
    attribute: str
    compare: Compare
    value: int | float


class TimePart(Struct, frozen=True, tag=True):
    attribute: str
    unit: Unit
    value: int


class Flag(Struct, frozen=True, tag=True):
    attribute: str
    value: bool


class Empty(Struct, frozen=True, tag=True):
    """Sigma's null: the text is empty. Numbers and flags are never null."""

    attribute: str


class Reference(Struct, frozen=True, tag=True):
    """Another field of the same event; both case-folded unless both are numbers."""

    attribute: str
    shape: Shape
    other: str
    numeric: bool


class Constant(Struct, frozen=True, tag=True):
    value: bool


class And(Struct, frozen=True, tag=True):
    items: tuple[Expression, ...]


class Or(Struct, frozen=True, tag=True):
    items: tuple[Expression, ...]


class Not(Struct, frozen=True, tag=True):
    item: Expression


Leaf = Text | Pattern | Regex | Cidr | Number | TimePart | Flag | Empty | Reference | Constant
Expression = Leaf | And | Or | Not


def fold(text: str) -> str:
    return text.casefold()


def negated(item: Expression) -> Expression:
    """Not `item`, with the negation pushed down to the leaves (De Morgan)."""
    if isinstance(item, Not):
        return simplified(item.item)
    if isinstance(item, And):
        return Or(tuple(negated(part) for part in item.items))
    if isinstance(item, Or):
        return And(tuple(negated(part) for part in item.items))
    if isinstance(item, Flag):
        return Flag(item.attribute, not item.value)
    if isinstance(item, Constant):
        return Constant(not item.value)
    return Not(item)


def simplified(item: Expression) -> Expression:
    """The same condition with negations only at leaves and no And in And, no Or in Or."""
    if isinstance(item, Not):
        return negated(simplified(item.item))
    if isinstance(item, And):
        return And(_flat(item.items, And))
    if isinstance(item, Or):
        return Or(_flat(item.items, Or))
    return item


def both(items: tuple[Expression, ...]) -> And:
    """All of what is simplified already."""
    return And(tuple(part for item in items for part in (item.items if isinstance(item, And) else (item,))))


def _flat(items: tuple[Expression, ...], kind: type[And] | type[Or]) -> tuple[Expression, ...]:
    flat: list[Expression] = []
    for item in map(simplified, items):
        flat.extend(item.items if isinstance(item, (And, Or)) and type(item) is kind else (item,))
    return tuple(flat)
