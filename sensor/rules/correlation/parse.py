"""One correlation rule from its YAML document: checked by pySigma, each fault with its line. Only in the child."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from sigma.correlations import (
    CorrelationConditionNOT,
    CorrelationConditionOR,
    SigmaCorrelationRule,
    SigmaExtendedCorrelationCondition,
    SigmaRuleReference,
)
from sigma.exceptions import SigmaCorrelationConditionError, SigmaCorrelationTypeError, SigmaError, SigmaTimespanError

from sensor.rules import parse
from sensor.rules.correlation.draft import Draft, Lines
from sensor.rules.correlation.model import COUNTED, DISTINCT, MEASURED, Alternative
from sensor.rules.document import Document, Place, RefusalError

MOST_TIMESPAN_S = 30 * 24 * 3600
MOST_RULES = 32
MOST_GROUP_FIELDS = 8
MOST_ALTERNATIVES = 64
MOST_DISTINCT = 4096  # values that a group holds

_OPERATORS = ("gt", "gte", "lt", "lte", "eq", "neq")
_KEYS = ("type", "rules", "timespan", "condition", "group-by", "aliases", "generate")
_TEMPORAL = frozenset({"temporal", "temporal_ordered"})


def draft(path: Path, document: Document) -> Draft:
    """Raises RefusalError with the line of what is wrong."""
    data, place = document.data, document.place
    at = place.at("correlation")
    body = data["correlation"]
    if not isinstance(body, dict):
        raise RefusalError("correlation is not a mapping", at.line)
    unknown = sorted(str(key) for key in body if key not in _KEYS)
    if unknown:
        raise RefusalError(f"correlation has no {unknown[0]!r}, only {', '.join(_KEYS)}", at.at(unknown[0]).line)
    plain = {key: value for key, value in data.items() if key != "correlation"}
    meta = parse.metadata({**plain, "logsource": {"category": "process_creation"}}, place)
    bounds, rule = _checked(data, body, at)
    kind = rule.type.name.lower()
    references = _references(rule, at)
    fields = _fields(kind, body.get("condition"), at)
    level, status = meta.level, meta.status
    return Draft(
        file=str(path),
        line=place.line,
        at=_lines(at, place),
        id=str(meta.id),
        title=meta.title,
        level=level.name.lower() if level is not None else "",
        status=status.name.lower() if status is not None else "experimental",
        tags=tuple(map(str, meta.tags)),
        description=meta.description or "",
        falsepositives=tuple(map(str, meta.falsepositives or ())),
        links=tuple(map(str, meta.references or ())),
        name=str(data.get("name") or ""),
        type=kind,
        references=references,
        timespan_ns=_timespan(rule, at),
        group_by=_group_by(rule, at),
        aliases={each.alias: {ref.reference: str(f) for ref, f in each.mapping.items()} for each in rule.aliases},
        bounds=() if kind == "temporal_ordered" else _bounds(kind, bounds, len(references), rule, at),
        alternatives=_alternatives(kind, rule, bounds, references, at),
        fields=fields,
        percentile=_percentile(kind, rule, at),
        generate=bool(rule.generate),
        across_sandboxes=_across(data, place),
    )


def _lines(at: Place, place: Place) -> Lines:
    condition = at.at("condition")
    rules = at.at("rules")
    return Lines(
        name=place.at("name").line,
        rules=rules.line if rules is not at else condition.line,
        condition=condition.line,
        field=condition.at("field").line,
        group_by=at.at("group-by").line,
        aliases=at.at("aliases").line,
    )


def _checked(data: dict[str, Any], body: dict[str, Any], at: Place) -> tuple[list[tuple[str, float]], Any]:
    """The bounds, and pySigma's rule. pySigma takes one bound at a time, the specification a range too."""
    condition = body.get("condition")
    given = [op for op in _OPERATORS if isinstance(condition, dict) and op in condition]
    bounds: list[tuple[str, float]] = []
    rule: Any = None
    for operator in given or [""]:
        one = condition
        if isinstance(condition, dict) and operator:
            one = {key: value for key, value in condition.items() if key not in given or key == operator}
        rule = _by_pysigma({**data, "correlation": {**body, "condition": one}} if condition is not None else data, at)
        if operator:
            if isinstance(condition[operator], bool):  # type: ignore[index]
                raise RefusalError(f"{operator} is no number", at.at("condition").line)
            bounds.append((operator, rule.condition.count))
    return bounds, rule


