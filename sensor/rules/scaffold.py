"""A rule and its examples, made of an event: what is likely to be the same the next time, and near misses of it.

Everything in the event is the sandbox's to choose, and becomes text of a YAML document and nothing else: wildcards are
escaped, and words that a rule looks for are taken from a small alphabet. The draft is a beginning, not a judgement.
"""

from __future__ import annotations

import tempfile
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from sensor.errors import RuleError
from sensor.events.activity import Activity, ProcessCreation
from sensor.rules import stable
from sensor.rules.stable import Chosen
from sensor.rules.testing import run_examples

_MOST_TITLE = 100
_PLACES = ("/opt/tools", "/srv/app/bin")


class _Dumper(yaml.SafeDumper):
    """Lists stand further in than their key, as Sigma's own rules have it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


class Draft(Struct, frozen=True):
    rule: str
    examples: str


def draft(event: Activity, title: str, tags: tuple[str, ...], today: str = "") -> Draft:
    """`tags` empty: those that fit the category. Raises RuleError where its own examples would not hold."""
    chosen = stable.choose(event)
    if not chosen.detection:
        raise RuleError(f"a rule cannot be made of this {event.category}: it has no field that says what was done")
    title = _printable(title or chosen.title)[:_MOST_TITLE].rstrip()
    tags = tags or stable.TAGS[event.category]
    technique = next((tag[7:].upper() for tag in tags if tag.startswith("attack.t") and tag[8:9].isdigit()), "")
    document = {
        "title": title,
        "id": str(uuid.uuid4()),
        "status": "experimental",
        "description": _printable(chosen.description),
        "references": [f"https://attack.mitre.org/techniques/{technique.replace('.', '/')}/"] if technique else [],
        "author": "pinfold rules new",
        "date": today or f"{datetime.now(UTC):%Y-%m-%d}",
        "tags": list(tags),
        "logsource": {"product": "linux", "category": event.category},
        "detection": {**chosen.detection, "condition": " and ".join(chosen.detection)},
        "falsepositives": ["Work that does the same for a reason; say here which."],
        "level": "medium",
        "response": "review: look at what the sandbox was asked to do",
    }
    if not technique:
        del document["references"]
    made = Draft(_yaml(document), "# As it was recorded, and near misses of it.\n" + _yaml(_examples(event, chosen)))
    _check(made)
    return made


def _examples(event: Activity, chosen: Chosen) -> dict[str, list[dict[str, Any]]]:
    told = {name: getattr(event, name) for name in chosen.shown}
    seen = {name: value for name, value in told.items() if isinstance(value, bool) or value not in ("", 0)}
    match = [_example("as it was recorded", seen), _example("somewhere else", _elsewhere(event, seen))]
    misses = [_example(f"another {name}", {**seen, name: _other(seen.get(name))}) for name in chosen.telling]
    if isinstance(event, ProcessCreation) and chosen.words:
        bare = f"{event.CommandLine.split(' ')[0]} --version"
        misses.append(_example("the same program, asked for something else", {**seen, "CommandLine": bare}))
    if chosen.program:
        other: dict[str, Any] = {name: "/usr/bin/true" for name in ("Image", "ImageInvoked") if name in seen}
        line: dict[str, Any] = {"CommandLine": "/usr/bin/true"} if chosen.script else {}
        misses.append(_example("another program", {**seen, **other, **line}))
    return {"match": match, "no_match": misses}


def _elsewhere(event: Activity, seen: dict[str, Any]) -> dict[str, Any]:
    """Another user, in other folders: what a rule must not depend on."""
    moved = dict(seen)
    for name in ("Image", "ImageInvoked"):
        if name in moved:
            moved[name] = f"{_PLACES[0]}/{str(moved[name]).rpartition('/')[2]}"
    return {**moved, "User": "builder", "CurrentDirectory": _PLACES[1]}


def _example(name: str, event: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "event": event}


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1
    return "something-else"


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, indent=4))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _check(made: Draft) -> None:
    with tempfile.TemporaryDirectory(prefix="pinfold-new-") as folder:
        rule = Path(folder, "draft.yml")
        write(made, rule)
        wrong = [result for result in run_examples([rule]) if not result.ok]
    if wrong:
        raise RuleError(f"no rule can be made of this event: {wrong[0].example}: {wrong[0].reason}")


def write(made: Draft, rule: Path) -> None:
    """Both files, neither of which may be there. Raises FileExistsError."""
    for path, text in ((rule, made.rule), (rule.with_suffix(".events.yaml"), made.examples)):
        with path.open("x", encoding="utf-8") as file:
            file.write(text)


def known_tags(record: dict[str, Any]) -> tuple[str, ...]:
    """Of the rule that a detection names: the draft is a variant of it."""
    rule = record.get("rule")
    tags = rule.get("tags") if isinstance(rule, dict) else None
    found = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return tuple(tag for tag in found if tag.startswith(("attack.", "atlas.")) and stable.plain(tag))
