"""References of correlations looked up, fields checked, cycles refused. Only in the child."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sensor.rules import fields
from sensor.rules.correlation.model import Correlation, Key, Part
from sensor.rules.correlation.parse import Draft, draft
from sensor.rules.document import Document, RefusalError
from sensor.rules.parse import Parsed


class Resolved(Struct, frozen=True):
    """`silent`: ids of what is only referred to, and does not detect by itself. `refused`: file, line, reason."""

    correlations: tuple[Correlation, ...]
    silent: tuple[str, ...]
    refused: tuple[tuple[Path, int, str], ...]


class References:
    """Takes rules and correlations while files are read, and resolves them when all are."""

    def __init__(self) -> None:
        self._rules: dict[str, Parsed] = {}
        self._drafts: dict[str, Draft] = {}
        self._names: dict[str, str] = {}  # names and ids → ids
        self._done: dict[str, Correlation] = {}
        self._refused: dict[str, tuple[Path, int, str]] = {}
        self._under_way: list[str] = []

    def rule(self, parsed: Parsed, document: Document) -> None:
        self._name(parsed.id, document)
        self._rules[parsed.id] = parsed

    def correlation(self, path: Path, document: Document) -> str:
        """Its id. Raises RefusalError."""
        made = draft(path, document)
        found = str(made.meta.id)
        if found in self._drafts or found in self._rules:
            raise RefusalError(f"id {found} is also that of another rule", document.place.at("id").line)
        self._name(found, document)
        self._drafts[found] = made
        return found

    def _name(self, identity: str, document: Document) -> None:
        name = document.data.get("name")
        if isinstance(name, str) and name:
            if self._names.get(name, identity) != identity:
                raise RefusalError(f"name {name!r} is also that of {self._names[name]}", document.place.at("name").line)
            self._names[name] = identity
        self._names[identity] = identity

    def resolve(self) -> Resolved:
        for identity in self._drafts:
            self._correlation(identity)
        done = tuple(self._done.values())  # what is referred to stands before who refers to it
        silent = {part.rule: None for each in done if not each.generate for part in each.parts}
        return Resolved(done, tuple(silent), tuple(self._refused.values()))

    def _correlation(self, identity: str) -> None:
        made = self._drafts[identity]
        if identity in self._done or identity in self._refused:
            return
        self._under_way.append(identity)
        try:
            self._done[identity] = self._made(identity, made)
        except RefusalError as error:
            self._refused[identity] = (made.path, error.line or made.line, error.reason)
        finally:
            self._under_way.pop()

    def _made(self, identity: str, made: Draft) -> Correlation:
        ids = [self._referred(reference, made) for reference in made.references]
        order = list(dict.fromkeys(ids))
        aliases = self._aliases(made, order)
        group_line = made.place.at("group-by").line
        field_line = made.place.at("condition").at("field").line
        number = made.type != "value_count"
        parts = tuple(
            Part(
                each,
                tuple(self._key(each, name, aliases, group_line) for name in made.group_by),
                tuple(self._key(each, name, aliases, field_line, number=number) for name in made.fields),
            )
            for each in order
        )
        meta = made.meta
        renumbered = [order.index(each) for each in ids]
        found = Correlation(
            id=identity,
            title=meta.title,
            level=meta.level.name.lower(),
            status=meta.status.name.lower() if meta.status is not None else "experimental",
            tags=tuple(map(str, meta.tags)),
            file=str(made.path),
            description=meta.description or "",
            falsepositives=tuple(map(str, meta.falsepositives or ())),
            references=tuple(map(str, meta.references or ())),
            type=made.type,
            timespan_ns=made.timespan_ns,
            parts=parts,
            group_by=made.group_by,
            bounds=made.bounds,
            alternatives=tuple(
                replace(
                    each,
                    wanted=tuple(renumbered[n] for n in each.wanted),
                    barred=tuple(renumbered[n] for n in each.barred),
                )
                for each in made.alternatives
            ),
            percentile=made.percentile,
            across_sandboxes=made.across_sandboxes,
            generate=made.generate,
            digest="",
        )
        return replace(found, digest=self._digest(found))

    def _referred(self, reference: str, made: Draft) -> str:
        line = (
            made.place.at("rules").line if made.place.at("rules") is not made.place else made.place.at("condition").line
        )
        identity = self._names.get(reference)
        if identity is None or (identity not in self._rules and identity not in self._drafts):
            raise RefusalError(f"refers to {reference!r}, which no loaded rule has as its id or name", line)
        if identity in self._drafts:
            if identity in self._under_way:
                circle = [*self._under_way[self._under_way.index(identity) :], identity]
                raise RefusalError(
                    f"refers to itself: {' → '.join(self._drafts[each].meta.title for each in circle)}", line
                )
            self._correlation(identity)
            if identity not in self._done:
                raise RefusalError(f"refers to {reference!r}, which is refused", line)
        return identity

    def _aliases(self, made: Draft, order: list[str]) -> dict[str, dict[str, str]]:
        """Alias → id → field."""
        line = made.place.at("aliases").line
        found: dict[str, dict[str, str]] = {}
        for alias, mapping in made.aliases.items():
            for reference, name in mapping.items():
                identity = self._names.get(reference, "")
                if identity not in order:
                    raise RefusalError(f"alias {alias!r} names {reference!r}, which is not among its rules", line)
                found.setdefault(alias, {})[identity] = name
        return found

    def _key(self, rule: str, name: str, aliases: dict[str, dict[str, str]], line: int, *, number: bool = False) -> Key:
        wanted = aliases.get(name, {}).get(rule, name)
        child = self._done.get(rule)
        if child is not None and wanted in child.group_by:
            return Key(child=child.group_by.index(wanted))
        attributes: dict[str, None] = {}
        for category in sorted(self._categories(rule)):
            table = fields.of_category(category)
            if wanted not in table:
                raise RefusalError(fields.why_absent(category, wanted), line)
            if number and table[wanted].kind != "number":
                raise RefusalError(f"{wanted} of {category} is {table[wanted].kind}, not a number", line)
            attributes[table[wanted].attribute] = None
        if len(attributes) != 1:
            raise RefusalError(f"{wanted!r} is not one field of all that it refers to: group by it there too", line)
        return Key(attribute=next(iter(attributes)))

    def _categories(self, rule: str) -> Iterable[str]:
        if rule in self._rules:
            return {self._rules[rule].category}
        return {category for part in self._done[rule].parts for category in self._categories(part.rule)}

    def _digest(self, made: Correlation) -> str:
        digest = hashlib.sha256(msgspec.json.encode(replace(made, title="", file="", description="")))
        for part in made.parts:
            known = self._rules.get(part.rule)
            text = self._done[part.rule].digest if known is None else f"{known.category} {known.expression!r}"
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        return digest.hexdigest()
