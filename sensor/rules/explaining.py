"""Why a rule matches an event or does not: each part of its condition, asked by itself.

A part is asked as a rule of its own, with the same compiler and engine: what explains is what decides. So this costs a
compilation, and is for people; imports pySigma, so not for the core.
"""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from sigma.conditions import ConditionAND, ConditionIdentifier, ConditionItem, ConditionNOT, ConditionSelector
from sigma.conditions import SigmaCondition as Condition
from sigma.rule import SigmaDetection, SigmaDetections

from sensor.errors import RuleError
from sensor.events.activity import Activity
from sensor.rules import fields
from sensor.rules.document import RefusalError, documents, read
from sensor.rules.engine import Engine
from sensor.rules.ruleset import load

MOST_VALUES = 100  # of one item that are asked singly
MOST_PARTS = 2000
_PART = "part"
_STANDING_IN = SigmaDetection.from_definition({"Image": "x"})


class Node(Struct):
    """`text` as the rule has it; `value` what the event has there, for an item of one field."""

    text: str
    matched: bool
    value: str = ""
    parts: list[Node] = []


class Explained(Struct, frozen=True):
    rule_id: str
    title: str
    matched: bool
    tree: Node


class _Asked:
    """Parts to be asked, collected first, since compiling them together takes one child."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._frame: dict[str, Any] = {key: document[key] for key in ("title", "level", "logsource") if key in document}
        self._parts: list[dict[str, Any]] = []

    def add(self, definition: Any) -> str:
        """The id by which the answer is found."""
        if len(self._parts) >= MOST_PARTS:
            raise RuleError(f"the rule has more than {MOST_PARTS} parts: split it")
        id_ = str(uuid.uuid4())
        detection = {_PART: definition, "condition": _PART}
        self._parts.append({**self._frame, "id": id_, "detection": detection})
        return id_

    def answer(self, event: Activity) -> frozenset[str]:
        """Ids of the parts that match. One that cannot stand alone, or not in this category, matches nothing."""
        with tempfile.TemporaryDirectory(prefix="pinfold-explain-") as folder:
            for number, part in enumerate(self._parts):
                text = yaml.safe_dump(part, allow_unicode=True, sort_keys=False, width=10**6)
                Path(folder, f"{number:05}.yml").write_text(text, encoding="utf-8")
            ruleset = load([folder], None, keep_going=True)
        return frozenset(rule.id for rule in Engine(ruleset, prefilter=False).match(event))


def document_of(file: str, rule_id: str) -> dict[str, Any]:
    """The rule's document. Raises RuleError."""
    try:
        for document in documents(read(Path(file))):
            if str(document.data.get("id", "")).casefold() == rule_id.casefold():
                return document.data
    except RefusalError as error:
        raise RuleError(f"{file}:{error.line}: {error.reason}") from error
    raise RuleError(f"{file}:1: holds no rule {rule_id}")


def explain(document: dict[str, Any], event: Activity) -> Explained:
    """`document` is that of a rule that loads. Raises RuleError for a correlation, which no single event decides."""
    detection = document.get("detection")
    if not isinstance(detection, dict):
        raise RuleError(f"{document.get('title')}: a correlation: explain the rules that it names, by themselves")
    asked = _Asked(document)
    named = {str(name): _Part.of(part, asked) for name, part in detection.items() if name != "condition"}
    conditions = detection.get("condition")
    texts = [str(text) for text in (conditions if isinstance(conditions, list) else [conditions])]
    stand_in = SigmaDetections(detections=dict.fromkeys(named, _STANDING_IN), condition=texts)
    matched = asked.answer(event)
    trees = [
        _node(Condition(text, stand_in).parse(postprocess=False), named, stand_in, matched, event) for text in texts
    ]
    tree = trees[0] if len(trees) == 1 else _joined("or", trees, any(tree.matched for tree in trees))
    return Explained(str(document.get("id", "")), str(document.get("title", "")), tree.matched, tree)


class _Part(Struct):
    """A named detection, a list's item, a mapping's item, or one of several values, with the id of its answer."""

    text: str
    id: str
    field: str = ""
    parts: list[_Part] = []
    every: bool = False  # of `parts`, all must match

    @staticmethod
    def of(definition: Any, asked: _Asked, text: str = "") -> _Part:
        id_ = asked.add(definition)
        if isinstance(definition, dict):
            items = [_Part.item(str(key), value, asked) for key, value in definition.items()]
            return _Part(text, id_, parts=items, every=True)
        if isinstance(definition, list) and any(isinstance(one, dict) for one in definition):
            return _Part(text, id_, parts=[_Part.of(one, asked, "alternative") for one in definition])
        values = definition if isinstance(definition, list) else [definition]
        return _Part(text or f"keywords {_shown(values)}", id_)

    @staticmethod
    def item(key: str, value: Any, asked: _Asked) -> _Part:
        field, _, modifiers = key.partition("|")
        values = value if isinstance(value, list) else [value]
        every = "all" in modifiers.split("|")
        part = _Part(f"{key}: {_shown(values, every)}", asked.add({key: value}), field, every=every)
        if 1 < len(values) <= MOST_VALUES:
            alone = "|".join(filter(None, (field, *(word for word in modifiers.split("|") if word != "all"))))
            part.parts = [_Part(f"{one!r}", asked.add({alone: one})) for one in values]
        return part

    def node(self, name: str, matched: frozenset[str], event: Activity) -> Node:
        found = Node(name or self.text, self.id in matched, _value(self.field, event))
        if self.field:
            # Of many values those that match are told, or where all must, those that do not.
            telling = [one for one in self.parts if (one.id in matched) is not self.every]
            found.parts = [Node(one.text, one.id in matched) for one in telling]
        else:
            found.parts = [one.node("", matched, event) for one in self.parts]
        return found


def _node(tree: Any, named: dict[str, _Part], all_: SigmaDetections, matched: frozenset[str], event: Activity) -> Node:
    if isinstance(tree, ConditionIdentifier):
        return named[tree.identifier].node(tree.identifier, matched, event)
    if isinstance(tree, ConditionSelector):
        found = [_node(one, named, all_, matched, event) for one in tree.resolve_referenced_detections(all_)]
        every = tree.cond_class is ConditionAND
        said = f"{'all' if every else '1'} of {tree.pattern}"
        return _joined(said, found, (all if every else any)(one.matched for one in found))
    assert isinstance(tree, ConditionItem)
    parts = [_node(one, named, all_, matched, event) for one in tree.args]
    if isinstance(tree, ConditionNOT):
        return _joined("not", parts, not parts[0].matched)
    every = isinstance(tree, ConditionAND)
    return _joined("and" if every else "or", parts, (all if every else any)(one.matched for one in parts))


def _joined(text: str, parts: list[Node], matched: bool) -> Node:
    return Node(text, matched, parts=parts)


def _shown(values: list[Any], every: bool = False) -> str:
    return (
        f"{'all' if every else 'one'} of {len(values)}" if len(values) > 1 else repr(values[0]) if values else "nothing"
    )


def _value(name: str, event: Activity) -> str:
    """What the event has there; "" where it has no such field, and where that is empty."""
    field = fields.of_category(event.category).get(name)
    value = getattr(event, field.attribute, "") if field is not None else ""
    return str(value) if value != "" else ""
