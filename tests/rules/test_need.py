"""What the index looks up for a rule: it may know too little, never too much."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.rules import ir, need
from sensor.rules.literals import normal, required
from sensor.rules.need import Atom


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("stratum", [["stratum"]]),
        ("Stratum\\+tcp://", [["stratum+tcp://"]]),
        ("abc|defg", [["abc", "defg"]]),
        ("abcd?", [["abc", "abcd"]]),
        ("abcd*ef", [["abcd", "abcef"], ["abcef", "def"]]),
        ("abc(?:d\\S*)?ef", [["abcd", "abcef"], ["ef"]]),
        ("ab(?:c.*d)*ef", [["abc", "abef"], ["abef", "def"]]),
        ("open\\s*\\(", [["open "]]),
        ("[;&|]\\s*nc", [[" nc", ";nc"]]),
        ("nc\\s*(?:$|[|>])", [["nc ", "nc;", "nc>"]]),
        ("^\\s*at", [[" at"]]),
        ("a\\s*b?c", [["a ", "ab", "ac"]]),
        ("x(?:abc.*defg|hijk.*lm)", [["abc", "lm"], ["defg", "hijk"], ["xabc", "xhijk"]]),
        ("abcd+ef", [["abcd"], ["def"]]),
        ("ab{2,3}c", [["ab"], ["bc"]]),
        ("(abc)?de", [["abcde", "de"]]),
        ("[ab]de", [["ade", "bde"]]),
        ("x[^a]de", [["x"], ["de"]]),
        ("[]a]b", [["]b", "ab"]]),
        ("^ab$", [[" ab "]]),
        ("(?m)^ab$", [[" ab "]]),
        ("a^b", [["ab"]]),
        ("^*ab", [["ab"]]),
        ("(?i)abc", [["abc"]]),
        ("(?i:abc|x)yz", [["abcyz", "xyz"]]),
        ("(?P<name>ab)c", [["abc"]]),
        ("(^|/|\\s)nc(\\s|$)", [[" nc ", "/nc "]]),
        ("nc\\s+-e", [["nc "], [" -e"]]),
        ("-(?:s[ab]+|pn)x", [["-pn", "-sa", "-sb"], ["ax", "bx", "pnx"]]),
        ("\\bssh\\b", [["ssh"]]),
        ("\\x41BC", [["abc"]]),
        ("a.b", [["a"], ["b"]]),
        ("\\Qa.b\\E", []),
        ("\\pLabc", []),
        ("[[:alpha:]]abc", [["abc"]]),
        ("é+abc", [["abc"]]),
        ("{abc", [["{abc"]]),
        ("abc{,2}", []),
    ],
)
def test_required_literals(pattern: str, expected: list[list[str]]) -> None:
    found = {tuple(sorted(text.decode() for text in clause)) for clause in required(pattern)}
    assert {clause for clause in found if all(text.strip() for text in clause)} >= {tuple(c) for c in expected}
    if not expected:
        assert not found


_TOKENS = ["a", "B", "ab", " ", "-", ".", "[ab]", "[^a]", "[a-c]", "(a|b)", "(?:ab)?", "\\.", "\\w", "\\s", "a*", "b+?"]
_TOKENS += ["\\s*", "(?:", ")?", ")*", ")+", "[\\s;|&]*", "[-.]?", "(?:\\s+-\\S+)*", "$", ";"]
_TOKENS += [
    "a?",
    "b{2}",
    "c{1,3}",
    "|",
    "^",
    "$",
    "(?:",
    "(",
    ")",
    "(^|/|\\s)",
    "(\\s|$)",
    "\\b",
    "(?i)",
    "[\\s\"']",
    "\\x41",
]
TEXTS = st.text('abcAB. -/"\n;|', max_size=14)


_WELL_FORMED = [f"{item}{often}" for often in ("", "?", "*", "+", "{2,3}") for item in (
    "a", "\\s", "[;|]", "(?:a|b\\s*)", "(?:^|\\s)", "(?:$|[;-])", "(?:-a.*b)", "(?:\\s*a)", "(?:a?(?:b\\s*)*|;+)",
    "\\b",
)]  # fmt: skip


@settings(max_examples=3000)
@given(
    pieces=st.lists(st.sampled_from(_TOKENS), max_size=9),
    text=TEXTS,
    flags=st.sampled_from(["", "(?i)", "(?m)", "(?s)"]),
)
def test_every_match_of_a_regex_holds_one_literal_of_each_clause(pieces: list[str], text: str, flags: str) -> None:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(flags + "".join(pieces), options)
    except re2.error:
        return
    if compiled.search(text):
        seen = normal(f" {text} ")
        for clause in required(flags + "".join(pieces)):
            assert any(literal in seen for literal in clause)


@settings(max_examples=3000)
@given(pieces=st.lists(st.sampled_from(_WELL_FORMED), min_size=2, max_size=7), text=TEXTS)
def test_what_may_be_missing_hides_nothing(pieces: list[str], text: str) -> None:
    """As above, of regexes that are always well-formed and mostly optional."""
    compiled = re2.compile("".join(pieces))
    seen = normal(f" {text} ")
    if compiled.search(text):
        for clause in required("".join(pieces)):
            assert any(literal in seen for literal in clause)


def text(attribute: str, shape: ir.Shape, value: str) -> ir.Text:
    return ir.Text(attribute, shape, value, cased=False)


def only(rule: ir.Expression, category: str = "process_creation") -> tuple[need.Clause, ...]:
    (clauses,) = need.of_rule(rule, category)
    return clauses


def test_and_begins_with_the_most_telling_clause() -> None:
    rule = ir.And((ir.Flag("Existing", False), text("CommandLine", "contains", " -c"), text("Image", "suffix", "/ssh")))
    assert only(rule)[0] == frozenset({Atom("Image", "name", "ssh")})


def test_or_needs_every_alternative() -> None:
    known, unknown = text("Image", "exact", "/x"), ir.Number("ProcessId", "gt", 5)
    assert only(ir.Or((known, unknown))) == ()
    both = only(ir.Or((known, text("CommandLine", "prefix", "long"))))
    assert both == (frozenset({Atom("Image", "exact", "/x"), Atom("CommandLine", "literal", b" long")}),)


def test_alternatives_that_are_more_than_values_are_branches() -> None:
    one = ir.And((text("Image", "exact", "/x"), text("User", "exact", "u")))
    two, beside = text("Image", "exact", "/y"), ir.Flag("ImageMemfd", True)
    assert need.branches(ir.And((ir.Or((one, two)), beside)), None) == [
        ir.And((*one.items, beside)),
        ir.And((two, beside)),
    ]
    assert need.branches(ir.Or((two, two)), None) == [ir.Or((two, two))]


def test_a_rule_has_a_bounded_number_of_branches() -> None:
    part = ir.Or(tuple(ir.And((text("Image", "exact", f"/{i}"), ir.Flag("Killed", True))) for i in range(4)))
    assert 4 <= len(need.branches(ir.And((part, part, part, part)), None)) <= need.MAX_BRANCHES


def test_a_negated_leaf_says_nothing_but_a_negated_flag_does() -> None:
    assert only(ir.Not(text("Image", "exact", "/x"))) == ()
    granted = only(ir.Not(ir.Flag("GpuGranted", True)), "device_access")
    assert granted == (frozenset({Atom("GpuGranted", "flag", False)}),)


def test_what_is_usual_is_no_first_clause() -> None:
    usual = (ir.Flag("Initiated", True), text("Protocol", "exact", "tcp"))
    ports = ir.Or((ir.Number("DestinationPort", "eq", 4444), ir.Number("DestinationPort", "eq", 5555)))
    clauses = only(ir.And((*usual, ports)), "network_connection")
    assert clauses == (frozenset(Atom("DestinationPort", "number", port) for port in (4444, 5555)),)


def test_a_flag_that_costs_no_look_up_stands_beside_a_rare_clause() -> None:
    rule = ir.And(
        (text("Image", "suffix", "/ssh"), ir.Flag("DestinationIsLoopback", False), ir.Flag("Initiated", True))
    )
    assert only(rule, "network_connection") == (
        frozenset({Atom("Image", "name", "ssh")}),
        frozenset({Atom("DestinationIsLoopback", "flag", False)}),
    )


def test_a_literal_that_holds_another_of_its_clause_is_left_out() -> None:
    rule = ir.Or((text("CommandLine", "contains", "xmrig"), text("CommandLine", "contains", "xmrig-cuda")))
    assert only(rule) == (frozenset({Atom("CommandLine", "literal", b"xmrig")}),)


def test_a_clause_that_the_better_one_says_already_is_not_asked_again() -> None:
    rule = ir.And((text("CommandLine", "contains", "-o remoteforward"), text("CommandLine", "contains", "forward")))
    assert only(rule) == (frozenset({Atom("CommandLine", "literal", b"-o remoteforward")}),)
    python = ir.And((text("CommandLine", "contains", "python -c"), text("CommandLine", "contains", "python")))
    assert only(python) == (frozenset({Atom("CommandLine", "literal", b"python -c")}),)


def test_an_everyday_program_or_word_is_asked_for_a_second_clause_and_a_rare_one_is_not() -> None:
    beside = text("ParentCommandLine", "contains", "postinstall")
    assert len(only(ir.And((text("Image", "suffix", "/curl"), beside, text("User", "exact", "u"))))) == 1
    shells = ir.Or((text("Image", "suffix", "/sh"), text("Image", "suffix", "/bash")))
    assert only(ir.And((shells, ir.Number("EffectiveUid", "eq", 0))))[1:] == (
        frozenset({Atom("EffectiveUid", "number", 0)}),
    )


def test_a_word_of_every_third_line_is_not_searched_for_behind_a_rarer_one() -> None:
    regex = ir.Regex("CommandLine", "\\bcurl\\s.*/.*\\|\\s*sh")
    assert frozenset({Atom("CommandLine", "literal", b"/")}) not in only(regex)
    assert frozenset(Atom("CommandLine", "literal", value) for value in (b"; ", b";sh")) in only(regex)


def test_a_shell_goes_on_to_another_command_by_signs_that_are_no_blank() -> None:
    assert normal(" a|b;c && d ") == b" a;b;c ;; d "
    assert normal("'x'=(y)") == b" x   y "
