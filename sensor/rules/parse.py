"""One Sigma rule from its YAML document: checked by pySigma, lowered by us, each fault with its line.

Only in the child: pySigma is heavy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from msgspec import Struct
from sigma import modifiers
from sigma.conditions import SigmaCondition
from sigma.exceptions import SigmaError, SigmaRuleLocation
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaDetections, SigmaRule

from sensor.events.detection import LEVELS
from sensor.rules import dormancy, fold, ir, lower, taxonomy
from sensor.rules.document import Document, Place, RefusalError
from sensor.rules.scope import Scope
from sensor.rules.setting import Placeholders

# The specification's own name for what pySigma knows by its alias only.
modifiers.modifier_mapping.setdefault("utf16le", modifiers.SigmaWideModifier)

_KEYS = {"identifier": "id", "value": "tags"}  # of pySigma's exception names that differ from the key
_SCALARS = (str, int, float, bool, type(None))


class Parsed(Struct, frozen=True):
    """A rule that can be compiled, for one category. Texts as the author wrote them."""

    id: str
    title: str
    level: str
    status: str
    tags: tuple[str, ...]
    category: str
    description: str
    falsepositives: tuple[str, ...]
    references: tuple[str, ...]
    expression: ir.Expression


class Loaded(Struct, frozen=True):
    """`parsed`: the rule for each category in which it can match; where there is none, `dormant` says why.
    `warnings`: line and text of what is probably not what the author meant."""

    id: str
    title: str
    parsed: tuple[Parsed, ...]
    warnings: tuple[tuple[int, str], ...]
    dormant: str


Narrowing = Callable[[Scope], Sequence[ir.Expression]]


def rule(document: Document, placeholders: Placeholders, narrowing: Narrowing = lambda _: ()) -> Loaded:
    """`narrowing` gives what else must hold in a category: filters. Raises RefusalError with the line of what is
    wrong."""
    data, place = document.data, document.place
    logsource = checked_logsource(data, place)
    meta = metadata(data, place)
    trees = condition_trees(data.get("detection"), place.at("detection"), ())
    source = taxonomy.source(logsource, _named(data["detection"]))
    if source is None:
        known = ", ".join(taxonomy.known_categories())
        reason = f"category {logsource['category']!r} is not one of {known}"
        raise RefusalError(reason, place.at("logsource").at("category").line)
    scopes = [Scope(category, placeholders) for category in source.categories]
    lowered = [expression_of(trees, scope, place.at("detection").at("condition")) for scope in scopes]
    parsed = [
        Parsed(
            id=str(meta.id),
            title=meta.title,
            level=meta.level.name.lower() if meta.level is not None else "",
            status=meta.status.name.lower() if meta.status is not None else "experimental",
            tags=tuple(str(tag) for tag in meta.tags),
            category=scope.category,
            description=meta.description or "",
            falsepositives=tuple(map(str, meta.falsepositives or ())),
            references=tuple(map(str, meta.references or ())),
            expression=fold.folded(ir.And((expression, *narrowing(scope)))),
        )
        for scope, expression in zip(scopes, lowered, strict=True)
    ]
    awake = tuple(one for one, scope in zip(parsed, scopes, strict=True) if _can_match(one.expression, scope))
    dormant = "" if awake else source.missing or dormancy.reason(scopes)
    return Loaded(str(meta.id), meta.title, awake, dormancy.warnings(scopes), dormant)


def _can_match(expression: ir.Expression, scope: Scope) -> bool:
    """A rule that matches everything, but for a field that is not there, would be the end of a night's sleep."""
    if isinstance(expression, ir.Constant):
        return expression.value and not scope.absent
    return True


def _named(detection: dict[str, Any]) -> set[str]:
    """The fields that a detection names, "" among them where it has keywords."""
    waiting = [value for name, value in detection.items() if name != "condition"]
    named: set[str] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            named.update(str(key).partition("|")[0] for key in value)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            waiting += value
        else:
            named.add("")
    return named


def checked_logsource(data: dict[str, Any], place: Place) -> dict[str, Any]:
    source = data.get("logsource")
    at = place.at("logsource")
    if not isinstance(source, dict):
        raise RefusalError("logsource is missing or not a mapping", at.line)
    for key in ("product", "category", "service"):
        if not isinstance(source.get(key, ""), str):
            raise RefusalError(f"{key} is not text", at.at(key).line)
    if source.get("product", "linux") != "linux":
        raise RefusalError(f"product {source['product']!r} is not linux", at.at("product").line)
    if not {"product", "category", "service"} & set(source):
        raise RefusalError("logsource has no category, product or service", at.line)
    return source


def metadata(data: dict[str, Any], place: Place) -> SigmaRule:
    """All but the detection, which has its own lines. Title, id and level are what detections carry."""
    for key in ("title", "id", "level"):
        if not isinstance(data.get(key), str):
            raise RefusalError(f"{key} is missing or not text", place.at(key).line)
    try:
        UUID(data["id"])
    except ValueError as error:
        raise RefusalError(f"id {data['id']!r} is not a UUID", place.at("id").line) from error
    if data["level"].lower() not in LEVELS:
        raise RefusalError(f"level {data['level']!r} is not one of {', '.join(LEVELS)}", place.at("level").line)
    standing_in = {"any": {"Image": "x"}, "condition": "any"}
    meta = SigmaRule.from_dict({**data, "detection": standing_in}, collect_errors=True)
    if meta.errors:
        name = type(meta.errors[0]).__name__.removeprefix("Sigma").removesuffix("Error").lower()
        raise RefusalError(_reason(meta.errors[0]), place.at(_KEYS.get(name, name)).line)
    return meta


