"""From pySigma's parsed condition to our expression: Sigma's meaning of values, fields and case.

Only in the child: pySigma is heavy. Source for the meaning of modifiers and of case: the Sigma
specification 2 and its appendix of modifiers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
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

from sensor.rules import fields, fold, ir, runtime, taxonomy
from sensor.rules.document import RefusalError
from sensor.rules.fields import Field
from sensor.rules.placeholders import filled, filled_regex
from sensor.rules.scope import Scope

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


def condition(tree: Any, scope: Scope) -> ir.Expression:
    """`tree`: pySigma's post-processed condition. Raises RefusalError with the item's line."""
    if isinstance(tree, ConditionFieldEqualsValueExpression):
        return _located(tree, scope, lambda: _bound(tree.field, tree.value, scope))
    if isinstance(tree, ConditionValueExpression):
        return _located(tree, scope, lambda: _keyword(tree.value, scope))
    if isinstance(tree, ConditionItem):
        items = tuple(condition(item, scope) for item in tree.args)
        if isinstance(tree, ConditionAND):
            return ir.And(items)
        if isinstance(tree, ConditionOR):
            return ir.Or(items)
        if isinstance(tree, ConditionNOT):
            return ir.Not(items[0])
    raise RefusalError("the condition is empty")


def _located(tree: Any, scope: Scope, lower: Callable[[], ir.Expression]) -> ir.Expression:
    scope.line = (tree.source.line if tree.source is not None else 0) or 0
    try:
        return lower()
    except RefusalError as error:
        raise RefusalError(error.reason, error.line or scope.line) from error


def _bound(name: str, value: sigma.SigmaType, scope: Scope) -> ir.Expression:
    meaning = scope.look(name)
    if meaning is None:
        return _absent(value, scope)
    if meaning.constants:
        test = _value(Field(name, "", "text", ""), value, scope)
        met = any(fold.holds(test, text) for text in meaning.constants)
        scope.constant(name, str(value), met)
        return ir.Constant(met)
    if isinstance(value, (sigma.SigmaNull, sigma.SigmaExists)):
        empty = ir.And(tuple(_empty(field) for field in meaning.fields))
        return ir.Not(empty) if isinstance(value, sigma.SigmaExists) and value.exists else empty
    return _any_of(meaning.fields, value, scope)


def _any_of(of: tuple[Field, ...], value: sigma.SigmaType, scope: Scope) -> ir.Expression:
    """A name that stands for several fields may ask what one of them cannot have: a network, of a host name."""
    found: list[ir.Expression] = []
    refused: RefusalError | None = None
    for field in of:
        try:
            found.append(_value(field, value, scope))
        except RefusalError as error:
            refused = error
    if refused is not None and not found:
        raise refused
    return _either(found)


def _either(found: Sequence[ir.Expression]) -> ir.Expression:
    """Mostly it is one."""
    return found[0] if len(found) == 1 else ir.Or(tuple(found))


def _absent(value: sigma.SigmaType, scope: Scope) -> ir.Expression:
    """A field that is always null: only null, and `exists: false`, are true of it."""
    if isinstance(value, sigma.SigmaExpansion):
        return ir.Or(tuple(_absent(item, scope) for item in value.values))
    if isinstance(value, sigma.SigmaRegularExpression):  # what cannot be a regex is no less wrong here
        _regex(Field("", "", "text", ""), value, scope)
    null = isinstance(value, sigma.SigmaNull) or (isinstance(value, sigma.SigmaExists) and not value.exists)
    return ir.Constant(null)


def _keyword(value: sigma.SigmaType, scope: Scope) -> ir.Expression:
    """A value bound to no field: found anywhere in any of the category's keyword fields."""
    if isinstance(value, sigma.SigmaExpansion):
        return ir.Or(tuple(_keyword(item, scope) for item in value.values))
    if isinstance(value, sigma.SigmaNumber) and not isinstance(value, sigma.SigmaTimestampPart):
        value = sigma.SigmaString(str(value.number))
    if isinstance(value, sigma.SigmaString):
        cased = isinstance(value, sigma.SigmaCasedString)
        return ir.Or(tuple(_anywhere(parts, cased, scope) for parts in filled(value, scope.placeholders)))
    if isinstance(value, sigma.SigmaRegularExpression):
        return ir.Or(tuple(_regex(field, value, scope) for field in fields.keyword_fields(scope.category)))
    raise RefusalError(f"a keyword is text, a number or a regex, not {_name(value)}")


def _anywhere(parts: tuple[str | int, ...], cased: bool, scope: Scope) -> ir.Expression:
    if not any(isinstance(part, str) for part in parts):
        raise RefusalError("a keyword must hold some text")
    inside = (ir.ANY, *parts, ir.ANY)
    return ir.Or(tuple(_text(field, inside, cased) for field in fields.keyword_fields(scope.category)))


