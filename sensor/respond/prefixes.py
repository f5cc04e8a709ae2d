"""Denied protocols by their first bytes, as the automaton that the probes run (probes/flow.bpf.c).

A pattern is a sequence of byte sets; one with `anywhere` may have anything between its first byte and the rest. All
patterns are run side by side: a state is the set of places at which they stand.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from sensor.events.layouts import Prefix

ACCEPT = 192  # PF_ACCEPT
STATES = 192  # PF_AUTOMATON_STATES; state 0 is the dead one, 1 the first
NAMES = {
    "ssh": Prefix.SSH,
    "stratum": Prefix.STRATUM,
    "socks": Prefix.SOCKS,
    "wireguard": Prefix.WIREGUARD,  # a datagram of one length: looked at without the automaton
    "bore": Prefix.BORE,
    "http-connect": Prefix.HTTP_CONNECT,
}

_Bytes = frozenset[int]
_ANY: _Bytes = frozenset(range(256))
_METHODS: _Bytes = frozenset({0, 1, 2, 3, 5, 6, 7, 8, 9, 0x80})  # IANA's SOCKS methods


class Pattern(Struct, frozen=True):
    protocol: Prefix
    places: tuple[_Bytes, ...]
    anywhere: bool = False  # from the second place on: it may begin wherever it likes


def _text(text: str) -> tuple[_Bytes, ...]:
    return tuple(frozenset({byte}) for byte in text.encode())


def _one(byte: int) -> _Bytes:
    return frozenset({byte})


def _stratum(text: str) -> Pattern:
    """Keys come in any order, but Stratum v1 is an object a line."""
    return Pattern(Prefix.STRATUM, (_one(ord("{")), *_text(text)), anywhere=True)


PATTERNS: tuple[Pattern, ...] = (
    Pattern(Prefix.SSH, _text("SSH-")),
    Pattern(Prefix.BORE, _text('{"Hello"')),
    Pattern(Prefix.HTTP_CONNECT, _text("CONNECT ")),
    *(Pattern(Prefix.SOCKS, (_one(5), _one(n), *([_METHODS] * n))) for n in range(1, 5)),
    # Version 4: a command, a port, an address, and the first byte of a user's name or its end.
    Pattern(Prefix.SOCKS, (_one(4), frozenset({1, 2}), *([_ANY] * 6), frozenset({0, *range(0x20, 0x7F)}))),
    *(
        _stratum(text)
        for text in (
            '"mining.', '"eth_submit', '"eth_login', '"eth_getWork', '"login"', '"keepalived"', "EthereumStratum/",
            "plain_proof",
        )
    ),
)  # fmt: skip

_Place = tuple[int, int]  # pattern, how many of its bytes have come


def automaton(patterns: Iterable[Pattern] = PATTERNS) -> list[bytes]:
    """A row of 256 next states for each state, row 0 all zero. A value of ACCEPT or more names the protocol.

    :raises ValueError: the patterns need more states than the probes have room for.
    """
    known = tuple(patterns)
    start = frozenset((index, 0) for index in range(len(known)))
    numbers: dict[frozenset[_Place], int] = {frozenset(): 0, start: 1}
    rows: list[bytes] = [bytes(256)]
    waiting = [start]
    while waiting:
        row = bytearray(256)
        here = waiting.pop(0)
        for byte in range(256):
            after = frozenset(_step(known, here, byte))
            done = sorted(known[index].protocol for index, place in after if place == len(known[index].places))
            if done:
                row[byte] = ACCEPT + done[0]
                continue
            if after not in numbers:
                numbers[after] = len(numbers)
                waiting.append(after)
            row[byte] = numbers[after] if numbers[after] < ACCEPT else 0
        rows.append(bytes(row))
    if len(rows) > STATES:
        raise ValueError(f"the denied protocols need {len(rows)} states, the probes have {STATES}")
    return rows


def _step(patterns: tuple[Pattern, ...], here: frozenset[_Place], byte: int) -> Iterable[_Place]:
    for index, place in here:
        pattern = patterns[index]
        if byte in pattern.places[place]:
            yield index, place + 1
        if pattern.anywhere and place == 1:
            yield index, 1


def mask(names: Iterable[str]) -> int:
    """Bits of pf_class.denied_protocols."""
    return sum(1 << NAMES[name] for name in set(names))
