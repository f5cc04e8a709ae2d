"""What one rule file gives, compiled: kept by the digest of its content, so that a change costs one file's work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from sensor.rules import ir
from sensor.rules.need import AtomKind, Branch


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
    source: str  # Python, as `compile.source` wrote it
    code: bytes  # the same, marshalled for this interpreter
    needs: bytes  # clauses of each branch
    expression: bytes  # simplified
    indexed: bool  # false: it is evaluated for every event of its category
    digest: str  # of everything that decides what it matches, and how it is told


class Refusal(Struct, frozen=True):
    line: int
    reason: str


class Unit(Struct, frozen=True):
    """`content`: the digest of the bytes that were read."""

    file: str
    content: str
    rules: tuple[Compiled, ...] = ()
    refused: tuple[Refusal, ...] = ()


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(b"%d " % len(part) + part for part in parts)).hexdigest()


def encode_needs(branches: Iterable[Branch]) -> bytes:
    return msgspec.msgpack.encode(
        [
            [[(atom.attribute, atom.kind, atom.value) for atom in clause] for clause in branch.clauses]
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
