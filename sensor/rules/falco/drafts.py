"""Falco's rules as Sigma documents, each compiled before anybody sees it."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from sensor.rules.falco import meaning, reading
from sensor.rules.falco.grammar import And, Check, Known, Not, Or, Tree, checks, simplified
from sensor.rules.ruleset import load

_LEVELS = {
    "emergency": "critical", "alert": "critical", "critical": "critical", "error": "high", "warning": "medium",
    "notice": "low", "info": "informational", "informational": "informational", "debug": "informational",
}  # fmt: skip
_TECHNIQUE = re.compile(r"T\d{4}(?:\.\d{3})?")
_TACTIC = re.compile(r"mitre_([a-z_]{3,40})")
_TACTICS = frozenset(
    {
        "reconnaissance", "resource-development", "initial-access", "execution", "persistence", "privilege-escalation",
        "defense-evasion", "credential-access", "discovery", "lateral-movement", "collection", "command-and-control",
        "exfiltration", "impact",
    }
)  # fmt: skip


class Draft(Struct, frozen=True):
    """`left_out`: checks without a counterpart, with what that makes of the draft."""

    name: str  # for a file, without a suffix
    rule: str  # Falco's name of it
    text: str
    left_out: tuple[str, ...]


class Converted(Struct, frozen=True):
    """`refused`: rule's name and why nothing came of it."""

    drafts: tuple[Draft, ...]
    refused: tuple[tuple[str, str], ...]


def convert(paths: Sequence[Path]) -> Converted:
    """Raises RuleError where a file is none of Falco's."""
    read = reading.rules(paths)
    drafts: list[Draft] = []
    refused = list(read.refused)
    for rule in read.rules:
        found = [draft for category in meaning.CATEGORIES if (draft := _draft(rule, category)) is not None]
        if not found:
            refused.append((rule.name, _why(rule.condition)))
        drafts += found
    whole, broken = _compiled(drafts)
    return Converted(tuple(whole), (*refused, *broken))


def _why(condition: Tree) -> str:
    types = sorted({value for check in checks(condition) if check.field == "evt.type" for value in check.values})
    if not types:
        return "names no type of event that a host's sensor has"
    return f"of {', '.join(types[:6])} nothing is left that could be looked for"


class _Writer:
    """Named detections, and the condition over them."""

    def __init__(self, category: str) -> None:
        self.category = category
        self.detection: dict[str, Any] = {}
        self.left_out: list[str] = []

    def written(self, tree: Tree, positive: bool = True, within: str = "and") -> str:
        """The condition's text; "" where nothing is left of it."""
        if isinstance(tree, Check):
            return self._check(tree, positive, within)
        if isinstance(tree, Not):
            # A negated check goes as a whole, out of what it stands in.
            text = self.written(tree.item, positive if isinstance(tree.item, Check) else not positive, within)
            return f"not {text}" if text else ""
        assert isinstance(tree, And | Or)
        word = "and" if isinstance(tree, And) else "or"
        groups, rest = self._groups(tree, positive, word)
        texts = [*groups, *(text for item in rest if (text := self.written(item, positive, word)))]
        if len(texts) < 2:
            return "".join(texts)
        return f"({f' {word} '.join(texts)})"

    def _groups(self, tree: And | Or, positive: bool, word: str) -> tuple[list[str], list[Tree]]:
        """Plain checks that Sigma writes as one detection: of several fields for `and`, of one for `or`."""
        rest: list[Tree] = []
        together: dict[str, list[Any]] = {}
        for item in tree.items:
            plain = isinstance(item, Check) and item.operator != "!="
            found = meaning.item(item, self.category) if plain else None  # type: ignore[arg-type]
            if found is None or (word == "and" and found[0] in together):
                rest.append(item)
            else:
                together.setdefault(found[0], []).extend(found[1])
        if word == "and":
            return ([self._named(together)] if together else []), rest
        return [self._named({key: values}) for key, values in together.items()], rest

    def _check(self, check: Check, positive: bool, within: str) -> str:
        found = meaning.item(check, self.category)
        if found is None:
            wider = (within == "and") is positive
            self.left_out.append(f"{check} (the draft matches {'more' if wider else 'less'} without it)")
            return ""
        name = self._named(dict([found]))
        return f"not {name}" if check.operator == "!=" else name

    def _named(self, items: dict[str, list[Any]]) -> str:
        value = {key: values[0] if len(values) == 1 else list(dict.fromkeys(values)) for key, values in items.items()}
        known = next((name for name, there in self.detection.items() if there == value), None)
        if known is not None:
            return known
        name = f"part_{len(self.detection) + 1}"
        self.detection[name] = value
        return name


