"""What the index looks up for a rule: it may know too little, never too much."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules import ir, need
from sensor.rules.need import Atom


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("stratum", ["stratum"]),
        ("stratum\\+tcp://", ["stratum+tcp://"]),
        ("abc|defg", ["abc", "defg"]),
        ("abc|d", []),
        ("abcd?", ["abc"]),
        ("abcd*ef", ["abc"]),
        ("abcd+ef", ["abc"]),
        ("abcd{0,3}e", ["abc"]),
        ("(abc)?de", ["de"]),
        ("[abc]de", ["de"]),
        ("[]abc]de[^]x]", ["de"]),
        ("ab.cde", ["cde"]),
        ("^ab$", ["ab"]),
        ("(?i)abc", ["abc"]),
        ("(?i:abc|x)yz", ["yz"]),
        ("ab(c|d(e|f))gh", ["ab"]),
        ("\\bssh\\b", ["ssh"]),
        ("\\Qa.b\\E", []),
        ("\\x41BC", []),
        ("\\pLabc", []),
        ("[[:alpha:]]abc", []),
        ("é+abc", ["abc"]),
        ("a", []),
        ("", []),
        ("ab|", []),
        ("{abc", []),
    ],
)
def test_required_literals(pattern: str, expected: list[str]) -> None:
    assert need.required_literals(pattern) == expected


_ATOMS = st.sampled_from(
    ["a", "b", "ab", ".", "[ab]", "(a|b)", "(?:ab)?", "\\.", "\\w", "a*", "b+", "a?", "b{2}", "|", "^", "$"]
)


@given(pieces=st.lists(_ATOMS, max_size=8), text=st.text("ab.", max_size=12))
def test_every_match_of_a_regex_holds_one_of_its_literals(pieces: list[str], text: str) -> None:
    pattern = "".join(pieces)
    literals = need.required_literals(pattern)
    if literals and re2.search(pattern, text):
        assert any(literal in text for literal in literals)


def text(attribute: str, shape: ir.Shape, value: str) -> ir.Text:
    return ir.Text(attribute, shape, value, cased=False)


def test_and_takes_the_most_telling_clause_of_each_sort() -> None:
    rule = ir.And((text("Image", "suffix", "/ssh"), ir.Flag("Existing", False), text("CommandLine", "contains", " -r")))
    found = need.of_rule(rule, "process_creation")
    assert found.cheap == frozenset({Atom("Image", "name", "ssh")})
    assert found.direct == frozenset({Atom("CommandLine", "literal", " -r")})


def test_or_needs_every_alternative() -> None:
    known, unknown = text("Image", "exact", "/x"), ir.Number("ProcessId", "gt", 5)
    assert need.of_rule(ir.Or((known, unknown)), "process_creation") == need.Need(None, None)
    both = need.of_rule(ir.Or((known, text("CommandLine", "contains", "long"))), "process_creation")
    assert both.cheap is None
    assert both.direct == frozenset({Atom("Image", "exact", "/x"), Atom("CommandLine", "literal", "long")})


def test_a_negated_leaf_says_nothing_but_a_negated_flag_does() -> None:
    assert need.of_rule(ir.Not(text("Image", "exact", "/x")), "process_creation") == need.Need(None, None)
    granted = need.of_rule(ir.Not(ir.Flag("GpuGranted", True)), "device_access")
    assert granted.cheap == frozenset({Atom("GpuGranted", "flag", False)})


def test_a_command_line_is_remembered_where_it_is_not_the_event_s_own() -> None:
    rule = text("CommandLine", "contains", "stratum")
    assert need.of_rule(rule, "network_connection").cheap == frozenset({Atom("CommandLine", "literal", "stratum")})
    assert need.of_rule(rule, "process_creation").cheap is None
