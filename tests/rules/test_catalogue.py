"""The rules that pinfold ships: complete, tested by their own examples, silent on ordinary work."""

from __future__ import annotations

import re
import uuid
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensor.events.detection import LEVELS
from sensor.rules import fields
from sensor.rules.engine import Engine
from sensor.rules.ruleset import load
from sensor.rules.testing import activity, examples_file, run_examples
from tests.rules.tables import regenerated, tables

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "rules"
FILES = sorted(RULES.rglob("*.yml"))
BENIGN = yaml.safe_load((ROOT / "tests/data/benign.events.yaml").read_text())["events"]
BEHAVIOURS = yaml.safe_load((ROOT / "tests/data/behaviours.events.yaml").read_text())["behaviours"]
RESPONSES = {"log", "review", "deny", "kill", "quarantine"}
STATUSES = {"stable", "test", "experimental", "deprecated"}


def document(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load([RULES], None))


def test_no_rule_names_what_is_not_there() -> None:
    loaded = load([RULES], None)
    assert (loaded.warnings, loaded.dormant) == ((), ())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(RULES)))
def test_a_rule_says_all_that_an_operator_needs(path: Path) -> None:
    rule = document(path)
    identity = uuid.UUID(rule["id"])
    assert identity.version == 4
    assert identity.variant == uuid.RFC_4122
    assert rule["title"].strip()
    assert len(rule["title"]) <= 120
    assert len(rule["description"].split()) >= 5
    assert rule["status"] in STATUSES
    assert rule["level"] in LEVELS
    assert all(isinstance(line, str) and line for line in rule["falsepositives"])
    if "correlation" not in rule:
        assert rule["logsource"]["product"] == "linux"
        assert rule["logsource"]["category"] in fields.CATEGORIES
    assert all(line.startswith(("https://", "http://")) for line in rule["references"])
    response, _, advice = rule["response"].partition(": ")
    assert response in RESPONSES
    assert advice or response in {"log", "review"}
    assert rule["author"]
    assert rule["date"]


def vendored(name: str) -> dict[str, list[str]]:
    """Technique id → the other columns, of a list in tests/data."""
    lines = (ROOT / "tests/data" / name).read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {row[0].lower(): row[1:] for row in rows}


ATTACK, ATLAS = vendored("attack.tsv"), vendored("atlas.tsv")
TACTICS = {tactic for _, tactics in ATTACK.values() for tactic in tactics.split(",")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(RULES)))
def test_tags_are_of_attack_and_atlas(path: Path) -> None:
    """Every technique exists, and every tactic is one of some technique of the same rule."""
    tags = document(path)["tags"]
    assert len(set(tags)) == len(tags)
    attack = {tag.removeprefix("attack.") for tag in tags if tag.startswith("attack.")}
    atlas = {tag.removeprefix("atlas.") for tag in tags if tag.startswith("atlas.")}
    assert len(attack) + len(atlas) == len(tags)
    techniques = attack - TACTICS
    assert techniques
    assert techniques - set(ATTACK) == set()
    assert atlas - set(ATLAS) == set()
    theirs = {tactic for technique in techniques for tactic in ATTACK[technique][1].split(",")}
    assert attack & TACTICS
    assert attack & TACTICS - theirs == set()
    assert all(set(ATTACK[technique][1].split(",")) & attack for technique in techniques), "a tactic for each technique"


TOLD = [
    path
    for path in FILES
    if document(path)["level"] in {"medium", "high", "critical"} and "detection" in document(path)
]
NEGATED = re.compile(r"not \((?P<group>.*)\)|not (?:1 of )?(?P<part>\w+\*?)")


