"""The automaton of denied protocols, against what the patterns say in plain words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.events.layouts import Prefix
from sensor.respond import prefixes
from sensor.respond.prefixes import ACCEPT, GOES_ON, NAMES, ONWARD, STATES, Pattern, automaton, mask

PROBES = Path(__file__).parents[2] / "probes"
ROWS = automaton()
ALL = mask(NAMES)
METHODS = rb"[\x00-\x03\x05-\x09\x80]"
JSON = rb"[ \t\r\n]*"
# Written again, as regular expressions of a whole prefix: with its last byte the protocol is certain.
ORACLES = {
    Prefix.SSH: re.compile(rb"SSH-", re.DOTALL),
    Prefix.BORE: re.compile(JSON + rb'\{"Hello"', re.DOTALL),
    Prefix.HTTP_CONNECT: re.compile(rb"[\r\n]*CONNECT ", re.DOTALL),
    Prefix.SOCKS: re.compile(
        rb"\x05(?:\x01%(m)b|\x02%(m)b{2}|\x03%(m)b{3}|\x04%(m)b{4})|\x04[\x01\x02].{6}[\x00\x20-\x7e]"
        % {b"m": METHODS},
        re.DOTALL,
    ),
    Prefix.STRATUM: re.compile(
        JSON
        + rb'\{.*?(?:"mining\.|"eth_submit|"eth_login|"eth_getWork|"login"|"keepalived"|EthereumStratum/|plain_proof)',
        re.DOTALL,
    ),
}


def run(data: bytes, denied: int, rows: list[bytes] = ROWS) -> tuple[Prefix, int] | None:
    """As the probes do: which protocol, and how many bytes it took."""
    state = 1
    for at, byte in enumerate(data[: prefixes.HORIZON], 1):
        state = rows[state][byte]
        if state >= ACCEPT:
            if denied >> (state & 31) & 1:
                return Prefix(state & 31), at
            state = ONWARD if state & GOES_ON else 0
        if not state:
            return None
    return None


def expected(data: bytes, denied: int) -> tuple[Prefix, int] | None:
    found = [
        (match.end(), protocol)
        for protocol, oracle in ORACLES.items()
        if denied >> protocol & 1 and (match := oracle.match(data[: prefixes.HORIZON]))
    ]
    return (min(found)[1], min(found)[0]) if found else None


FRAGMENTS = [
    *(b"SSH-", b"SS", b"CONNECT ", b"CONNECT", b'{"Hello"', b'{"Hel', b"{", b"}", b'"', b"\n", b"\r\n", b" ", b"\t"),
    *(b'"mining.', b'"mining', b'"minin"mining.', b'"eth_', b'"eth_submit', b'"eth_login', b'"eth_getWork'),
    *(b'"login"', b'"login', b'"keepalived"', b"EthereumStratum/", b"Ethereum", b"plain_", b"plain_proof"),
    *(b'"id":1,', b'"params":[]', b"\5\1\0", b"\5\2\0\2", b"\5\3\0\1\2", b"\5\4", b"\4\1\0\x50\1\2\3\4", b"\4\2"),
    *(b"u", b"\0", b"\5", b"\x80", b"a" * 60),
]  # fmt: skip
streams = st.one_of(
    st.binary(max_size=40),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=3)), max_size=14).map(b"".join),
)
masks = st.one_of(st.just(ALL), st.sets(st.sampled_from(sorted(NAMES))).map(mask))


@given(streams, masks)
def test_it_finds_what_the_patterns_say_at_their_last_byte(data: bytes, denied: int) -> None:
    assert run(data, denied) == expected(data, denied)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", (Prefix.SSH, 4)),
        (b"CONNECT relay.test:443 HTTP/1.1\r\n", (Prefix.HTTP_CONNECT, 8)),
        (b"\r\nCONNECT relay.test:443 HTTP/1.1\r\n", (Prefix.HTTP_CONNECT, 10)),
        (b'{"Hello":0}\0', (Prefix.BORE, 8)),
        (b"\5\1\0", (Prefix.SOCKS, 3)),
        (b"\5\2\0\2", (Prefix.SOCKS, 4)),
        (b"\4\1\0\x50\1\2\3\4user\0", (Prefix.SOCKS, 9)),
        (b'{"id":1,"method":"mining.subscribe"}', (Prefix.STRATUM, 25)),
        (b'{"minin"mining.', (Prefix.STRATUM, 15)),
        (b"GET / HTTP/1.1\r\n", None),
        (b"\x16\3\1\2\0\1\0\1\xfc\3\3", None),
        (b'["mining.subscribe"]', None),
        (b"\5\0", None),
        (b"\5\5\0\0\0\0\0", None),
        (b"\5\1\4", None),
        (b"\4\3\0\x50\1\2\3\4u", None),
        (b" SSH-2.0", None),
    ],
)
def test_each_protocol(data: bytes, found: tuple[Prefix, int] | None) -> None:
    assert run(data, ALL) == found == expected(data, ALL)


def test_what_is_not_denied_is_no_way_past_what_is() -> None:
    said = b'{"Hello":0,"method":"mining.subscribe"}'
    assert run(said, mask(["bore", "stratum"])) == (Prefix.BORE, 8)
    assert run(said, mask(["stratum"])) == (Prefix.STRATUM, 28)
    assert run(said, mask(["bore"])) == (Prefix.BORE, 8)
    assert run(said, mask(["ssh"])) is None


def test_only_the_beginning_of_a_stream_is_looked_at() -> None:
    late = b'{"x":"' + b"y" * (prefixes.HORIZON - 14) + b'"mining.'
    assert len(late) == prefixes.HORIZON
    assert run(late, ALL) == (Prefix.STRATUM, prefixes.HORIZON)
    assert run(late.replace(b"y", b"yy", 1), ALL) is None


def test_it_is_within_the_probes_bounds() -> None:
    text = (PROBES / "judge.bpf.c").read_text()
    defined = dict(re.findall(r"#define (PF_ACCEPT|PF_AUTOMATON_STATES|PF_AUTOMATON_BYTES) +([0-9]+)", text))
    assert defined == {
        "PF_ACCEPT": str(ACCEPT),
        "PF_AUTOMATON_STATES": str(STATES),
        "PF_AUTOMATON_BYTES": str(prefixes.HORIZON),
    }
    assert len(ROWS) <= STATES <= ACCEPT
    assert all(len(row) == 256 for row in ROWS)
    assert not any(ROWS[0])
    values = {value for row in ROWS for value in row}
    assert max(value for value in values if value < ACCEPT) == len(ROWS) - 1
    assert {Prefix(value & 31) for value in values if value >= ACCEPT} == set(ORACLES)
    assert max(Prefix) < GOES_ON


def test_every_state_is_reached() -> None:
    """A row that nothing leads to would be one of the few that there is room for."""
    seen, waiting = {1}, [1]
    while waiting:
        for value in set(ROWS[waiting.pop()]):
            after = ONWARD if value >= ACCEPT and value & GOES_ON else 0 if value >= ACCEPT else value
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    assert seen == set(range(len(ROWS)))


def test_too_many_states_are_refused() -> None:
    long = Pattern(Prefix.SSH, (frozenset({1}),) * STATES)
    with pytest.raises(ValueError, match="need more states than the probes have"):
        automaton([long])
    fits = Pattern(Prefix.SSH, (frozenset({1}),) * (STATES - 1))
    assert len(automaton([fits])) == STATES


def test_two_ways_to_go_on_are_refused() -> None:
    def text(protocol: Prefix, pattern: bytes) -> Pattern:
        return Pattern(protocol, tuple(frozenset({byte}) for byte in pattern))

    patterns = [text(Prefix.SSH, b"a"), text(Prefix.BORE, b"ax"), text(Prefix.SOCKS, b"b"), text(Prefix.STRATUM, b"bx")]
    with pytest.raises(ValueError, match="more than one way to go on"):
        automaton(patterns)
    rows = automaton(patterns[:2])
    assert run(b"ax", 1 << Prefix.BORE, rows) == (Prefix.BORE, 2)
    assert run(b"ax", 1 << Prefix.SSH, rows) == (Prefix.SSH, 1)
    assert run(b"bx", 1 << Prefix.BORE, rows) is None


def test_a_mask_has_a_bit_for_each_name_once() -> None:
    assert mask([]) == 0
    assert mask(["ssh", "ssh"]) == 1 << Prefix.SSH
    assert mask(NAMES) == sum(1 << protocol for protocol in Prefix if protocol is not Prefix.NONE)