def condition_trees(detection: Any, at: Place, besides: Sequence[str]) -> list[Any]:
    """Of each condition pySigma's tree. `besides`: keys that name no search."""
    if not isinstance(detection, dict):
        raise RefusalError("detection is missing or not a mapping", at.line)
    conditions = detection.get("condition")
    conditions = conditions if isinstance(conditions, list) else [conditions]
    if not conditions or not all(isinstance(text, str) and text for text in conditions):
        raise RefusalError("detection has no condition, or one that is not text", at.at("condition").line)
    if "timeframe" in detection:
        raise RefusalError("timeframe needs a correlation rule", at.at("timeframe").line)
    names = [name for name in detection if name != "condition" and name not in besides]
    named = {str(name): _part(detection[name], at.at(str(name))) for name in names}
    if not named:
        raise RefusalError("detection names nothing to look for", at.line)
    # pySigma hands a condition's own source down to its leaves: without one they keep their lines.
    detections = SigmaDetections(detections=named, condition=list(conditions))
    whole = at.at("condition")
    several = isinstance(detection["condition"], list)
    return [_tree(text, detections, whole.item(i) if several else whole) for i, text in enumerate(conditions)]


def expression_of(trees: Sequence[Any], scope: Scope, place: Place) -> ir.Expression:
    """The trees' alternatives in one category. `place`: of the condition."""
    lowered = tuple(_lowered(tree, scope, place) for tree in trees)
    return lowered[0] if len(lowered) == 1 else ir.Or(lowered)


def _tree(text: str, detections: SigmaDetections, place: Place) -> Any:
    try:
        return SigmaCondition(text, detections).parse()
    except SigmaError as error:
        raise RefusalError(f"condition {text!r}: {_reason(error)}", place.line) from error
    except RecursionError as error:
        raise RefusalError("the condition is nested too deeply", place.line) from error


def _lowered(tree: Any, scope: Scope, place: Place) -> ir.Expression:
    try:
        return lower.condition(tree, scope)
    except RefusalError as error:
        raise RefusalError(error.reason, error.line or place.line) from error


def _part(definition: Any, place: Place) -> SigmaDetection:
    """As SigmaDetection.from_definition, but each item knows its line."""
    if isinstance(definition, dict) and definition:
        return SigmaDetection([_item(key, value, place.at(str(key))) for key, value in definition.items()])
    if isinstance(definition, list) and definition:
        if all(isinstance(value, _SCALARS) for value in definition):
            return SigmaDetection([_item(None, definition, place)])
        return SigmaDetection([_part(value, place.item(i)) for i, value in enumerate(definition)])
    if isinstance(definition, _SCALARS) and definition is not None:
        return SigmaDetection([_item(None, definition, place)])
    raise RefusalError("is empty, or neither a mapping, a list nor a value", place.line)


def _item(key: Any, value: Any, place: Place) -> SigmaDetectionItem:
    if key is not None and not isinstance(key, str):
        raise RefusalError(f"field name {key!r} is not text", place.line)
    if isinstance(value, list) and not value:
        raise RefusalError(f"{key}: the list is empty", place.line)
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(v, _SCALARS) for v in value)):
        raise RefusalError(f"{key}: values are text, numbers, true, false or null", place.line)
    used = key.split("|")[1:] if key is not None else []
    if "expand" in used and {"base64", "base64offset"} & set(used):  # pySigma would encode the placeholder's stub
        raise RefusalError(f"{key}: a placeholder cannot be encoded", place.line)
    if key is not None and "re" in used:
        value = _patterns(key, value, place)
        if _ENDS & set(used):
            key, value = _anchored(key, value)
    try:
        return SigmaDetectionItem.from_mapping(key, value, source=SigmaRuleLocation(Path(), place.line))
    except SigmaError as error:
        raise RefusalError(_reason(error), place.line) from error


def _patterns(key: str, value: Any, place: Place) -> Any:
    """A regex that YAML read as a number is still a regex; pySigma takes text alone."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(v, str) for v in values):
        raise RefusalError(f"{key}: a regex is text: quote it", place.line)
    return value


_ENDS = {"contains", "startswith", "endswith"}


def _anchored(key: str, value: Any) -> tuple[str, Any]:
    """pySigma has contains, startswith and endswith pad a regex that must match from end to end. Ours is searched."""
    name, *used = key.split("|")
    begin = "(?-m:^)" if "startswith" in used else ""
    end = "(?-m:$)" if "endswith" in used else ""
    wrapped = [f"{begin}(?:{text}){end}" for text in (value if isinstance(value, list) else [value])]
    return "|".join([name, *(one for one in used if one not in _ENDS)]), wrapped


def _reason(error: SigmaError) -> str:
    """pySigma's, without the addresses of its objects."""
    text = str(error.args[0]) if error.args else type(error).__name__
    return re.sub(r"<sigma\.types\.Sigma(\w+) object at 0x[0-9a-f]+>", r"\1", text)