def excused(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What a rule's condition leaves out, whatever the part is called."""
    detection = document(path)["detection"]
    found = NEGATED.finditer(detection["condition"])
    words = {word for each in found for word in re.findall(r"\w+\*?", each["group"] or each["part"])}
    return [
        (name, part)
        for name, value in detection.items()
        if any(fnmatchcase(name, word) for word in words)
        for part in (value if isinstance(value, list) else [value])
        if isinstance(part, dict) and not part.get("BroughtAlong")
    ]


def programs(part: dict[str, Any]) -> dict[str, list[str]]:
    """Of those fields that name a program: modifiers and all → what they compare with. Whom a parent from the system's
    folders started may be called anything."""
    fields = ["ParentImage"] if "ParentImage" in {key.split("|")[0] for key in part} else ["Image", "ImageInvoked"]
    named = {key: value for key, value in part.items() if key.split("|")[0] in fields}
    return {key: value if isinstance(value, list) else [value] for key, value in named.items()}


def test_who_is_excused_is_not_so_by_name_alone() -> None:
    """A copy under a package manager's name is the first thing to try. What was brought along has its name from
    outside; `elsewhere` is told of by a low rule, and not excused in scratch folders."""
    by_name = {
        (path.stem, name)
        for path in TOLD
        for name, part in excused(path)
        for key, values in programs(part).items()
        if not all(value.startswith(("/", "^/")) for value in values) or key.endswith(("|endswith", "|contains"))
    }
    assert {name for _, name in by_name} == {"elsewhere"}
    assert all(
        "(scratch or not elsewhere)" in document(path)["detection"]["condition"]
        for path in TOLD
        if (path.stem, "elsewhere") in by_name
    )


EXCUSED_NAME = re.compile(r"[A-Za-z][\w-]*(?:\.db)?")
CALLS = [
    path
    for path in TOLD
    if document(path)["logsource"]["category"] == "system_call" and "tool" not in document(path)["detection"]
]


def excused_names() -> set[str]:
    """Every word that is one of a program in what rules about system calls leave out."""
    values: list[str] = []
    for path in CALLS:
        for name, part in document(path)["detection"].items():
            if name.startswith("filter") or name == "elsewhere":
                for key, value in part.items():
                    if key.startswith("Image|"):
                        values += value if isinstance(value, list) else [value]
    return {word for value in values for word in EXCUSED_NAME.findall(value.replace("\\.", "."))}


@pytest.mark.parametrize("path", CALLS, ids=lambda p: p.stem)
def test_a_copy_under_an_excused_name_is_told_of_like_any_other(engine: Engine, path: Path) -> None:
    """Anybody can leave one in a scratch folder, and execute it without arguments."""
    rule = document(path)
    for example in document(examples_file(path))["match"]:
        for name in sorted(excused_names()):
            event = example["event"] | {"Image": f"/tmp/{name}", "CommandLine": "", "BroughtAlong": False}
            matched = engine.match(activity("system_call", event))
            assert rule["title"] in {found.title for found in matched}, (example["name"], name)


NAMING = [path for path in TOLD if any(programs(part) for _, part in excused(path))]


@pytest.mark.parametrize("path", NAMING, ids=lambda p: str(p.relative_to(RULES)))
def test_what_is_told_of_any_program_is_told_of_one_under_an_excused_name(engine: Engine, path: Path) -> None:
    rule, examples = document(path), document(examples_file(path))

    def told(event: dict[str, Any]) -> bool:
        return rule["title"] in {found.title for found in engine.match(activity(rule["logsource"]["category"], event))}

    named = {
        (key.split("|")[0], word)
        for _, part in excused(path)
        for key, values in programs(part).items()
        for value in values
        for word in EXCUSED_NAME.findall(value.replace("\\.", "."))
    }
    for example in examples["match"] + examples["no_match"]:
        for field in {field for field, _ in named}:
            event = {key: value for key, value in example["event"].items() if key != "BroughtAlong"} | {
                field: "/tmp/q7"
            }
            if told(event):
                names = {name for named_field, name in named if named_field == field}
                missed = {name for name in names if not told(event | {field: f"/tmp/{name}"})}
                assert missed == set(), example["name"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(RULES)))
def test_a_rule_has_several_examples_of_both_sorts(path: Path) -> None:
    examples = document(examples_file(path))
    assert len(examples["match"]) >= 2
    assert len(examples["no_match"]) >= 2


def test_ids_and_titles_are_unique() -> None:
    rules = [document(path) for path in FILES]
    for key in ("id", "title"):
        values = [rule[key] for rule in rules]
        assert len(set(values)) == len(values), key


def test_every_examples_file_has_its_rule() -> None:
    assert {examples_file(path) for path in FILES} == set(RULES.rglob("*.events.yaml"))


def test_every_example_holds() -> None:
    results = run_examples([RULES])
    assert {result.file for result in results} == {str(path) for path in FILES}
    assert [(result.file, result.example, result.reason) for result in results if not result.ok] == []


def test_every_rule_is_found_through_the_index() -> None:
    """A rule that must be evaluated for each event costs all sandboxes: it needs a literal, a name or a port."""
    assert load([RULES], None).unindexed == ()


@pytest.mark.parametrize("item", BENIGN, ids=lambda item: str(item["name"]))
def test_ordinary_work_raises_nothing_above_low(engine: Engine, item: dict[str, Any]) -> None:
    matched = engine.match(activity(item["category"], item["event"]))
    assert [rule.title for rule in matched if LEVELS.index(rule.level) >= LEVELS.index("medium")] == []


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda item: str(item["name"]))
def test_behaviours_of_attack_suites_are_told_in_all_variants(engine: Engine, behaviour: dict[str, Any]) -> None:
    for item in behaviour["events"]:
        matched = engine.match(activity(item["category"], item["event"]))
        assert any(LEVELS.index(rule.level) >= LEVELS.index("medium") for rule in matched), item["event"]


def test_what_stands_for_the_rules_of_others_is_there() -> None:
    data = yaml.safe_load((ROOT / "tests/data/coverage.yaml").read_text())
    ours = {str(path.relative_to(RULES).with_suffix("")) for path in FILES}
    for theirs in data.values():
        for name, answer in theirs.items():
            if isinstance(answer, list):
                assert answer, name
                assert set(answer) <= ours, name
            else:
                assert answer.startswith("no. "), name
                assert len(answer.split()) >= 5, name


@pytest.mark.parametrize("name", ["FIELDS.md", "README.md", "COVERAGE.md"])
def test_generated_tables_are_true(name: str) -> None:
    text = (RULES / name).read_text()
    assert regenerated(text, tables(RULES)[name]) == text
