"""From expressions to Python source: one predicate for each rule, one candidate finder for each category.

The source is what runs, and what a person reads to see why a rule matched. Attribute names come from
the field table and every value through repr: nothing of a rule's text becomes code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from sensor.rules import ir, need
from sensor.rules.need import Atom, Clause

_COMPARE = {"eq": "==", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_METHOD = {"prefix": "startswith", "suffix": "endswith"}

HEADER = "from sensor.rules.runtime import FieldIndex, Literals, Networks, cidr, regex, time_part, wildcard\n"


class _Predicate:
    """Writes one rule's function; keeps the folded locals and the compiled constants it needs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.locals: dict[str, str] = {}
        self.constants: dict[str, str] = {}

    def source(self, expression: ir.Expression, title: str) -> str:
        guard, body = self._guarded(expression)
        lines = [f"{name} = {call}" for call, name in self.constants.items()]
        lines += ["", "", f"def rule_{self.number}(a):", f"    {title!r}"]
        lines += [f"    if not ({guard}): return False"] if guard else []
        lines += [f"    {name} = {value}" for value, name in self.locals.items()]
        lines += [f"    return {body}", ""]
        return "\n".join(lines)

    def _guarded(self, expression: ir.Expression) -> tuple[str, str]:
        """What is asked before any text is folded, "" for nothing, and the rest."""
        items = sorted(expression.items, key=_cost) if isinstance(expression, ir.And) else [expression]
        guard: list[str] = []
        for at, item in enumerate(items):
            written = self.write(item)
            if self.locals:
                return " and ".join(guard), self.write(ir.And(tuple(items[at:])))
            guard.append(written)
        return "", f"({' and '.join(guard)})"

    def write(self, item: ir.Expression) -> str:
        if isinstance(item, ir.And):
            return "(" + " and ".join(map(self.write, sorted(item.items, key=_cost))) + ")"
        if isinstance(item, ir.Or):
            return "(" + " or ".join(self._alternatives(sorted(item.items, key=_cost))) + ")"
        if isinstance(item, ir.Not):
            return f"not {self.write(item.item)}"
        return self._leaf(item)

    def _alternatives(self, items: Sequence[ir.Expression]) -> Iterator[str]:
        """Values of one field and shape become one test: `endswith`, `in` and `cidr` take several."""
        groups: dict[object, list[ir.Expression]] = {}
        for item in items:
            groups.setdefault(_group(item) or item, []).append(item)
        for group in groups.values():
            distinct = dict.fromkeys(group)
            yield self.write(group[0]) if len(distinct) == 1 else self._together(list(distinct))

    def _together(self, items: Sequence[ir.Expression]) -> str:
        """Any of several values of one `_group`."""
        first = items[0]
        if isinstance(first, ir.Cidr):
            networks = ", ".join(repr(item.network) for item in items if isinstance(item, ir.Cidr))
            return f"{self._constant(f'cidr({networks})')}(a.{first.attribute})"
        values = repr(tuple(item.value for item in items if isinstance(item, (ir.Text, ir.Number))))
        if isinstance(first, ir.Text):
            subject = self._text(first.attribute, first.cased, first.numeric)
            return f"{subject} in {values}" if first.shape == "exact" else f"{subject}.{_METHOD[first.shape]}({values})"
        assert isinstance(first, ir.Number)
        return f"a.{first.attribute} in {values}"

    def _leaf(self, item: ir.Leaf) -> str:
        if isinstance(item, ir.Text):
            return self._of_text(item)
        if isinstance(item, ir.Pattern):
            name = self._constant(f"wildcard({item.parts!r})")
            return f"{name}({self._text(item.attribute, item.cased, item.numeric)})"
        if isinstance(item, ir.Regex):
            return f"{self._constant(f'regex({item.pattern!r})')}({self._text(item.attribute, True, item.numeric)})"
        if isinstance(item, ir.Cidr):
            return f"{self._constant(f'cidr({item.network!r})')}(a.{item.attribute})"
        if isinstance(item, ir.Reference):
            return self._reference(item)
        return self._simple(item)

    def _simple(self, item: ir.Number | ir.TimePart | ir.Flag | ir.Empty | ir.Constant) -> str:
        if isinstance(item, ir.Number):
            return f"a.{item.attribute} {_COMPARE[item.compare]} {item.value!r}"
        if isinstance(item, ir.TimePart):
            return f"time_part(a.{item.attribute}, {item.unit!r}) == {item.value!r}"
        if isinstance(item, ir.Flag):
            return f"a.{item.attribute}" if item.value else f"(not a.{item.attribute})"
        if isinstance(item, ir.Empty):
            return f"a.{item.attribute} == ''"
        return repr(item.value)

    def _of_text(self, item: ir.Text) -> str:
        subject = self._text(item.attribute, item.cased, item.numeric)
        if item.shape == "exact":
            return f"{subject} == {item.value!r}"
        if item.shape == "contains":
            return f"{item.value!r} in {subject}"
        return f"{subject}.{_METHOD[item.shape]}({item.value!r})"

    def _reference(self, item: ir.Reference) -> str:
        if item.numeric:
            return f"a.{item.attribute} == a.{item.other}"
        left, right = (f"str(a.{name}).casefold()" for name in (item.attribute, item.other))
        if item.shape == "exact":
            return f"{left} == {right}"
        # Every text contains the empty one: a field that is not known is no match.
        test = f"{right} in {left}" if item.shape == "contains" else f"{left}.{_METHOD[item.shape]}({right})"
        return f"(a.{item.other} != '' and {test})"

    def _text(self, attribute: str, cased: bool, numeric: bool) -> str:
        if numeric:
            return f"str(a.{attribute})"
        if cased:
            return f"a.{attribute}"
        return self.locals.setdefault(f"a.{attribute}.casefold()", attribute)

    def _constant(self, call: str) -> str:
        return self.constants.setdefault(call, f"K{self.number}_{len(self.constants)}")


