"""What a policy says of itself: examples that `pinfold policy test` asks it, and what it must answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from msgspec import Struct, field

from sensor.configassign import class_problem
from sensor.configfile import KeyPath, Problem, found
from sensor.configrespond import Level

Verdict = Literal[
    "allowed", "refused", "would-refuse", "killed", "would-kill",
    "log", "kill", "freeze", "quarantine", "kill-sandbox",
    "would-freeze", "would-quarantine", "would-kill-sandbox",
]  # fmt: skip
MOST_EXAMPLES = 1024
_KINDS = ("connect", "device", "exec", "detection")


class ExampleDetection(Struct, frozen=True, forbid_unknown_fields=True):
    level: Level
    rule: str = ""
    tags: tuple[str, ...] = ()
    score: int = 0


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    """One of connect, device, exec and detection."""

    expect: Verdict
    class_: str = field(name="class", default="default")
    connect: str = ""
    device: str = ""
    exec_: str = field(name="exec", default="")
    detection: ExampleDetection | None = None


def asked(example: Example) -> list[str]:
    """Which of the four it has."""
    given = (example.connect, example.device, example.exec_, example.detection)
    return [kind for kind, value in zip(_KINDS, given, strict=True) if value]


def example_problems(at: KeyPath, examples: tuple[Example, ...], classes: Collection[str]) -> Iterator[Problem]:
    if len(examples) > MOST_EXAMPLES:
        yield Problem(at, f"at most {MOST_EXAMPLES} entries", found(len(examples)))
        return
    for index, example in enumerate(examples):
        if (unknown := class_problem(example.class_, classes)) is not None:
            yield Problem((*at, index, "class"), *unknown)
        if len(kinds := asked(example)) != 1:
            said = " and ".join(kinds) or "none of them"
            yield Problem((*at, index), "one of connect, device, exec and detection", said)
