"""What of an expression is decided when it is compiled: constants, and tests of text that every event has."""

from __future__ import annotations

from sensor.rules import ir, runtime

_TRUE, _FALSE = ir.Constant(True), ir.Constant(False)


def folded(item: ir.Expression) -> ir.Expression:
    """The same condition without constants, or a constant."""
    if isinstance(item, ir.Not):
        inside = folded(item.item)
        return ir.Constant(not inside.value) if isinstance(inside, ir.Constant) else ir.Not(inside)
    if not isinstance(item, (ir.And, ir.Or)):
        return item
    decides, neutral = (_FALSE, _TRUE) if isinstance(item, ir.And) else (_TRUE, _FALSE)
    parts = [folded(part) for part in item.items]
    if decides in parts:
        return decides
    left = tuple(part for part in parts if part != neutral)
    if len(left) == 1:
        return left[0]
    return type(item)(left) if left else neutral


def holds(item: ir.Expression, text: str) -> bool:
    """Whether an expression over one text field is true of `text`; a number's test, or an address's, never is."""
    match item:
        case ir.And():
            return all(holds(part, text) for part in item.items)
        case ir.Or():
            return any(holds(part, text) for part in item.items)
        case ir.Not():
            return not holds(item.item, text)
        case _:
            return _leaf_holds(item, text)


def _leaf_holds(item: ir.Leaf, text: str) -> bool:
    if isinstance(item, ir.Constant):
        return item.value
    if isinstance(item, ir.Regex):
        return runtime.regex(item.pattern)(text)
    if isinstance(item, ir.Text):
        return _text_holds(item, text if item.cased else ir.fold(text))
    if isinstance(item, ir.Pattern):
        return runtime.wildcard(item.parts)(text if item.cased else ir.fold(text))
    return isinstance(item, ir.Empty) and not text


def _text_holds(item: ir.Text, text: str) -> bool:
    if item.shape == "exact":
        return text == item.value
    if item.shape == "contains":
        return item.value in text
    return text.startswith(item.value) if item.shape == "prefix" else text.endswith(item.value)
