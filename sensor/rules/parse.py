"""One Sigma rule from its YAML document: checked by pySigma, lowered by us, each fault with its line.

Only in the child: pySigma is heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from msgspec import Struct
from sigma import modifiers
from sigma.conditions import SigmaCondition
from sigma.exceptions import SigmaError, SigmaRuleLocation
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaDetections, SigmaRule

from sensor.events.detection import LEVELS
from sensor.rules import fields, ir, lower
from sensor.rules.document import Document, Place, RefusalError

# The specification's own name for what pySigma knows by its alias only.
modifiers.modifier_mapping.setdefault("utf16le", modifiers.SigmaWideModifier)

_KEYS = {"identifier": "id", "value": "tags"}  # of pySigma's exception names that differ from the key
_SCALARS = (str, int, float, bool, type(None))


class Parsed(Struct, frozen=True):
    """A rule that can be compiled. Texts as the author wrote them."""

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


def rule(document: Document) -> Parsed:
    """Raises RefusalError with the line of what is wrong."""
    data, place = document.data, document.place
    for key, what in (("filter", "filters"), ("action", "rule collections")):
        if key in data:
            raise RefusalError(f"{what} are not supported", place.at(key).line)
    category = _category(data, place)
    meta = metadata(data, place)
    return Parsed(
        id=str(meta.id),
        title=meta.title,
        level=meta.level.name.lower() if meta.level is not None else "",
        status=meta.status.name.lower() if meta.status is not None else "experimental",
        tags=tuple(str(tag) for tag in meta.tags),
        category=category,
        description=meta.description or "",
        falsepositives=tuple(map(str, meta.falsepositives or ())),
        references=tuple(map(str, meta.references or ())),
        expression=_detection(data.get("detection"), place, category),
    )


def _category(data: dict[str, Any], place: Place) -> str:
    source = data.get("logsource")
    at = place.at("logsource")
    if not isinstance(source, dict):
        raise RefusalError("logsource is missing or not a mapping", at.line)
    if source.get("product", "linux") != "linux":
        raise RefusalError(f"product {source['product']!r} is not linux", at.at("product").line)
    if "service" in source:
        raise RefusalError(f"service {source['service']!r} is not watched", at.at("service").line)
    category = source.get("category")
    if not isinstance(category, str) or category not in fields.CATEGORIES:
        known = ", ".join(fields.CATEGORIES)
        raise RefusalError(f"category {category!r} is not one of {known}", at.at("category").line)
    return category


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


def _detection(detection: Any, place: Place, category: str) -> ir.Expression:
    at = place.at("detection")
    if not isinstance(detection, dict):
        raise RefusalError("detection is missing or not a mapping", at.line)
    conditions = detection.get("condition")
    conditions = conditions if isinstance(conditions, list) else [conditions]
    if not conditions or not all(isinstance(text, str) and text for text in conditions):
        raise RefusalError("detection has no condition, or one that is not text", at.at("condition").line)
    if "timeframe" in detection:
        raise RefusalError("timeframe needs a correlation rule", at.at("timeframe").line)
    named = {str(name): _part(value, at.at(str(name))) for name, value in detection.items() if name != "condition"}
    if not named:
        raise RefusalError("detection names nothing to look for", at.line)
    # pySigma hands a condition's own source down to its leaves: without one they keep their lines.
    detections = SigmaDetections(detections=named, condition=list(conditions))
    whole = at.at("condition")
    several = isinstance(detection["condition"], list)
    trees = [_tree(text, detections, whole.item(i) if several else whole) for i, text in enumerate(conditions)]
    lowered = tuple(_lowered(tree, category, whole) for tree in trees)
    return lowered[0] if len(lowered) == 1 else ir.Or(lowered)


def _tree(text: str, detections: SigmaDetections, place: Place) -> Any:
    try:
        return SigmaCondition(text, detections).parse()
    except SigmaError as error:
        raise RefusalError(f"condition {text!r}: {_reason(error)}", place.line) from error
    except RecursionError as error:
        raise RefusalError("the condition is nested too deeply", place.line) from error


def _lowered(tree: Any, category: str, place: Place) -> ir.Expression:
    try:
        return lower.condition(tree, category)
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
    if isinstance(key, str) and "re" in key.split("|")[1:]:
        value = _patterns(key, value, place)
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


def _reason(error: SigmaError) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
