"""Which class the rules of `assign` give a sandbox, by what is known of it by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from sensor.configassign import Assignment


class Describes(Protocol):
    """A sandbox, as far as rules look at it."""

    path: str
    runtime: str
    labels: dict[str, str]
    attributes: dict[str, str]


def assigned(rules: Sequence[Assignment], sandbox: Describes) -> str | None:
    """The class of the first rule that fits; None where none does."""
    return next((rule.class_ for rule in rules if _fits(rule, sandbox)), None)


def _fits(rule: Assignment, sandbox: Describes) -> bool:
    return (
        rule.runtime in ("", sandbox.runtime)
        and (not rule.path or fnmatchcase(sandbox.path, rule.path))
        and _has(sandbox.labels, rule.labels)
        and _has(sandbox.attributes, rule.attributes)
    )


def _has(known: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(key in known and fnmatchcase(known[key], pattern) for key, pattern in wanted.items())