def _placed(tree: Tree, category: str) -> Tree:
    if isinstance(tree, Check):
        return meaning.placed(tree, category)
    if isinstance(tree, Not):
        return Not(_placed(tree.item, category))
    if isinstance(tree, And | Or):
        return type(tree)(tuple(_placed(item, category) for item in tree.items))
    return tree


def _draft(rule: reading.Rule, category: str) -> Draft | None:
    """None where the rule is not about the category, or nothing of it is left there."""
    if not any(check.field == "evt.type" for check in checks(rule.condition)):
        return None
    tree = simplified(_placed(rule.condition, category))
    if isinstance(tree, Known):
        return None
    writer = _Writer(category)
    condition = writer.written(tree)
    if not condition or not writer.detection:
        return None
    left_out = tuple(dict.fromkeys(writer.left_out)) + (("exceptions",) if rule.exceptions else ())
    condition = condition[1:-1] if condition.startswith("(") and _one_pair(condition) else condition
    detection = {**writer.detection, "condition": condition}
    return Draft(_slug(f"{rule.name} {category}"), rule.name, _document(rule, category, detection, left_out), left_out)


def _one_pair(text: str) -> bool:
    """Whether the first parenthesis is closed by the last."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return at == len(text) - 1
    return False


def _document(rule: reading.Rule, category: str, detection: dict[str, Any], left_out: tuple[str, ...]) -> str:
    said = rule.description or f"{rule.name}, as Falco has it."
    if left_out:
        said += f" Without: {'; '.join(left_out)}."
    document = {
        "title": _printable(rule.name)[:100],
        "id": str(uuid.uuid4()),
        "status": "experimental",
        "description": _printable(said)[:4000],
        "author": "converted from Falco",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "tags": _tags(rule.tags),
        "logsource": {"product": "linux", "category": category},
        "detection": detection,
        "falsepositives": ["As of the rule that it was converted from."],
        "level": _LEVELS.get(rule.priority, "medium"),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110, indent=4)


def _tags(tags: tuple[str, ...]) -> list[str]:
    found = []
    for tag in tags:
        tactic = _TACTIC.fullmatch(tag)
        if tactic and (name := tactic[1].replace("_", "-")) in _TACTICS:
            found.append(f"attack.{name}")
        elif _TECHNIQUE.fullmatch(tag):
            found.append(f"attack.{tag.lower()}")
    return list(dict.fromkeys(found))


def _compiled(drafts: list[Draft]) -> tuple[list[Draft], list[tuple[str, str]]]:
    """Those that load, and the others with the compiler's reason."""
    if not drafts:
        return [], []
    with tempfile.TemporaryDirectory(prefix="pinfold-convert-") as folder:
        for number, draft in enumerate(drafts):
            Path(folder, f"{number:05}.yml").write_text(draft.text, encoding="utf-8")
        refused = load([folder], None, keep_going=True).refused
    broken: dict[int, str] = {}
    for line in refused:
        file, _, reason = line.partition(": ")
        broken[int(Path(file.partition(".yml")[0]).name)] = reason
    whole = [draft for number, draft in enumerate(drafts) if number not in broken]
    return whole, [(drafts[number].rule, reason) for number, reason in broken.items()]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:80]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
