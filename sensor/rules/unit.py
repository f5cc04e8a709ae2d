"""What one rule file gives, compiled: kept by the digest of its content, so that a change costs one file's work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from sensor.rules import ir
from sensor.rules.correlation.draft import Draft
from sensor.rules.need import AtomKind, Branch
from sensor.rules.places import Cover
from sensor.rules.pushdown import Wants
from sensor.rules.refusal import Refusal


class Rule(Struct, frozen=True):
    """What a rule says of itself. `id` is its UUID, `level` one of detection.LEVELS."""

    id: str
    title: str
    level: str
    status: str
    tags: tuple[str, ...]
    file: str
    category: str
    description: str
    falsepositives: tuple[str, ...]
    references: tuple[str, ...]


class Compiled(Struct, frozen=True):
    """A rule that can be run. What is seldom asked for stays encoded: a thousand rules' trees are many objects."""

    rule: Rule
    line: int  # where its document begins
    name: str  # by which correlations may refer to it; "" of none
    name_line: int
    source: str  # Python, as `compile.source` wrote it
    code: bytes  # the same, marshalled for this interpreter
    needs: bytes  # clauses of each branch
    expression: bytes  # simplified
    wants: Wants
    cover: Cover
    calls: tuple[int, ...]  # numbers of the system calls that it is about
    indexed: bool  # false: it is evaluated for every event of its category
    digest: str  # of everything that decides what it matches, and how it is told


class Dormant(Struct, frozen=True):
    """A rule that is right, and can match no event of ours."""

    id: str
    line: int
    name: str
    reason: str  # its title, and what is missing


class Unit(Struct, frozen=True):
    """`content`: the digest of the bytes that were read. `rules`: a rule for several categories is there once for each,
    under the same id. `filters`: lines of its own filters. `narrowed`: `file:line` of those that its rules took."""

    file: str
    content: str
    rules: tuple[Compiled, ...] = ()
    refused: tuple[Refusal, ...] = ()
    warnings: tuple[Refusal, ...] = ()
    dormant: tuple[Dormant, ...] = ()
    filters: tuple[int, ...] = ()
    narrowed: tuple[str, ...] = ()
    drafts: tuple[Draft, ...] = ()  # of correlations


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(b"%d " % len(part) + part for part in parts)).hexdigest()


def encode_needs(branches: Iterable[Branch]) -> bytes:
    """In one order: a set's is another in each process, and the rule that did not change would be another one."""
    return msgspec.msgpack.encode(
        [
            [
                sorted(((atom.attribute, atom.kind, atom.value) for atom in clause), key=repr)
                for clause in branch.clauses
            ]
            for branch in branches
        ]
    )


def needs_of(compiled: Compiled) -> list[list[list[tuple[str, AtomKind, Any]]]]:
    """The clauses of each of its branches, as the index wants them."""
    return _needs().decode(compiled.needs)


@lru_cache(maxsize=1)
def _needs() -> msgspec.msgpack.Decoder[list[list[list[tuple[str, AtomKind, Any]]]]]:
    return msgspec.msgpack.Decoder(list[list[list[tuple[str, AtomKind, Any]]]])


@lru_cache(maxsize=1)
def _expressions() -> msgspec.msgpack.Decoder[ir.Expression]:
    return msgspec.msgpack.Decoder(ir.Expression)


def expression_of(compiled: Compiled) -> ir.Expression:
    return _expressions().decode(compiled.expression)
