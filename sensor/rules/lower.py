"""From pySigma's parsed condition to our expression: Sigma's meaning of values, fields and case.

Only in the child: pySigma is heavy. Source for the meaning of modifiers and of case: the Sigma
specification 2 and its appendix of modifiers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import re2
from sigma import types as sigma
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionItem,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)

from sensor.rules import fields, ir, runtime
from sensor.rules.document import RefusalError
from sensor.rules.fields import Field

_COMPARE: dict[str, ir.Compare] = {"LT": "lt", "LTE": "lte", "GT": "gt", "GTE": "gte", "NEQ": "eq"}
_UNITS: dict[str, ir.Unit] = {
    "MINUTE": "minute",
    "HOUR": "hour",
    "DAY": "day",
    "WEEK": "week",
    "MONTH": "month",
    "YEAR": "year",
}
_FLAGS = {"true": True, "false": False, "1": True, "0": False}
_REGEX_FLAGS = {"IGNORECASE": "i", "MULTILINE": "m", "DOTALL": "s"}


def condition(tree: Any, category: str) -> ir.Expression:
    """`tree`: pySigma's post-processed condition. Raises RefusalError with the item's line."""
    if isinstance(tree, ConditionFieldEqualsValueExpression):
        return _located(tree, lambda: _bound(tree.field, tree.value, category))
    if isinstance(tree, ConditionValueExpression):
        return _located(tree, lambda: _keyword(tree.value, category))
    if isinstance(tree, ConditionItem):
        items = tuple(condition(item, category) for item in tree.args)
        if isinstance(tree, ConditionAND):
            return ir.And(items)
        if isinstance(tree, ConditionOR):
            return ir.Or(items)
        if isinstance(tree, ConditionNOT):
            return ir.Not(items[0])
    raise RefusalError("the condition is empty")


def _located(tree: Any, lower: Callable[[], ir.Expression]) -> ir.Expression:
    try:
        return lower()
    except RefusalError as error:
        line = tree.source.line if tree.source is not None else 0
        raise RefusalError(error.reason, error.line or line or 0) from error


def _bound(name: str, value: sigma.SigmaType, category: str) -> ir.Expression:
    field = fields.of_category(category).get(name)
    if field is None:
        raise RefusalError(fields.why_absent(category, name))
    return _value(field, value, category)


def _keyword(value: sigma.SigmaType, category: str) -> ir.Expression:
    """A value bound to no field: found anywhere in any of the category's keyword fields."""
    if isinstance(value, sigma.SigmaExpansion):
        return ir.Or(tuple(_keyword(item, category) for item in value.values))
    if isinstance(value, sigma.SigmaNumber) and not isinstance(value, sigma.SigmaTimestampPart):
        value = sigma.SigmaString(str(value.number))
    if isinstance(value, sigma.SigmaString):
        parts = _parts(value)
        if not any(isinstance(part, str) for part in parts):
            raise RefusalError("a keyword must hold some text")
        inside = (ir.ANY, *parts, ir.ANY)
        cased = isinstance(value, sigma.SigmaCasedString)
        return ir.Or(tuple(_text(field, inside, cased) for field in fields.keyword_fields(category)))
    if isinstance(value, sigma.SigmaRegularExpression):
        return ir.Or(tuple(_regex(field, value) for field in fields.keyword_fields(category)))
    raise RefusalError(f"a keyword is text, a number or a regex, not {_name(value)}")


def _value(field: Field, value: sigma.SigmaType, category: str) -> ir.Expression:
    if isinstance(value, sigma.SigmaExpansion):
        return ir.Or(tuple(_value(field, item, category) for item in value.values))
    if isinstance(value, sigma.SigmaNull):
        return _empty(field)
    if isinstance(value, sigma.SigmaExists):
        return ir.Not(_empty(field)) if value.exists else _empty(field)
    if isinstance(value, sigma.SigmaFieldReference):
        return _reference(field, value, category)
    for kind, lower in _LOWER.items():  # in order: a time part is a number too
        if isinstance(value, kind):
            return lower(field, value)
    raise RefusalError(f"{_name(value)} is not supported")


def _empty(field: Field) -> ir.Expression:
    return ir.Empty(field.attribute) if field.kind in {"text", "address"} else ir.Constant(False)


def _string(field: Field, value: sigma.SigmaString) -> ir.Expression:
    parts = _parts(value)
    plain = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else None
    if field.kind == "flag":
        flag = _FLAGS.get((plain or "").lower())
        if flag is None:
            raise RefusalError(f"{field.name} is true or false, not {str(value)!r}")
        return ir.Flag(field.attribute, flag)
    if field.kind in {"number", "time"} and ir.ANY not in parts and ir.ONE not in parts:
        if plain is None or not (plain.isascii() and plain.removeprefix("-").isdigit()):
            raise RefusalError(f"{field.name} is a number, not {str(value)!r}")
        return ir.Number(field.attribute, "eq", int(plain))
    return _text(field, parts, isinstance(value, sigma.SigmaCasedString))


def _parts(value: sigma.SigmaString) -> tuple[str | int, ...]:
    """Literals, ANY and ONE; runs of ANY and neighbouring literals are joined."""
    parts: list[str | int] = []
    for part in value.s:
        if isinstance(part, sigma.Placeholder):
            raise RefusalError(f"placeholder %{part.name}% has no value here")
        if isinstance(part, str):
            if parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part:
                parts.append(part)
        elif part == sigma.SpecialChars.WILDCARD_MULTI:
            if not parts or parts[-1] != ir.ANY:
                parts.append(ir.ANY)
        else:
            parts.append(ir.ONE)
    return tuple(parts)