def _by_pysigma(data: dict[str, Any], at: Place) -> SigmaCorrelationRule:
    body = data["correlation"]
    references = body.get("rules")
    if isinstance(references, list) and not all(isinstance(each, str) for each in references):
        raise RefusalError("rules are names or ids of rules", at.at("rules").line)
    try:
        return SigmaCorrelationRule.from_dict(data)
    except SigmaError as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        raise RefusalError(reason, at.at(_subject(error, reason)).line) from error
    except RecursionError as error:
        raise RefusalError("the condition is nested too deeply", at.at("condition").line) from error
    except (TypeError, ValueError, AttributeError) as error:  # of shapes that pySigma does not expect
        raise RefusalError(f"pySigma cannot read it: {error}", at.line) from error


def _subject(error: SigmaError, reason: str) -> str:
    """The key that an error of pySigma is about."""
    if isinstance(error, SigmaTimespanError):
        return "timespan"
    if isinstance(error, SigmaCorrelationConditionError):
        return "condition"
    if isinstance(error, SigmaCorrelationTypeError):
        return "type"
    words = {"timespan": "timespan", "alias": "aliases", "group-by": "group-by", "generate": "generate"}
    words |= {"field": "condition", "condition": "condition"}
    return next((key for word, key in words.items() if word in reason), "rules")


def _references(rule: Any, at: Place) -> tuple[str, ...]:
    condition = rule.condition
    extended = isinstance(condition, SigmaExtendedCorrelationCondition)
    found = (
        [each.reference for each in rule.rules] if rule.rules else condition.get_referenced_rules() if extended else []
    )
    if not found:
        raise RefusalError("refers to no rule", at.at("rules").line)
    if len(found) > MOST_RULES:
        raise RefusalError(f"refers to {len(found)} rules, more than {MOST_RULES}", at.at("rules").line)
    return tuple(found)


def _timespan(rule: Any, at: Place) -> int:
    seconds = int(rule.timespan.seconds)
    if seconds > MOST_TIMESPAN_S:
        raise RefusalError(f"timespan {rule.timespan.spec!r} is longer than 30 days", at.at("timespan").line)
    return seconds * 1_000_000_000


def _group_by(rule: Any, at: Place) -> tuple[str, ...]:
    names = tuple(rule.group_by or ())
    if len(names) > MOST_GROUP_FIELDS or len(set(names)) < len(names):
        raise RefusalError(f"group-by names a field twice, or more than {MOST_GROUP_FIELDS}", at.at("group-by").line)
    return names


def _fields(kind: str, condition: Any, at: Place) -> tuple[str, ...]:
    field = condition.get("field") if isinstance(condition, dict) else None
    names = [] if field is None else field if isinstance(field, list) else [field]
    if not all(isinstance(name, str) for name in names):
        raise RefusalError("field is no name", at.at("condition").at("field").line)
    needs = kind in MEASURED or kind in {"value_sum", "value_count"}
    if names and not needs:
        raise RefusalError(f"{kind} takes no field", at.at("condition").at("field").line)
    if len(names) > 1 and kind != "value_count":
        raise RefusalError(f"{kind} takes one field", at.at("condition").at("field").line)
    return tuple(names)


