"""Sigma's meaning of a detection, written once more from the specification, slowly: what the engine is compared with.

Plain Python over the rule's own YAML and a dict of fields: neither pySigma nor our expressions. ASCII only.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

Event = Mapping[str, Any]
DASHES = "-/\N{EN DASH}\N{EM DASH}\N{HORIZONTAL BAR}"


def search(definition: Any, event: Event) -> bool:
    """One search: a map is all of its items, a list any of its members, a scalar a keyword."""
    if isinstance(definition, dict):
        return all(item(key, value, event) for key, value in definition.items())
    members = definition if isinstance(definition, list) else [definition]
    return any(search(member, event) if isinstance(member, dict) else keyword(str(member), event) for member in members)


def keyword(text: str, event: Event) -> bool:
    pattern = compiled(text, {"contains"})
    return any(pattern.match(str(event[name])) for name in ("Image", "CommandLine", "ImageInvoked"))


def item(key: str, value: Any, event: Event) -> bool:
    name, *modifiers = key.split("|")
    values = value if isinstance(value, list) else [value]
    matched = [one(event.get(name), wanted, modifiers, event) for wanted in values]
    found = all(matched) if "all" in modifiers else any(matched)
    return not found if "neq" in modifiers else found


def one(found: Any, wanted: Any, modifiers: list[str], event: Event) -> bool:  # noqa: PLR0911  # a case a line
    null = found is None or found == ""
    if "exists" in modifiers:
        return null is not wanted
    if wanted is None:
        return null
    if found is None:
        return False
    for compare, holds in (("lt", int.__lt__), ("lte", int.__le__), ("gt", int.__gt__), ("gte", int.__ge__)):
        if compare in modifiers:
            return bool(holds(found, wanted))
    if isinstance(found, bool):
        return str(found).lower() == str(wanted).lower()
    if "re" in modifiers:
        return regex(str(found), wanted, modifiers)
    if "fieldref" in modifiers:
        other = event.get(wanted)
        return other is not None and str(found).lower() == str(other).lower()
    return any(compiled(text, set(modifiers)).match(str(found)) for text in texts(str(wanted), modifiers))


def regex(found: str, wanted: str, modifiers: list[str]) -> bool:
    flags = sum(getattr(re, flag.upper()) for flag in "ims" if flag in modifiers)
    # RE2's $ is the end, Python's also what is before a last newline.
    pattern = wanted if "m" in modifiers else wanted.replace("$", r"\Z")
    return re.search(pattern, found, flags) is not None


def texts(text: str, modifiers: list[str]) -> list[str]:
    """With windash, each dash that begins a word in each of its forms."""
    places = [m.start() for m in re.finditer(r"\B[-/]\b", text)] if "windash" in modifiers else []
    found = [text]
    for place in places:
        found = [t[:place] + dash + t[place + 1 :] for t in found for dash in DASHES]
    return found


def compiled(text: str, modifiers: set[str]) -> re.Pattern[str]:
    """Whole text. A backslash makes a plain character of *, ? and another backslash; before any other it is one."""
    if text.strip("*") == "" != text:
        return re.compile(r"(?s:.+)")  # Sigma's back-ends: the field is there
    pattern, at = "", 0
    while at < len(text):
        rest = text[at:]
        escape = re.match(r"\\[*?\\]", rest)
        if escape:
            pattern += re.escape(rest[1])
            at += 2
            continue
        pattern += {"*": "(?s:.*)", "?": "(?s:.)"}.get(rest[0], re.escape(rest[0]))
        at += 1
    before = "(?s:.*)" if {"contains", "endswith"} & modifiers else ""
    after = "(?s:.*)" if {"contains", "startswith"} & modifiers else ""
    return re.compile(rf"{before}{pattern}{after}\Z", 0 if "cased" in modifiers else re.IGNORECASE)


def condition(text: str, searches: Mapping[str, Any], event: Event) -> bool:
    """By Python's own and, or and not, which bind as Sigma's do."""
    names = {name: search(definition, event) for name, definition in searches.items()}

    def quantified(match: re.Match[str]) -> str:
        pattern = "*" if match[2] == "them" else match[2]
        of = [held for name, held in names.items() if fnmatch.fnmatchcase(name, pattern) and name[0] != "_"]
        return str(all(of) if match[1] == "all" else any(of))

    text = re.sub(r"\b(1|any|all) of ([\w*]+)", quantified, text)
    return bool(eval(text, {"__builtins__": {}}, names))  # noqa: S307  # a condition that the test itself made
