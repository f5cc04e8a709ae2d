"""The look-ups in front of a category's rules: made of what its branches need, when rules are loaded.

`Index.find(activity)` gives bits for the branches worth evaluating. Each look-up gives the bits of all clauses that it
satisfies, PLANES groups of one bit a branch; a branch is a candidate when its bit is set in every group. One with fewer
clauses has the rest for free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Any

from sensor.rules import need
from sensor.rules.need import AtomKind
from sensor.rules.runtime import FieldIndex, Literals, Networks, Together

Finder = Callable[[Any], int]
Masks = dict[Any, int]
# Of a branch: its clauses, each of atoms (attribute, kind, value), as `need.Atom` has them.
Needs = Sequence[Sequence[Sequence[tuple[str, AtomKind, Any]]]]


def finder(category: str, needs: Needs) -> Finder:
    """Bit n of its result is branch n of `needs`."""
    return _Writer(category, needs).finder()


class _Writer:
    """Writes the few lines that ask, and makes the tables that they ask. A rule's texts are values here, never code."""

    def __init__(self, category: str, needs: Needs) -> None:
        self.direct = need.DIRECT.get(category)
        self.count = len(needs)
        self.planes = max(map(len, needs), default=0) or 1
        self.free = (1 << self.count * self.planes) - 1
        self.atoms: dict[str, dict[AtomKind, Masks]] = defaultdict(dict)
        for number, clauses in enumerate(needs):
            for plane, clause in enumerate(clauses):
                bit = 1 << (plane * self.count + number)
                self.free &= ~bit
                for attribute, kind, value in clause:
                    masks = self.atoms[attribute].setdefault(kind, {})
                    masks[value] = masks.get(value, 0) | bit
        # By what they vary with: a shell's children differ in nothing of its own, and it in nothing of theirs.
        self.fields: dict[str, dict[str, FieldIndex | dict[bool, int]]] = {"of_fields": {}, "of_parents": {}}
        self.tables: dict[str, Any] = {"first": (1 << self.count) - 1, "free": self.free}

    def finder(self) -> Finder:
        text = self.source()
        exec(compile(text, "<index>", "exec", dont_inherit=True), self.tables)  # noqa: S102
        found: Finder = self.tables["find"]
        return found

    def source(self) -> str:
        terms = list[str]()
        later = ""
        always = self.free
        for attribute, of_field in sorted(self.atoms.items()):
            if not attribute.isidentifier():
                raise ValueError(f"{attribute!a} names no field")
            if "flag" in of_field:
                self.fields["of_fields"][attribute] = {value: of_field["flag"].get(value, 0) for value in (False, True)}
            elif attribute == self.direct and of_field.keys() == {"literal"}:
                found, later = self._in_two(attribute, of_field["literal"])
                terms += found
            else:
                terms += self._term(attribute, of_field)
        for name, fields in self.fields.items():
            if fields:
                self.tables[name] = Together(list(fields.values()), always)
                terms.insert(0, f"{name}[{''.join(f'a.{attribute}, ' for attribute in fields)}]")
                always = 0
        if always or not terms:
            terms.insert(0, "free")
        return "\n".join(
            [
                "def find(a):",
                f"    m = {' | '.join(terms)}",
                # Mostly nothing of the first group is there, which spares the others their shifts.
                "    c = m & first",
                later,
                *(f"    if c: c &= m >> {self.count * plane}" for plane in range(1, self.planes)),
                "    return c",
                "",
            ]
        )

    def _in_two(self, attribute: str, masks: Masks) -> tuple[list[str], str]:
        """A branch's first clause is its rarest, and those behind it hold what every other text holds. Most texts are
        not searched for these: only where a branch is left that has one. Gives the term, and the line for the rest."""
        first: int = self.tables["first"]
        rare = {literal: bits & first for literal, bits in masks.items() if bits & first}
        common = {literal: bits & ~first for literal, bits in masks.items() if bits & ~first}
        terms, later = list[str](), ""
        if rare:
            self.tables[f"of_{attribute}"] = Literals(rare).find
            terms = [f"of_{attribute}(a.{attribute})"]
        if common:
            planes = [bits >> plane * self.count for bits in common.values() for plane in range(1, self.planes)]
            self.tables["behind"] = reduce(or_, planes) & first
            self.tables[f"behind_{attribute}"] = Literals(common).find
            later = f"    if c & behind: m |= behind_{attribute}(a.{attribute})"
        return terms, later

    def _term(self, attribute: str, masks: dict[AtomKind, Masks]) -> list[str]:
        name = f"of_{attribute}"
        if "number" in masks:
            self.tables[name] = masks["number"].get
            return [f"{name}(a.{attribute}, 0)"]
        if masks.keys() == {"network"}:  # a scan repeats none: not together with others
            self.tables[name] = Networks(masks["network"])
            return [f"{name}[a.{attribute}]"]
        kinds: tuple[AtomKind, ...] = ("exact", "name", "literal", "network")
        together = self.fields["of_parents" if attribute.startswith("Parent") else "of_fields"]
        together[attribute] = FieldIndex(*(masks.get(kind, {}) for kind in kinds))
        return []
