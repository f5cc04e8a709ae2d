"""What a broken rule gets: the line of its fault and a reason; the other rules are not its victims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensor.rules import sigma
from tests.rules.helpers import build, refusal, rule_text

# Each line holds the one before nine times over: some hundred bytes for millions of nodes.
BOMB = b"x: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
    b"x%d: &%c [%s]\n" % (i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(6)
)
GOOD = rule_text("s:\n  Image: /x\ncondition: s")


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("title: a rule\n", "", 1, "title is missing"),
        ("title: a rule", "title: [a]", 1, "title is missing or not text"),
        ("level: high", "level: terrible", 3, "level 'terrible' is not one of informational, low"),
        ("level: high\n", "", 1, "level is missing"),
        ("level: high", "level: high\nstatus: wobbly", 4, "'wobbly' is not a valid Sigma rule status"),
        ("level: high", "level: high\ntags:\n  - nodots", 4, "namespace"),
        ("level: high", "level: high\ndate: 2024-31-12", 4, "is invalid, use yyyy-mm-dd"),
        ("level: high", "level: high\ndate: 2024-02-31", 4, "is invalid, use yyyy-mm-dd"),
        ("level: high", "level: high\nreferences: here", 4, "references must be a list"),
        ("level: high", "level: high\nlevel: low", 4, "key 'level' is there twice"),
        (
            "level: high",
            "level: high\ncorrelation: {type: event_count}",
            4,
            "Sigma correlation rule without rule references",
        ),
        ("level: high", "level: high\naction: globule", 4, "action 'globule' is not global, reset or repeat"),
        ("level: high", "level: high\naction: repeat", 4, "nothing to repeat"),
        ("process_creation", "file_evil", 5, "category 'file_evil' is not one of process_creation, network_conn"),
        ("product: linux", "product: windows", 6, "product 'windows' is not linux"),
        ("Image: /x", "Image|sounds_like: x", 9, "Unknown modifier 'sounds_like'"),
        ("Image: /x", "Image|re: '(?<=a)b'", 9, "invalid perl operator: (?<="),
        ("Image: /x", "Image|re: '(?=a)b'", 9, "invalid perl operator: (?="),
        ("Image: /x", r"Image|re: '(a)\1'", 9, r"invalid escape sequence: \\1"),
        ("Image: /x", "Image|re: 'a['", 9, "missing"),
        ("Image: /x", "Image|re: '(\\pL{1,400}x){2}'", 9, "pattern too large"),
        ("Image: /x", "Image|re: 5", 9, "a regex is text: quote it"),
        ("Image: /x", "Image|lt: 5", 9, "Image is not a number"),
        ("Image: /x", "Image|contains: 5", 9, "incompatible"),
        ("Image: /x", "Image|contains: [a, null]", 9, "incompatible to value type of 'Null'"),
        ("Image: /x", "Image|contains_any: [a]", 9, "Unknown modifier 'contains_any'"),
        ("condition: s", "condition: s AND s", 10, "Expected end of text, found 'AND'"),
        ("Image: /x", "Image|re: 'a{1,2000}'", 9, "invalid repetition size"),
        ("Image: /x", "Image|re: '(((a{1,99}){1,99}){1,99}){1,99}'", 9, "repetition"),
        ("Image: /x", "Image|cidr: 10.0.0.0/8", 9, "Image is not an address"),
        ("Image: /x", "Image|hour: 5", 9, "Image is not a time"),
        ("Image: /x", "Image: true", 9, "not true or false: quote the value"),
        ("Image: /x", "Image: []", 9, "the list is empty"),
        ("Image: /x", "Image: {a: b}", 9, "values are text, numbers"),
        ("Image: /x", "Image: !!int x", 1, "YAML: "),
        ("Image: /x", "ImageMemfd: yes", 9, "ImageMemfd is true or false, not 'yes'"),
        ("Image: /x", "ProcessId: 0x10", 9, "ProcessId is a number, not '0x10'"),
        ("Image: /x", "5: /x", 9, "field name 5 is not text"),
        ("Image: /x", "Image|expand: '%progs%'", 9, "placeholder %progs% has no value"),
        ("Image: /x", "Image|re|expand: 'a%progs%'", 9, "placeholder %progs% has no value"),
        ("Image: /x", "Image|fieldref: Killed", 9, "cannot be compared so with Killed (flag)"),
        ("Image: /x", "Image|base64: 'a*'", 9, "wildcards is not allowed"),
        ("Image: /x", "Image|wide: 'é'", 9, "ascii"),
        ("Image: /x", "ProcessId: twelve", 9, "ProcessId is a number, not 'twelve'"),
        ("Image: /x", "ProcessId: true", 9, "ProcessId is number, not true or false"),
        ("Image: /x", "ImageMemfd: maybe", 9, "ImageMemfd is true or false, not 'maybe'"),
        ("Image: /x", "ImageMemfd: 2", 9, "ImageMemfd is true or false, not 2"),
        ("Image: /x", "ImageMemfd|contains: t", 9, "ImageMemfd is true or false"),
        ("Image: /x", "ImageMemfd|re: t", 9, "a regex does not apply"),
        ("Image: /x", "User: root\n    Image|re: '(?!a)'", 10, "invalid perl operator: (?!"),
        ("    Image: /x", "    - '*'", 8, "a keyword must hold some text"),
        ("    Image: /x", "    '|exists': true", 9, "Exists modifier must be applied to field"),
        ("  s:\n    Image: /x", "  s: null", 8, "is empty, or neither"),
        ("  s:\n    Image: /x\n", "", 7, "detection names nothing"),
        ("condition: s", "condition: s and t", 10, "Detection 't' not defined"),
        ("condition: s", "condition: s and", 10, "condition 's and'"),
        ("condition: s", "condition: 2 of s", 10, "condition '2 of s'"),
        ("condition: s", "condition: 1 of t*", 10, "doesn't match any detection"),
        ("condition: s", "condition: s | count() > 5", 10, "pipe syntax"),
        ("condition: s", "condition:\n    - s\n    - t", 12, "Detection 't' not defined"),
        ("condition: s", "condition: 7", 10, "has no condition, or one that is not text"),
        ("  condition: s\n", "", 7, "has no condition"),
        ("condition: s", "condition: s\n  timeframe: 5m", 11, "timeframe needs a correlation rule"),
        ("condition: s", f"condition: {'not ' * 3000}s", 10, "nested too deeply"),
        ("Image: /x", "Image: 'x", 11, "YAML: "),
        ("    Image: /x", "   Image: /x\n    User: a", 10, "YAML: "),
    ],
)
def test_line_and_reason(old: str, new: str, line: int, reason: str) -> None:
    assert old in GOOD
    at, _, said = refusal(GOOD.replace(old, new, 1)).partition(": ")
    assert reason in said
    assert int(at) == line
    assert "\n" not in said


@pytest.mark.parametrize(
    ("new", "line", "warning"),
    [
        (
            "OriginalFileName: x",
            9,
            "process_creation has no field 'OriginalFileName' (it is Windows version information)",
        ),
        ("DestinationPort: 1", 9, "process_creation has no field 'DestinationPort'"),
        ("Commandline: x", 9, "process_creation has no field 'Commandline'; did you mean 'CommandLine'?"),
        ("process.command-line: x", 9, "has no field 'process.command-line'; did you mean 'process.command_line'?"),
        ("Image|fieldref: Nowhere", 9, "no field 'Nowhere'"),
        ("User: root\n    Nonsense:\n      - a\n      - b", 10, "no field 'Nonsense'"),
    ],
)
def test_a_field_that_is_not_there_is_a_warning_and_the_rule_dormant(new: str, line: int, warning: str) -> None:
    ruleset = build(GOOD.replace("Image: /x", new))
    assert (ruleset.refused, ruleset.rules) == ((), ())
    at, _, said = ruleset.warnings[0].partition("r000.yml:")[2].partition(": ")
    assert warning in said
    assert int(at) == line
    assert re.search(r"r000\.yml:1: a rule: field [\w.-]+$", ruleset.dormant[0])


def test_a_rule_that_can_match_without_the_field_that_is_not_there_is_awake() -> None:
    ruleset = build(GOOD.replace("    Image: /x", "    - User: root\n    - Image: /x\n      Verdict: a"))
    assert (len(ruleset.rules), len(ruleset.warnings), ruleset.dormant) == (1, 1, ())


def test_a_rule_that_matched_all_for_want_of_a_field_is_dormant() -> None:
    ruleset = build(GOOD.replace("Image: /x", "Nope: /x").replace("condition: s", "condition: not s"))
    assert (ruleset.rules, len(ruleset.dormant)) == ((), 1)


@pytest.mark.parametrize("rule_id", ["id: x", "id: 5", "name: x"])
def test_an_id_that_is_no_uuid(rule_id: str) -> None:
    assert " id " in " " + refusal(re.sub("id: .*", rule_id, GOOD)).partition(": ")[2]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"", 1, "holds no rule"),
        (b"---\n---\n", 1, "holds no rule"),
        (b"- a\n", 1, "is not a mapping"),
        (b"a\n\nb: \xff\n", 3, "is not UTF-8"),
        (b"a: &a [*a]\n", 1, "too large or too deep"),
        (BOMB, 1, "too large or too deep"),
        (b"x: [" * 40 + b"]" * 40, 1, "too large or too deep"),
        (b"#" * (1 << 20) + b"\n", 1, "larger than 1048576 bytes"),
        (b"a: !!python/object/apply:os.system [x]\n", 1, "YAML: could not determine a constructor"),
    ],
)
def test_files_that_hold_no_rule(tmp_path: Path, content: bytes, line: int, reason: str) -> None:
    path = tmp_path / "r.yml"
    path.write_bytes(content)
    (said,) = sigma.build([path]).refused
    assert said.startswith(f"{path}:{line}: ")
    assert reason in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert sigma.build([tmp_path / "none.yml"]).refused == (
        f"{tmp_path}/none.yml:1: cannot be read: No such file or directory",
    )


def test_all_broken_rules_are_reported_and_the_rest_compiled() -> None:
    broken = GOOD.replace("Image: /x", "Image|nope: 1")
    ruleset = build(broken, rule_text("s:\n  Image: /y\ncondition: s"), broken.replace("id: ", "id: 0"))
    assert len(ruleset.refused) == 2
    assert [rule.title for rule in ruleset.rules] == ["a rule"]


def test_a_second_rule_of_the_same_id_is_refused_and_the_first_named() -> None:
    ruleset = build(GOOD, "# a comment\n" + GOOD.replace("/x", "/y"))
    (said,) = ruleset.refused
    assert re.search(r"r001\.yml:2: id [0-9a-f-]{36} is also that of .*r000\.yml:1$", said)
    assert len(ruleset.rules) == 1


def test_several_rules_in_one_file_each_have_their_lines() -> None:
    other = rule_text("s:\n  Image|nope: /x\ncondition: s")
    ruleset = build(GOOD + "---\n" + other)
    assert len(ruleset.rules) == 1
    assert ruleset.refused[0].partition("r000.yml:")[2].startswith("20: Unknown modifier 'nope'")


def test_rule_text_never_becomes_code() -> None:
    title = '"""; raise SystemExit #\\'
    ruleset = build(GOOD.replace("title: a rule", f"title: '{title}'").replace("/x", "|-\n      '''\"\\); 1/0"))
    assert ruleset.refused == ()
    compile(ruleset.source, "x", "exec")
    assert ruleset.rules[0].title == title
