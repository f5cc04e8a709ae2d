"""The look-ups in front of a category's rules: made of what its branches need, when rules are loaded.

`find(activity)` gives bits for the branches worth evaluating, one a branch. A branch's first clause is its rarest: most
events have no branch's, and are asked no more. For the others each further look-up gives the bits of all clauses that
it satisfies, a group of one bit a branch for the second clauses, one for the third, and so on; a branch is a candidate
when its bit is set in every group. One with fewer clauses has the rest for free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
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
    direct, tables = need.DIRECT.get(category), dict[str, Any]()
    most = max(map(len, needs), default=0)
    first = _Looked("first", direct, [clauses[:1] for clauses in needs], 1, tables)
    further = _Looked("further", direct, [clauses[1:] for clauses in needs], max(most - 1, 0), tables)
    tables["searching"] = further.searching()
    exec(compile(_source(first, further), "<index>", "exec", dont_inherit=True), tables)  # noqa: S102
    found: Finder = tables["find"]
    return found


class _Looked:
    """Clauses of all branches that are looked up together: `terms` of the source, and the tables that they ask. A
    rule's texts are values here, never code."""

    def __init__(self, name: str, direct: str | None, needs: Needs, planes: int, tables: dict[str, Any]) -> None:
        self.name = name
        self.direct = direct
        self.tables = tables
        self.count = len(needs)
        self.planes = planes
        self.always = (1 << self.count * self.planes) - 1  # who has no clause there
        self.atoms: dict[str, dict[AtomKind, Masks]] = defaultdict(dict)
        for number, clauses in enumerate(needs):
            for plane, clause in enumerate(clauses):
                bit = 1 << (plane * self.count + number)
                self.always &= ~bit
                for attribute, kind, value in clause:
                    masks = self.atoms[attribute].setdefault(kind, {})
                    masks[value] = masks.get(value, 0) | bit
        # By what they vary with: a shell's children differ in nothing of its own, and it in nothing of theirs.
        self.fields: dict[str, dict[str, FieldIndex | dict[bool, int]]] = {"fields": {}, "parents": {}}
        self.searched = ""  # the term that searches a text which nothing remembers
        self.terms = self._terms()

    def searching(self) -> int:
        """The branches for which that text is searched."""
        bits = 0
        for mask in self.atoms[self.direct].get("literal", {}).values() if self.direct else ():
            for plane in range(self.planes):
                bits |= mask >> plane * self.count
        return bits & ((1 << self.count) - 1)

    def _terms(self) -> list[str]:
        terms = list[str]()
        for attribute, of_field in sorted(self.atoms.items()):
            if not attribute.isidentifier():
                raise ValueError(f"{attribute!a} names no field")
            terms += self._term(attribute, of_field)
        always = self.always
        for group, fields in self.fields.items():
            if fields:
                self.tables[f"{self.name}_{group}"] = Together(list(fields.values()), always)
                key = "".join(f"a.{attribute}, " for attribute in fields)
                terms.insert(0, f"{self.name}_{group}[{key}]")
                always = 0
        if always or not terms:
            self.tables[f"{self.name}_always"] = always
            terms.insert(0, f"{self.name}_always")
        return terms

    def _term(self, attribute: str, masks: dict[AtomKind, Masks]) -> list[str]:
        name = f"{self.name}_{attribute}"
        if "flag" in masks:
            self.fields["fields"][attribute] = {value: masks["flag"].get(value, 0) for value in (False, True)}
            return []
        if "number" in masks:
            self.tables[name] = masks["number"].get
            return [f"{name}(a.{attribute}, 0)"]
        if attribute == self.direct:
            self.tables[name] = Literals(masks["literal"]).find
            self.searched = f"{name}(a.{attribute})"
            return []
        if masks.keys() == {"network"}:  # a scan repeats none: not together with others
            self.tables[name] = Networks(masks["network"])
            return [f"{name}[a.{attribute}]"]
        kinds: tuple[AtomKind, ...] = ("exact", "name", "literal", "network")
        together = self.fields["parents" if attribute.startswith("Parent") else "fields"]
        together[attribute] = FieldIndex(*(masks.get(kind, {}) for kind in kinds))
        return []


def _source(first: _Looked, further: _Looked) -> str:
    lines = ["def find(a):", f"    c = {' | '.join([*first.terms, *filter(None, [first.searched])])}"]
    if further.planes:
        lines += ["    if not c: return 0", f"    m = {' | '.join(further.terms)}"]
        if further.searched:  # words that every other text holds
            lines.append(f"    if c & searching: m |= {further.searched}")
        lines += ["    c &= m", *(f"    if c: c &= m >> {first.count * n}" for n in range(1, further.planes))]
    return "\n".join([*lines, "    return c", ""])