def _bounds(
    kind: str, bounds: list[tuple[str, float]], parts: int, rule: Any, at: Place
) -> tuple[tuple[str, float], ...]:
    if isinstance(rule.condition, SigmaExtendedCorrelationCondition):
        return ()
    found = tuple(bounds) or (("gte", parts),)
    where = at.at("condition").line
    for operator, limit in found:
        if kind == "temporal" and limit > parts:
            raise RefusalError(f"{operator} {limit}: there are {parts} rules only", where)
        if kind in DISTINCT and limit >= MOST_DISTINCT:
            raise RefusalError(f"{operator} {limit}: no more than {MOST_DISTINCT} values are told apart", where)
        if (kind in COUNTED or kind in DISTINCT) and operator in {"lt", "lte"} and limit < (operator == "lt") + 0:
            raise RefusalError(f"{operator} {limit} can never hold", where)
    return found


def _alternatives(
    kind: str, rule: Any, bounds: list[tuple[str, float]], references: tuple[str, ...], at: Place
) -> tuple[Alternative, ...]:
    if kind not in _TEMPORAL:
        return ()
    where = at.at("condition").line
    condition = rule.condition
    if isinstance(condition, SigmaExtendedCorrelationCondition):
        return _normal(condition.parsed, references, kind == "temporal_ordered", where)
    if kind == "temporal":
        return ()
    count = len(references)
    if bounds:
        if len(bounds) > 1 or bounds[0][0] not in {"gte", "eq"} or not 1 <= bounds[0][1] <= count:
            raise RefusalError(f"temporal_ordered takes gte with a number of its rules, 1 to {count}", where)
        count = int(bounds[0][1])
    found = tuple(Alternative(each) for each in combinations(range(len(references)), count))
    if len(found) > MOST_ALTERNATIVES:
        raise RefusalError(f"stands for more than {MOST_ALTERNATIVES} sequences", where)
    return found


def _normal(node: Any, references: tuple[str, ...], ordered: bool, line: int) -> tuple[Alternative, ...]:
    """The condition as alternatives (its disjunctive normal form), each in the order in which it names rules."""
    found: dict[Alternative, None] = {}
    for wanted, barred in _terms(node, references, negated=False, line=line):
        if set(wanted) & set(barred):
            continue
        order = wanted if ordered else tuple(dict.fromkeys(wanted))
        found[Alternative(order, tuple(sorted(set(barred))))] = None
    if not found or any(not each.wanted for each in found):
        raise RefusalError("the condition holds where nothing happens, or never: no event would begin it", line)
    return tuple(found)


def _terms(
    node: Any, references: tuple[str, ...], *, negated: bool, line: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    if isinstance(node, SigmaRuleReference):
        number = references.index(node.reference)
        return [((), (number,))] if negated else [((number,), ())]
    if isinstance(node, CorrelationConditionNOT):
        return _terms(node.args[0], references, negated=not negated, line=line)
    each = [_terms(part, references, negated=negated, line=line) for part in node.args]
    if isinstance(node, CorrelationConditionOR) is not negated:
        terms = [term for part in each for term in part]
    else:
        terms = [((), ())]
        for part in each:
            terms = [(w + wanted, b + barred) for w, b in terms for wanted, barred in part]
            if len(terms) > MOST_ALTERNATIVES:
                break
    if len(terms) > MOST_ALTERNATIVES:
        raise RefusalError(f"the condition stands for more than {MOST_ALTERNATIVES} alternatives", line)
    return terms


def _percentile(kind: str, rule: Any, at: Place) -> int:
    wanted = getattr(rule.condition, "percentile", None)
    if kind == "value_median":
        return 50
    if kind != "value_percentile":
        if wanted is not None:
            raise RefusalError(f"{kind} takes no percentile", at.at("condition").at("percentile").line)
        return 0
    if wanted is None or not 1 <= wanted <= 100:
        raise RefusalError("value_percentile needs a percentile from 1 to 100", at.at("condition").line)
    return int(wanted)


def _across(data: dict[str, Any], place: Place) -> bool:
    """Sigma leaves `custom` to its users: a sandbox's events meet those of others only where this says so."""
    custom = data.get("custom", {})
    value = custom.get("across_sandboxes", False) if isinstance(custom, dict) else None
    if not isinstance(value, bool):
        raise RefusalError(
            "custom is no mapping, or across_sandboxes in it neither true nor false", place.at("custom").line
        )
    return value