def _text(field: Field, parts: tuple[str | int, ...], cased: bool) -> ir.Expression:
    numeric = field.kind in {"number", "time"}
    if field.kind == "flag":
        raise RefusalError(f"{field.name} is true or false: text modifiers do not apply")
    if not cased:
        parts = tuple(ir.fold(part) if isinstance(part, str) else part for part in parts)
    kept = _collapsed(parts)
    if kept == (ir.ANY,):  # as Sigma's back-ends have it: the field has any value
        return ir.Not(_empty(field))
    literals = [part for part in kept if isinstance(part, str)]
    if ir.ONE not in kept and len(literals) == 1:
        return ir.Text(field.attribute, _shape(kept[0] == ir.ANY, kept[-1] == ir.ANY), literals[0], cased, numeric)
    if not kept:
        return ir.Text(field.attribute, "exact", "", cased, numeric)
    return ir.Pattern(field.attribute, kept, cased, numeric)


def _collapsed(parts: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return tuple(p for i, p in enumerate(parts) if not (p == ir.ANY and i and parts[i - 1] == ir.ANY))


def _shape(open_start: bool, open_end: bool) -> ir.Shape:
    if open_start:
        return "contains" if open_end else "suffix"
    return "prefix" if open_end else "exact"


def _regex(field: Field, value: sigma.SigmaRegularExpression) -> ir.Expression:
    if value.contains_placeholder():
        raise RefusalError("a placeholder in a regex has no value here")
    if field.kind == "flag":
        raise RefusalError(f"{field.name} is true or false: a regex does not apply")
    flags = "".join(sorted(_REGEX_FLAGS[flag.name] for flag in value.flags))
    pattern = (f"(?{flags})" if flags else "") + str(value.regexp)
    try:
        runtime.regex(pattern)
    except re2.error as error:
        raise RefusalError(f"regex {str(value.regexp)!r}: {_re2_reason(error)}") from error
    return ir.Regex(field.attribute, pattern, field.kind in {"number", "time"})


def _re2_reason(error: Exception) -> str:
    reason = error.args[0] if error.args else "not understood"
    text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    return f"RE2 cannot do it: {text}"


def _cidr(field: Field, value: sigma.SigmaCIDRExpression) -> ir.Expression:
    if field.kind != "address":
        raise RefusalError(f"{field.name} is not an address: cidr does not apply")
    return ir.Cidr(field.attribute, str(ipaddress.ip_network(value.cidr)))


def _compare(field: Field, value: sigma.SigmaCompareExpression) -> ir.Expression:
    if field.kind not in {"number", "time"}:
        raise RefusalError(f"{field.name} is not a number: lt, lte, gt and gte do not apply")
    comparison = ir.Number(field.attribute, _COMPARE[value.op.name], value.number.number)
    return ir.Not(comparison) if value.op.name == "NEQ" else comparison


def _time_part(field: Field, value: sigma.SigmaTimestampPart) -> ir.Expression:
    if field.kind != "time":
        raise RefusalError(f"{field.name} is not a time: minute, hour, day, week, month and year do not apply")
    return ir.TimePart(field.attribute, _UNITS[value.timestamp_part.name], int(value.number))


def _number(field: Field, value: sigma.SigmaNumber) -> ir.Expression:
    if field.kind == "flag":
        if value.number not in (0, 1):
            raise RefusalError(f"{field.name} is true or false, not {value.number}")
        return ir.Flag(field.attribute, bool(value.number))
    if field.kind in {"number", "time"}:
        return ir.Number(field.attribute, "eq", value.number)
    return ir.Text(field.attribute, "exact", str(value.number), False)


def _flag(field: Field, value: sigma.SigmaBool) -> ir.Expression:
    if field.kind != "flag":
        raise RefusalError(f"{field.name} is {field.kind}, not true or false: quote the value if it is text")
    return ir.Flag(field.attribute, value.boolean)


def _reference(field: Field, value: sigma.SigmaFieldReference, category: str) -> ir.Expression:
    other = fields.of_category(category).get(value.field)
    if other is None:
        raise RefusalError(fields.why_absent(category, value.field))
    numbers = {field.kind, other.kind} <= {"number", "time", "flag"}
    # pySigma: `startswith` alone sets starts_with, `endswith` alone ends_with, `contains` both.
    shape = {
        (False, False): "exact",
        (True, False): "prefix",
        (False, True): "suffix",
        (True, True): "contains",
    }[value.starts_with, value.ends_with]
    if (numbers and shape != "exact") or ("flag" in {field.kind, other.kind} and field.kind != other.kind):
        raise RefusalError(f"{field.name} ({field.kind}) cannot be compared so with {other.name} ({other.kind})")
    return ir.Reference(field.attribute, shape, other.attribute, numbers)  # type: ignore[arg-type]


def _name(value: sigma.SigmaType) -> str:
    return type(value).__name__.removeprefix("Sigma")


_LOWER: dict[type, Callable[[Field, Any], ir.Expression]] = {
    sigma.SigmaString: _string,
    sigma.SigmaRegularExpression: _regex,
    sigma.SigmaCIDRExpression: _cidr,
    sigma.SigmaCompareExpression: _compare,
    sigma.SigmaTimestampPart: _time_part,
    sigma.SigmaNumber: _number,
    sigma.SigmaBool: _flag,
}
