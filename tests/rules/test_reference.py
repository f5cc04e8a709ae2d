"""The engine against a second, slow reading of the specification: random rules and events, each time the same."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sensor.rules.engine import Engine
from sensor.rules.testing import activity
from tests.rules import reference
from tests.rules.helpers import build, rule_text

RULES, EVENTS = 120, 60
ATOMS = ("a", "B", "ab", "Ba", " ", "-a", "/b", "x", "*", "?", "\\", "\\*", "\\\\", ".", "0", "7", "(", "b ")
TEXT = ("a", "A", "b", "ab", "BA", " ", "-a", "/b", "\N{EM DASH}a", "x", "*", "?", "\\", ".", "0", "7", "(", "\n")
REGEXES = ("a.b", "^a", "b$", "[ab]+x", "(a|b)\\s", "A", "^.a", "x?$", "\\d", "a{2,}", "^$")
TEXT_MODIFIERS = (
    "", "", "|contains", "|contains", "|startswith", "|endswith", "|cased", "|contains|cased", "|contains|all", "|neq",
    "|contains|neq", "|windash|contains", "|contains|all|windash", "|startswith|cased",
)  # fmt: skip
CONDITIONS = (
    "s1", "s1 and s2", "s1 or s2", "s1 and not s2", "not s1", "not (s1 or s2) and s3", "1 of s*", "all of s*",
    "1 of them", "s1 or s2 and s3", "(s1 or s2) and not s3", "s1 and not 1 of s*", "not all of them",
    "s3 and any of s*",
)  # fmt: skip


def text(chance: random.Random, atoms: tuple[str, ...], most: int) -> str:
    return "".join(chance.choice(atoms) for _ in range(chance.randint(0, most)))


def values(chance: random.Random, make: Any) -> Any:
    return make() if chance.random() < 0.5 else [make() for _ in range(chance.randint(1, 3))]


def item(chance: random.Random) -> tuple[str, Any]:
    field = chance.choice(("CommandLine", "CommandLine", "Image", "User", "Absent"))
    kind = chance.random()
    if kind < 0.6:
        return field + chance.choice(TEXT_MODIFIERS), values(chance, lambda: text(chance, ATOMS, 3) or "a")
    if kind < 0.72:
        return f"{field}|re{chance.choice(('', '|i', '|m', '|s', '|i|s'))}", values(
            chance, lambda: chance.choice(REGEXES)
        )
    if kind < 0.8:
        return f"{field}{chance.choice(('', '|exists'))}", None
    if kind < 0.86:
        return f"User|fieldref{chance.choice(('', '|neq'))}", chance.choice(("Image", "CommandLine", "Absent"))
    if kind < 0.94:
        return f"Uid{chance.choice(('', '|lt', '|lte', '|gt', '|gte', '|neq'))}", chance.randint(0, 4)
    return "ImageMemfd", chance.choice((True, False, "true", "false"))


def search(chance: random.Random) -> Any:
    if chance.random() < 0.1:
        return [chance.choice(("a", "ab", "x", "b*a", "7")) for _ in range(2)]
    maps = []
    for _ in range(chance.choice((1, 1, 1, 2))):
        items = dict(item(chance) for _ in range(chance.randint(1, 2)))
        maps.append({key: (chance.random() < 0.5 if key.endswith("|exists") else of) for key, of in items.items()})
    return maps[0] if len(maps) == 1 else maps


def event(chance: random.Random) -> dict[str, Any]:
    made = {name: text(chance, TEXT, 5) for name in ("CommandLine", "Image", "User")}
    return made | {"ImageInvoked": "", "Uid": chance.randint(0, 4), "ImageMemfd": chance.random() < 0.5}


@pytest.mark.parametrize("seed", range(4))
def test_random_rules_over_random_events(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    rules = [({f"s{i}": search(chance) for i in (1, 2, 3)}, chance.choice(CONDITIONS)) for _ in range(RULES)]
    texts = [rule_text(json.dumps({**searches, "condition": wanted})) for searches, wanted in rules]
    ruleset = build(*texts)
    assert ruleset.refused == ()
    engines = Engine(ruleset), Engine(ruleset, prefilter=False)
    numbers = {rule.id: int(rule.file.rpartition("r")[2][:3]) for rule in ruleset.rules}
    dormant = {int(line.partition("r")[2].rpartition(".yml")[0][-3:]) for line in ruleset.dormant}
    assert len(numbers) + len(dormant) == RULES
    matches = 0
    for _ in range(EVENTS):
        fields = event(chance)
        found = [
            {numbers[rule.id] for rule in engine.match(activity("process_creation", fields))} for engine in engines
        ]
        expected = {i for i, (of, wanted) in enumerate(rules) if reference.condition(wanted, of, fields)} - dormant
        for got in found:
            assert [(rules[i], fields) for i in sorted(got ^ expected)] == []
        matches += len(expected)
    assert RULES * EVENTS // 20 < matches < RULES * EVENTS * 19 // 20
    assert not any(engine.errors or engine.index_errors for engine in engines)