def _value(field: Field, value: sigma.SigmaType, scope: Scope) -> ir.Expression:
    if isinstance(value, sigma.SigmaString):  # first: most values are, and to ask for the others takes long (ABC)
        cased = isinstance(value, sigma.SigmaCasedString)
        return _either([_string(field, parts, cased) for parts in filled(value, scope.placeholders)])
    if isinstance(value, sigma.SigmaExpansion):
        return ir.Or(tuple(_value(field, item, scope) for item in value.values))
    if isinstance(value, (sigma.SigmaNull, sigma.SigmaExists)):
        empty = _empty(field)
        return ir.Not(empty) if isinstance(value, sigma.SigmaExists) and value.exists else empty
    if isinstance(value, sigma.SigmaFieldReference):
        return _reference(field, value, scope)
    if isinstance(value, sigma.SigmaRegularExpression):
        return _regex(field, value, scope)
    lower = next((lower for kind, lower in _LOWER.items() if isinstance(value, kind)), None)
    if lower is None:
        raise RefusalError(f"{_name(value)} is not supported")
    return lower(field, value)


def _empty(field: Field) -> ir.Expression:
    return ir.Empty(field.attribute) if field.kind in {"text", "address"} else ir.Constant(False)


def _string(field: Field, parts: tuple[str | int, ...], cased: bool) -> ir.Expression:
    plain = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else None
    if field.kind == "flag":
        flag = _FLAGS.get((plain or "").lower())
        if flag is None:
            raise RefusalError(f"{field.name} is true or false, not {_spelt(parts)!r}")
        return ir.Flag(field.attribute, flag)
    if field.kind in {"number", "time"} and ir.ANY not in parts and ir.ONE not in parts:
        if plain is None or not (plain.isascii() and plain.removeprefix("-").isdigit()):
            raise RefusalError(f"{field.name} is a number, not {_spelt(parts)!r}")
        return ir.Number(field.attribute, "eq", int(plain))
    if field.attribute == "SystemCall" and plain is not None and plain.isascii() and plain.isdigit():
        parts = (taxonomy.system_call(int(plain[:9])) or plain,)
    return _text(field, parts, cased)


def _spelt(parts: tuple[str | int, ...]) -> str:
    return "".join(part if isinstance(part, str) else "?*"[part == ir.ANY] for part in parts)


def _text(field: Field, parts: tuple[str | int, ...], cased: bool) -> ir.Expression:
    numeric = field.kind in {"number", "time"}
    if field.kind == "flag":
        raise RefusalError(f"{field.name} is true or false: text modifiers do not apply")
    if field.attribute == "ArgvText":  # one argument of several; a wildcard in its midst reaches into the next
        parts = (ir.ANY, "\0", *parts, "\0", ir.ANY)
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
    """Runs of ANY are one, and literals side by side."""
    kept: list[str | int] = []
    for part in parts:
        last = kept[-1] if kept else None
        if isinstance(part, str) and isinstance(last, str):
            kept[-1] = last + part
        elif part != ir.ANY or last != ir.ANY:
            kept.append(part)
    return tuple(kept)


def _shape(open_start: bool, open_end: bool) -> ir.Shape:
    if open_start:
        return "contains" if open_end else "suffix"
    return "prefix" if open_end else "exact"


def _regex(field: Field, value: sigma.SigmaRegularExpression, scope: Scope) -> ir.Expression:
    if field.kind == "flag":
        raise RefusalError(f"{field.name} is true or false: a regex does not apply")
    flags = "".join(sorted(_REGEX_FLAGS[flag.name] for flag in value.flags))
    patterns = [(f"(?{flags})" if flags else "") + text for text in filled_regex(value, scope.placeholders)]
    for pattern in patterns:
        try:
            runtime.regex(pattern)
        except re2.error as error:
            raise RefusalError(f"regex {pattern!r}: {_re2_reason(error)}") from error
    subjects = taxonomy.arguments() if field.attribute == "ArgvText" else (field,)
    numeric = field.kind in {"number", "time"}
    return _either([ir.Regex(subject.attribute, text, numeric) for subject in subjects for text in patterns])


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
    return _string(field, (str(value.number),), cased=False)


def _flag(field: Field, value: sigma.SigmaBool) -> ir.Expression:
    if field.kind != "flag":
        raise RefusalError(f"{field.name} is {field.kind}, not true or false: quote the value if it is text")
    return ir.Flag(field.attribute, value.boolean)


def _reference(field: Field, value: sigma.SigmaFieldReference, scope: Scope) -> ir.Expression:
    meaning = scope.look(value.field)
    if meaning is None or not meaning.fields:
        return ir.Constant(False)
    return ir.Or(tuple(_compared(field, value, other) for other in meaning.fields))


def _compared(field: Field, value: sigma.SigmaFieldReference, other: Field) -> ir.Expression:
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


# In order: a time part is a number too.
_LOWER: dict[type, Callable[[Field, Any], ir.Expression]] = {
    sigma.SigmaCIDRExpression: _cidr,
    sigma.SigmaCompareExpression: _compare,
    sigma.SigmaTimestampPart: _time_part,
    sigma.SigmaNumber: _number,
    sigma.SigmaBool: _flag,
}
