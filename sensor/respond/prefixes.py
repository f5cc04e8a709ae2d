"""Denied protocols by their first bytes, as the automaton that the probes run (probes/judge.bpf.c).

A pattern is a sequence of byte sets; one with `anywhere` may have anything between its first byte and the rest. All
patterns are run side by side: a state is the set of places at which they stand.

There is one automaton for all classes, and each denies what it likes. Where a pattern of a protocol that is not denied
ends, the others must go on: they do in state 2, of which there is but one, so that the probes need not look it up.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from sensor.events.layouts import Prefix

ACCEPT = 192  # PF_ACCEPT
GOES_ON = 32  # beside the protocol in such a value: what is not denied goes on in state ONWARD
STATES = 192  # PF_AUTOMATON_STATES; state 0 is the dead one, 1 the first
ONWARD = 2
HORIZON = 256  # PF_AUTOMATON_BYTES: of a stream, what is looked at
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
_JSON_SPACE: _Bytes = frozenset(b" \t\r\n")  # RFC 8259, 2
_NEWLINES: _Bytes = frozenset(b"\r\n")  # RFC 9112, 2.2: servers pass over empty lines before a request


class Pattern(Struct, frozen=True):
    protocol: Prefix
    places: tuple[_Bytes, ...]
    anywhere: bool = False  # from the second place on: it may begin wherever it likes
    skipped: _Bytes = frozenset()  # what its readers pass over before it


def _text(text: str) -> tuple[_Bytes, ...]:
    return tuple(frozenset({byte}) for byte in text.encode())


def _one(byte: int) -> _Bytes:
    return frozenset({byte})


def _stratum(text: str) -> Pattern:
    """Keys come in any order, but Stratum v1 is an object a line."""
    return Pattern(Prefix.STRATUM, (_one(ord("{")), *_text(text)), anywhere=True, skipped=_JSON_SPACE)


PATTERNS: tuple[Pattern, ...] = (
    Pattern(Prefix.SSH, _text("SSH-")),
    Pattern(Prefix.BORE, _text('{"Hello"'), skipped=_JSON_SPACE),
    Pattern(Prefix.HTTP_CONNECT, _text("CONNECT "), skipped=_NEWLINES),
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

    :raises ValueError: the patterns need more states than the probes have room for, or more than one to go on in.
    """
    known = tuple(patterns)
    start = frozenset((index, 0) for index in range(len(known)))
    numbers = {frozenset[_Place](): 0, start: 1}
    waiting = [start]
    if onward := _onward(known, start):
        numbers[onward] = ONWARD
        waiting.append(onward)
    rows: list[bytes] = [bytes(256)]
    while waiting:
        row = []
        here = waiting.pop(0)
        for byte in range(256):
            after = frozenset(_step(known, here, byte))
            done = _done(known, after)
            if done is not None:
                row.append(ACCEPT + done + (GOES_ON if _others(known, after, done) else 0))
                continue
            if after not in numbers:
                numbers[after] = len(numbers)
                waiting.append(after)
            row.append(numbers[after])
        if len(numbers) > STATES:
            raise ValueError(f"the denied protocols need more states than the probes have: {STATES}")
        rows.append(bytes(row))
    return rows


def _onward(patterns: tuple[Pattern, ...], start: frozenset[_Place]) -> frozenset[_Place]:
    """The one state in which something goes on behind the end of another protocol's pattern; empty where none is."""
    found: set[frozenset[_Place]] = set()
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        for after in {frozenset(_step(patterns, here, byte)) for byte in range(256)}:
            done = _done(patterns, after)
            goes_on = after if done is None else _others(patterns, after, done)
            if done is not None and goes_on:
                found.add(goes_on)
            if goes_on not in seen:
                seen.add(goes_on)
                waiting.append(goes_on)
    if len(found) > 1:
        raise ValueError("behind the patterns of protocols that are not denied there is more than one way to go on")
    return found.pop() if found else frozenset()


def _done(patterns: tuple[Pattern, ...], state: frozenset[_Place]) -> Prefix | None:
    return min((patterns[index].protocol for index, at in state if at == len(patterns[index].places)), default=None)


def _others(patterns: tuple[Pattern, ...], state: frozenset[_Place], done: Prefix) -> frozenset[_Place]:
    return frozenset((index, at) for index, at in state if patterns[index].protocol != done)


def _step(patterns: tuple[Pattern, ...], here: frozenset[_Place], byte: int) -> Iterable[_Place]:
    for index, place in here:
        pattern = patterns[index]
        if byte in pattern.places[place]:
            yield index, place + 1
        if (pattern.anywhere and place == 1) or (place == 0 and byte in pattern.skipped):
            yield index, place


def mask(names: Iterable[str]) -> int:
    """Bits of pf_class.denied_protocols."""
    return sum(1 << NAMES[name] for name in set(names))
