"""Rule sets of any size: the shipped rules, and variants of them with other words in the same shapes.

A variant keeps a rule's fields, modifiers, condition and the syntax of its regexes. Of the words in its values about
half stay, so that work which meets the rule's index still meets the variant's; the others become words of other shipped
rules, or words that nothing has. A word of everyday command lines becomes another one of these, and a rare word a rare
one: a rule for `stratum` has no variant for `usr`, which nobody would write. What is drawn from a few values
(protocols, phases, verdicts) stays as it is."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sensor.rules import ordinary
from sensor.rules.files import rule_files
from tests.bench.harness import BenchError

_NAMESPACE = uuid.UUID("a7f8d3a2-54f0-4f3e-9a3c-0d6b5c1c2f10")
# A word of a value or a regex: not an escape (\s), not a class ([:alpha:]), not a group's name or flags.
_WORD = re.compile(r"(?<![\\:?<\w])[A-Za-z]{3,}(?![\w:>])")
_NUMBER = re.compile(r"(?<![\w\\{,.-])[1-9]\d{2,4}(?![\w},.-])")
_FREE = frozenset({
    "Image", "ImageInvoked", "CommandLine", "ParentImage", "ParentCommandLine", "EntryImage", "EntryCommandLine",
    "CurrentDirectory", "DestinationHostname", "DestinationPath", "DestinationPort", "SourcePort", "ServerName",
    "QueryName", "QueryResults", "Path", "Software", "TargetFilename", "SourceFilename", "Domain",
    "RegisteredDomain", "ProtocolUser", "ProtocolTarget",
})  # fmt: skip


_EVERYDAY = "\n".join(ordinary.LINES).lower()


def everyday(word: str) -> bool:
    return word.lower() in _EVERYDAY


def write(rules: Path, folder: Path, count: int, seed: int = 1) -> list[Path]:
    """`count` rules into `folder`, a file each: of the shipped ones first, then variants, in turn of the shipped."""
    shipped = [path.read_text(encoding="utf-8") for path in rule_files([rules])]
    documents = [document for text in shipped for document in yaml.safe_load_all(text) if _plain(document)]
    if not documents:
        raise BenchError(f"no rules in {rules}")
    words: dict[bool, list[str]] = {True: [], False: []}
    for found in sorted({word for document in documents for word in _words(document["detection"])}):
        words[everyday(found)].append(found)
    written = []
    for number in range(count):
        turn, at = divmod(number, len(documents))
        document = documents[at] if not turn else varied(documents[at], words, f"{seed}/{turn}/{at}")
        path = folder / f"{number:05}.yml"
        path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000), encoding="utf-8")
        written.append(path)
    return written


def _plain(document: Any) -> bool:
    return isinstance(document, dict) and "detection" in document and "logsource" in document


def varied(document: dict[str, Any], words: dict[bool, list[str]], seed: str) -> dict[str, Any]:
    """The same rule about something else. `words`: everyday ones, and others."""
    chance = random.Random(seed)  # noqa: S311 (variety, not secrets)
    chosen: dict[str, str] = {}

    def word(match: re.Match[str]) -> str:
        old = match.group()
        if old not in chosen:
            drawn = chance.random()
            other = (
                chance.choice(words[everyday(old)])
                if drawn < 0.75
                else "".join(chance.choices("bdfgklmnprtvz", k=len(old)))
            )
            chosen[old] = old if drawn < 0.5 else other
        return chosen[old]

    def number(match: re.Match[str]) -> str:
        return str(chance.randrange(1024, 65536))

    def value(item: Any) -> Any:
        if isinstance(item, list):
            return [value(part) for part in item]
        if isinstance(item, bool) or item is None:
            return item
        if isinstance(item, int):
            return int(_NUMBER.sub(number, str(item)))
        return _NUMBER.sub(number, _WORD.sub(word, item)) if isinstance(item, str) else item

    def part(item: Any) -> Any:
        if isinstance(item, list):
            return [part(one) for one in item]
        if not isinstance(item, dict):
            return value(item)
        return {key: value(held) if key.partition("|")[0] in _FREE else held for key, held in item.items()}

    detection = {name: held if name == "condition" else part(held) for name, held in document["detection"].items()}
    title = f"{document['title'][:200]}, variant {seed}"
    document = {key: held for key, held in document.items() if key != "name"}  # of which there is one
    return {**document, "id": str(uuid.uuid5(_NAMESPACE, seed)), "title": title, "detection": detection}


def _words(item: Any) -> Iterator[str]:
    if isinstance(item, dict):
        for key, held in item.items():
            if key != "condition":
                yield from _words(held)
    elif isinstance(item, list):
        for held in item:
            yield from _words(held)
    elif isinstance(item, str):
        yield from _WORD.findall(item)
