"""The look-ups in front of a category's rules: made of what its branches need, when rules are loaded.

`find(activity)` gives bits for the branches worth evaluating, one a branch. A branch's first clause is its rarest: most
events have no branch's, and are asked no more. For the others each further look-up gives the bits of all clauses that
it satisfies, a plane of one bit a branch for the second clauses, one for the third, and so on; a branch is a candidate
when its bit is set in every plane. One with fewer clauses has the rest for free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sensor.rules import need
from sensor.rules.need import AtomKind
from sensor.rules.runtime import FieldIndex, Literals, Networks, Numbers, Together

Finder = Callable[[Any], int]
Masks = dict[Any, int]
# Of a branch: its clauses, each of atoms (attribute, kind, value), as `need.Atom` has them.
Needs = Sequence[Sequence[Sequence[tuple[str, AtomKind, Any]]]]


def finder(category: str, needs: Needs) -> Finder:
    """Bit n of its result is branch n of `needs`."""
    groups, tables = _groups(need.DIRECT.get(category), needs), dict[str, Any]()
    parted = [_parted(clauses, groups) for clauses in needs]
    first = _Looked("first", [early for early, _ in parted], groups, tables, settled=True)
    further = _Looked("further", [late for _, late in parted], groups, tables, settled=False)
    tables["searching"] = further.searching
    exec(compile(_source(first, further), "<index>", "exec", dont_inherit=True), tables)  # noqa: S102
    found: Finder = tables["find"]
    return found


def _groups(direct: str | None, needs: Needs) -> dict[str, str]:
    """By what fields vary with: a shell's children differ in nothing of its own, and it in nothing of theirs. Those of
    a group are looked up and remembered together; "" for one that is not remembered."""
    kinds: dict[str, set[AtomKind]] = defaultdict(set)
    for attribute, kind, _ in (atom for clauses in needs for clause in clauses for atom in clause):
        kinds[attribute].add(kind)
    groups = {}
    for attribute, of_field in kinds.items():
        if not attribute.isidentifier():
            raise ValueError(f"{attribute!a} names no field")
        many = "number" in of_field and attribute not in need.FEW
        alone = attribute == direct or many or of_field == {"network"}  # a scan repeats no address
        groups[attribute] = "" if alone else "parents" if attribute.startswith("Parent") else "fields"
    return groups


def _parted(clauses: Sequence[Any], groups: dict[str, str]) -> tuple[list[Any], list[Any]]:
    """The clauses that are asked for first: the rarest, and those that are remembered together with it."""
    early, late = list(clauses[:1]), list[Any]()
    own = {groups[atom[0]] for clause in early for atom in clause}
    for clause in clauses[1:]:
        (early if "" not in own and {groups[atom[0]] for atom in clause} == own else late).append(clause)
    return (early, late) if len(own) == 1 else (early, list(clauses[1:]))


class _Looked:
    """Clauses of all branches that are looked up together: `terms` of the source, and the tables that they ask. A
    rule's texts are values here, never code. `settled`: what is remembered together is decided, so that the result has
    one bit a branch."""

    def __init__(
        self, name: str, needs: Needs, groups: dict[str, str], tables: dict[str, Any], *, settled: bool
    ) -> None:
        self.name = name
        self.tables = tables
        self.count = len(needs)
        self.planes = max(map(len, needs), default=0)
        lacking = (1 << self.count * max(self.planes, 1 if settled else 0)) - 1  # who has no clause there
        self.atoms: dict[str, dict[AtomKind, Masks]] = defaultdict(dict)
        for number, clauses in enumerate(needs):
            for plane, clause in enumerate(clauses):
                bit = 1 << (plane * self.count + number)
                lacking &= ~bit
                for attribute, kind, value in clause:
                    masks = self.atoms[attribute].setdefault(kind, {})
                    masks[value] = masks.get(value, 0) | bit
        self.searched = ""  # the term that searches a text which nothing remembers
        self.searching = 0  # the branches for which it does
        self.terms = self._terms(groups, lacking, settled=settled)

    def _terms(self, groups: dict[str, str], lacking: int, *, settled: bool) -> list[str]:
        terms = list[str]()
        together: dict[str, dict[str, Mapping[Any, int]]] = {"parents": {}, "fields": {}}
        for attribute, of_field in sorted(self.atoms.items()):
            group = groups[attribute]
            if group:
                together[group][attribute] = _remembered(of_field)
            else:
                terms += self._alone(attribute, of_field)
        branches = (1 << self.count) - 1
        always, free = (lacking & branches, lacking & ~branches) if settled else (lacking, 0)
        for group, fields in together.items():
            if fields:
                table = Together(list(fields.values()), always)
                if settled and self.planes > 1:
                    table.settle(free, self.count, self.planes)
                self.tables[f"{self.name}_{group}"] = table
                terms.insert(0, f"{self.name}_{group}[{''.join(f'a.{attribute}, ' for attribute in fields)}]")
                always = 0
        if always or not terms:
            self.tables[f"{self.name}_always"] = always
            terms.insert(0, f"{self.name}_always")
        return terms

    def _alone(self, attribute: str, masks: dict[AtomKind, Masks]) -> list[str]:
        name = f"{self.name}_{attribute}"
        if "number" in masks:
            self.tables[name] = masks["number"].get
            return [f"{name}(a.{attribute}, 0)"]
        if "literal" not in masks:
            self.tables[name] = Networks(masks["network"])
            return [f"{name}[a.{attribute}]"]
        self.tables[name] = Literals(masks["literal"]).find
        self.searched = f"{name}(a.{attribute})"
        for bits in masks["literal"].values():
            for plane in range(self.planes):
                self.searching |= bits >> plane * self.count & ((1 << self.count) - 1)
        return []


def _remembered(masks: dict[AtomKind, Masks]) -> Mapping[Any, int]:
    if "flag" in masks:
        return {value: masks["flag"].get(value, 0) for value in (False, True)}
    if "number" in masks:
        return Numbers(masks["number"])
    kinds: tuple[AtomKind, ...] = ("exact", "name", "literal", "network")
    return FieldIndex(*(masks.get(kind, {}) for kind in kinds))


def _source(first: _Looked, further: _Looked) -> str:
    lines = ["def find(a):", f"    c = {' | '.join([*first.terms, *filter(None, [first.searched])])}"]
    if further.planes:
        lines += ["    if not c: return 0", f"    m = {' | '.join(further.terms)}"]
        if further.searched:  # words that every other text holds
            lines.append(f"    if c & searching: m |= {further.searched}")
        lines += ["    c &= m", *(f"    if c: c &= m >> {first.count * n}" for n in range(1, further.planes))]
    return "\n".join([*lines, "    return c", ""])