def _cost(item: ir.Expression) -> int:
    """What is cheap is asked first; the order changes no result."""
    if isinstance(item, ir.Or):  # a list of values is one test
        return sum({_group(part) or part: _cost(part) for part in item.items}.values())
    if isinstance(item, ir.And):
        return 1 + sum(map(_cost, item.items))
    if isinstance(item, ir.Not):
        return 1 + _cost(item.item)
    if isinstance(item, (ir.Regex, ir.Pattern, ir.Cidr)):
        return 20
    return 3 if isinstance(item, (ir.Text, ir.Reference, ir.TimePart)) else 1


def _group(item: ir.Expression) -> tuple[object, ...] | None:
    if isinstance(item, ir.Text) and item.shape != "contains":
        return (item.attribute, item.shape, item.cased, item.numeric)
    if isinstance(item, ir.Number) and item.compare == "eq":
        return (item.attribute, "number")
    return (item.attribute, "network") if isinstance(item, ir.Cidr) else None


def predicate(number: int, expression: ir.Expression, title: str) -> str:
    """Source of `rule_<number>(activity) -> bool` and of the constants it uses."""
    return _Predicate(number).source(ir.simplified(expression), title)


class _Index:
    """Writes `candidates_<category>(activity) -> int`: bits for the rules worth evaluating.

    Each look-up gives the bits of all clauses that it satisfies, PLANES groups of one bit a branch; a branch
    is a candidate when its bit is set in every group. One with fewer clauses has the rest for free.
    """

    def __init__(self, category: str, needs: Sequence[tuple[Clause, ...]]) -> None:
        self.category = category
        self.direct = need.DIRECT.get(category)
        self.count = len(needs)
        self.planes = max(map(len, needs), default=0) or 1
        self.free = (1 << self.count * self.planes) - 1
        self.atoms: dict[Atom, int] = defaultdict(int)
        for number, clauses in enumerate(needs):
            for plane, clause in enumerate(clauses):
                bit = 1 << (plane * self.count + number)
                self.free &= ~bit
                for atom in clause:
                    self.atoms[atom] |= bit
        self.constants: list[str] = []

    def source(self) -> str:
        terms = [f"{self.free:#x}"]
        flags: list[str] = []
        for attribute in sorted({atom.attribute for atom in self.atoms}):
            of_field = {atom: bits for atom, bits in self.atoms.items() if atom.attribute == attribute}
            if all(atom.kind == "flag" for atom in of_field):
                flags += [
                    f"    if {'' if atom.value else 'not '}a.{attribute}: m |= {bits:#x}"
                    for atom, bits in of_field.items()
                ]
            else:
                terms.append(self._term(attribute, of_field))
        everywhere = "".join(f" & m >> {self.count * plane}" for plane in range(1, self.planes))
        head = [*self.constants, "", "", f"def candidates_{self.category}(a):", f"    m = {' | '.join(terms)}"]
        return "\n".join([*head, *flags, f"    return m{everywhere} & {(1 << self.count) - 1:#x}", ""])

    def _term(self, attribute: str, atoms: dict[Atom, int]) -> str:
        name = f"{self.category}_{attribute}"
        if any(atom.kind == "number" for atom in atoms):
            self.constants.append(f"{name} = {_masks(atoms, 'number')}.get")
            return f"{name}(a.{attribute}, 0)"
        if attribute == self.direct:
            self.constants.append(f"{name} = Literals({_masks(atoms, 'literal')})")
            return f"{name}(a.{attribute})"
        if all(atom.kind == "network" for atom in atoms):  # parsing is as cheap as remembering
            self.constants.append(f"{name} = Networks({_masks(atoms, 'network')})")
            return f"{name}(a.{attribute})"
        kinds = ("exact", "name", "literal", "network")
        self.constants.append(f"{name} = FieldIndex({', '.join(_masks(atoms, kind) for kind in kinds)})")
        return f"{name}[a.{attribute}]"


def _masks(atoms: dict[Atom, int], kind: str) -> str:
    return "{" + ", ".join(f"{a.value!r}: {bits:#x}" for a, bits in atoms.items() if a.kind == kind) + "}"


def module(predicates: Sequence[str], categories: Sequence[str], needs: Sequence[Sequence[tuple[Clause, ...]]]) -> str:
    """The whole source. `RULES[i]` is rule i's predicate; `CATEGORIES[c]` is the finder of category c
    and the rule behind each of its bits: as many bits a rule as it has branches, side by side."""
    parts = [HEADER, *predicates, f"RULES = ({''.join(f'rule_{i}, ' for i in range(len(predicates)))})", ""]
    table: dict[str, str] = {}
    for category in dict.fromkeys(categories):
        found = [(i, branch) for i, of in enumerate(categories) if of == category for branch in needs[i]]
        parts.append(_Index(category, [branch for _, branch in found]).source())
        table[category] = f"(candidates_{category}, {tuple(i for i, _ in found)!r})"
    parts += ["", "CATEGORIES = {", *(f"    {name!r}: {value}," for name, value in table.items()), "}", ""]
    return "\n".join(parts)


def load(source: str) -> tuple[tuple[Callable[..., bool], ...], dict[str, tuple[Callable[..., int], tuple[int, ...]]]]:
    """Run `module`'s source. Only ever given what `module` made: the cache proves it by owner and digest."""
    namespace: dict[str, object] = {"__name__": "sensor.rules.compiled"}
    exec(compile(source, "<compiled rules>", "exec"), namespace)  # noqa: S102
    return namespace["RULES"], namespace["CATEGORIES"]  # type: ignore[return-value]
