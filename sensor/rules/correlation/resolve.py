"""References of correlations looked up, fields checked, cycles refused; when the files' units are joined."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sensor.rules import fields
from sensor.rules.correlation.draft import Draft
from sensor.rules.correlation.model import Correlation, Key, Part
from sensor.rules.refusal import Refusal

if TYPE_CHECKING:
    from sensor.rules.unit import Compiled, Unit


class _FaultError(Exception):
    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


class _DormantError(Exception):
    """It refers to what can match no event."""


class Resolved(Struct, frozen=True):
    """`silent`: ids of what is only referred to, and does not detect by itself. `refused` and `dormant`:
    `file:line: reason`."""

    correlations: tuple[Correlation, ...]
    silent: tuple[str, ...]
    refused: tuple[str, ...]
    dormant: tuple[str, ...]


class References:
    """Takes rules and correlations as units are joined, and resolves them when all are."""

    def __init__(self) -> None:
        self._rules: dict[str, list[Compiled]] = {}  # one for each category
        self._dormant: set[str] = set()  # ids of rules
        self._drafts: dict[str, Draft] = {}
        self._names: dict[str, str] = {}  # names and ids → ids
        self._done: dict[str, Correlation] = {}
        self._refused: dict[str, str] = {}
        self._asleep: dict[str, str] = {}
        self._under_way: list[str] = []

    def rules(self, unit: Unit, compiled: Sequence[Compiled]) -> list[Refusal]:
        """What is wrong with their names."""
        for dormant in unit.dormant:
            self._dormant.add(dormant.id)
            self._names[dormant.id] = dormant.id
            if dormant.name:
                self._names.setdefault(dormant.name, dormant.id)
        wrong = []
        for one in compiled:
            self._rules.setdefault(one.rule.id, []).append(one)
            wrong += self._name(one.rule.id, one.name, one.name_line)
        return wrong

    def correlations(self, drafts: Iterable[Draft]) -> list[Refusal]:
        """What is wrong with their names: such a one is not loaded."""
        wrong = []
        for one in drafts:
            faults = self._name(one.id, one.name, one.at.name)
            if not faults:
                self._drafts[one.id] = one
            wrong += faults
        return wrong

    def _name(self, identity: str, name: str, line: int) -> list[Refusal]:
        self._names[identity] = identity
        if name and self._names.setdefault(name, identity) != identity:
            return [Refusal(line, f"name {name!r} is also that of {self._names[name]}")]
        return []

    def resolve(self) -> Resolved:
        for identity in self._drafts:
            self._correlation(identity)
        done = tuple(self._done.values())  # what is referred to stands before who refers to it
        silent = {part.rule: None for each in done if not each.generate for part in each.parts}
        return Resolved(done, tuple(silent), tuple(self._refused.values()), tuple(self._asleep.values()))

    def _correlation(self, identity: str) -> None:
        made = self._drafts[identity]
        if identity in self._done or identity in self._refused or identity in self._asleep:
            return
        self._under_way.append(identity)
        try:
            self._done[identity] = self._made(identity, made)
        except _FaultError as error:
            self._refused[identity] = f"{made.file}:{error.line or made.line}: {error.reason}"
        except _DormantError as error:
            self._asleep[identity] = f"{made.file}:{made.line}: {' '.join(made.title.split())}: {error}"
        finally:
            self._under_way.pop()

    def _made(self, identity: str, made: Draft) -> Correlation:
        ids = [self._referred(reference, made) for reference in made.references]
        order = list(dict.fromkeys(ids))
        aliases = self._aliases(made, order)
        group_line, field_line = made.at.group_by, made.at.field
        number = made.type != "value_count"
        parts = tuple(
            Part(
                each,
                tuple(self._key(each, name, aliases, group_line) for name in made.group_by),
                tuple(self._key(each, name, aliases, field_line, number=number) for name in made.fields),
            )
            for each in order
        )
        renumbered = [order.index(each) for each in ids]
        found = Correlation(
            id=identity,
            title=made.title,
            level=made.level,
            status=made.status,
            tags=made.tags,
            file=made.file,
            description=made.description,
            falsepositives=made.falsepositives,
            references=made.links,
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
        line = made.at.rules
        identity = self._names.get(reference)
        if identity in self._dormant:
            raise _DormantError(f"it refers to {reference!r}, which can match no event")
        if identity is None or (identity not in self._rules and identity not in self._drafts):
            raise _FaultError(f"refers to {reference!r}, which no loaded rule has as its id or name", line)
        if identity in self._drafts:
            if identity in self._under_way:
                circle = [*self._under_way[self._under_way.index(identity) :], identity]
                raise _FaultError(f"refers to itself: {' → '.join(self._drafts[each].title for each in circle)}", line)
            self._correlation(identity)
            if identity in self._asleep:
                raise _DormantError(f"it refers to {reference!r}, which can match no event")
            if identity not in self._done:
                raise _FaultError(f"refers to {reference!r}, which is refused", line)
        return identity

    def _aliases(self, made: Draft, order: list[str]) -> dict[str, dict[str, str]]:
        """Alias → id → field."""
        line = made.at.aliases
        found: dict[str, dict[str, str]] = {}
        for alias, mapping in made.aliases.items():
            for reference, name in mapping.items():
                identity = self._names.get(reference, "")
                if identity not in order:
                    raise _FaultError(f"alias {alias!r} names {reference!r}, which is not among its rules", line)
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
                raise _FaultError(fields.why_absent(category, wanted), line)
            if number and table[wanted].kind != "number":
                raise _FaultError(f"{wanted} of {category} is {table[wanted].kind}, not a number", line)
            attributes[table[wanted].attribute] = None
        if len(attributes) != 1:
            raise _FaultError(f"{wanted!r} is not one field of all that it refers to: group by it there too", line)
        return Key(attribute=next(iter(attributes)))

    def _categories(self, rule: str) -> Iterable[str]:
        if rule in self._rules:
            return {one.rule.category for one in self._rules[rule]}
        return {category for part in self._done[rule].parts for category in self._categories(part.rule)}

    def _digest(self, made: Correlation) -> str:
        digest = hashlib.sha256(msgspec.json.encode(replace(made, title="", file="", description="")))
        for part in made.parts:
            known = self._rules.get(part.rule)
            texts = [b"%s %s" % (one.rule.category.encode(), one.expression) for one in known or ()]
            for text in texts or [self._done[part.rule].digest.encode()]:
                digest.update(hashlib.sha256(text).digest())
        return digest.hexdigest()
