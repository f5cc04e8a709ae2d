"""From expressions to Python source: a function for each rule, and one for each of its branches.

The source is what runs, and what a person reads to see why a rule matched. Attribute names come from
the field table and every value through repr: nothing of a rule's text becomes code.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Sequence
from typing import Any

from sensor.rules import ir, runtime

_COMPARE = {"eq": "==", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_COSTS: dict[type, int] = {ir.Regex: 20, ir.Pattern: 20, ir.Cidr: 20, ir.Text: 3, ir.Reference: 3, ir.TimePart: 3}
_METHOD = {"prefix": "startswith", "suffix": "endswith"}

# What the source calls.
_CALLED = {name: getattr(runtime, name) for name in ("cidr", "regex", "time_part", "wildcard")}


class _Writer:
    """Writes one rule's functions; keeps the compiled constants they share, and each one's folded locals."""

    def __init__(self) -> None:
        self.locals: dict[str, str] = {}
        self.constants: dict[str, str] = {}

    def function(self, name: str, expression: ir.Expression, title: str = "") -> str:
        self.locals = {}
        guard, body = self._guarded(expression)
        lines = [f"def {name}(a):", *([f"    {title!r}"] if title else [])]
        lines += [f"    if not ({guard}): return False"] if guard else []
        lines += [f"    {local} = {value}" for value, local in self.locals.items()]
        return "\n".join([*lines, f"    return {body}", ""])

    def _guarded(self, expression: ir.Expression) -> tuple[str, str]:
        """What is asked before any text is folded, "" for nothing, and the rest."""
        items = _sorted(expression.items) if isinstance(expression, ir.And) else [expression]
        guard: list[str] = []
        for at, item in enumerate(items):
            written = self.write(item)
            if self.locals:
                return " and ".join(guard), self.write(ir.And(tuple(items[at:])))
            guard.append(written)
        return "", f"({' and '.join(guard)})"

    def write(self, item: ir.Expression) -> str:
        if isinstance(item, ir.And):
            return "(" + " and ".join(map(self.write, _sorted(item.items))) + ")"
        if isinstance(item, ir.Or):
            return "(" + " or ".join(self._alternatives(_sorted(item.items))) + ")"
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
        return self.constants.setdefault(call, f"K{len(self.constants)}")


def _cost(item: ir.Expression) -> int:
    """What is cheap is asked first; the order changes no result."""
    kind = type(item)
    if kind in _COSTS:
        return _COSTS[kind]
    if isinstance(item, ir.Or):  # a list of values is one test
        return sum({_group(part) or id(part): _cost(part) for part in item.items}.values())
    if isinstance(item, ir.And):
        return 1 + sum(map(_cost, item.items))
    return 1 + _cost(item.item) if isinstance(item, ir.Not) else 1


def _sorted(items: Sequence[ir.Expression]) -> Sequence[ir.Expression]:
    return sorted(items, key=_cost) if len(items) > 1 else items


def _group(item: ir.Expression) -> tuple[object, ...] | None:
    if isinstance(item, ir.Text) and item.shape != "contains":
        return (item.attribute, item.shape, item.cased, item.numeric)
    if isinstance(item, ir.Number) and item.compare == "eq":
        return (item.attribute, "number")
    return (item.attribute, "network") if isinstance(item, ir.Cidr) else None


def source(title: str, expression: ir.Expression, branches: Sequence[ir.Expression]) -> str:
    """Source of `rule(activity) -> bool`, of `branch_<n>` for each of its branches if there are several, and of
    the constants they use. Expressions are simplified."""
    writer = _Writer()
    functions = [writer.function("rule", expression, title)]
    if len(branches) > 1:
        functions += [writer.function(f"branch_{n}", branch) for n, branch in enumerate(branches)]
    constants = [f"{name} = {call}" for call, name in writer.constants.items()]
    return "\n".join([*constants, *([""] if constants else []), "\n".join(functions)])


def code(text: str, name: str) -> bytes:
    """`source`'s text compiled for this interpreter. Raises SyntaxError, RecursionError, MemoryError."""
    return marshal.dumps(compile(text, name, "exec", dont_inherit=True))


def functions(compiled: bytes) -> dict[str, Any]:
    """The functions of a rule by name. Only ever given what `code` made: the cache proves it by owner and digest."""
    namespace = dict(_CALLED)
    exec(marshal.loads(compiled), namespace)  # noqa: S102, S302
    return namespace
