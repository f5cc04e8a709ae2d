"""What compiled rules call. Everything here runs on text that the sandbox chose: linear time,
bounded memory, no exceptions for any text.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import re2

from sensor.rules.ir import ANY, ONE
from sensor.rules.literals import FOLDED, NORMAL

# RE2 keeps a cache of DFA states per regex up to this bound, and a sandbox can make it fill each of
# them; RE2's default of 8 MiB times the number of regexes would be more than the whole core may use.
REGEX_MEMORY = 256 << 10
# The literals' DFA has at most a state for each of their bytes, made when first needed. An RE2 set that
# cannot have its states finds nothing and says nothing, hence a bound that is never reached.
LITERALS_MEMORY = 8 << 20
LITERALS_MEMORY_PER_BYTE = 1 << 10
# Text that one index remembers; then it forgets all of it and begins again.
REMEMBERED_CHARACTERS = 256 * 1024
REMEMBERED_ADDRESSES = 4096
REMEMBERED_ADDRESS = 64  # characters
# Sets of literals found together, of which the bits are remembered; and how many a set may have.
REMEMBERED_SETS = 4096
REMEMBERED_SET = 32

_NOWHERE = (-1, -1)
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 address in an IPv6 socket

Test = Callable[[str], bool]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _options(memory: int, *, literal: bool) -> re2.Options:
    options = re2.Options()
    options.max_mem = memory
    options.log_errors = False
    options.literal = literal
    options.never_capture = True  # only whether is asked, never where: several times cheaper with groups
    return options


def to_bytes(text: str) -> bytes:
    """UTF-8; a lone surrogate, which no activity should hold, becomes a question mark."""
    return text.encode("utf-8", "replace")


def regex(pattern: str) -> Test:
    """An unanchored search. Raises re2.error for what RE2 cannot do (look-around, back-references)."""
    compiled = re2.compile(pattern.encode(), _options(REGEX_MEMORY, literal=False))
    match = _quick(compiled)
    if match is None:
        search = compiled.search
        return lambda text: search(to_bytes(text)) is not None

    def test(text: str) -> bool:
        encoded = text.encode("utf-8", "replace")
        return match(encoded, 0, len(encoded))[0] != _NOWHERE  # type: ignore[no-any-return]

    return test


def _quick(compiled: Any) -> Callable[..., Any] | None:
    """What `search` itself calls, without the generator and the match object around it, which take as long as the
    search. None where a release of google-re2 keeps it elsewhere."""
    anchor, within = getattr(re2, "_Anchor", None), getattr(compiled, "_regexp", None)
    return None if anchor is None or within is None else partial(within.Match, anchor.UNANCHORED)


def wildcard(parts: tuple[str | int, ...]) -> Test:
    """Sigma's * and ?: the whole text must match."""
    if ONE not in parts:
        return _segments(parts)
    escaped = (part if isinstance(part, int) else re2.escape(part) for part in parts)
    pattern = "".join({ANY: ".*", ONE: "."}[part] if isinstance(part, int) else part for part in escaped)
    return regex(rf"(?s)\A{pattern}\z")


def _segments(parts: tuple[str | int, ...]) -> Test:
    """Only *: the leftmost place for each literal in turn is the best one, and str.find is linear."""
    literals = [part for part in parts if isinstance(part, str)]
    head = literals.pop(0) if isinstance(parts[0], str) else ""
    tail = literals.pop() if isinstance(parts[-1], str) and literals else ""
    middle = tuple(literals)

    def test(text: str) -> bool:
        end = len(text) - len(tail)
        at = len(head)
        if at > end or not text.startswith(head) or not text.endswith(tail):
            return False
        for literal in middle:
            at = text.find(literal, at, end)
            if at < 0:
                return False
            at += len(literal)
        return True

    return test


class Networks(dict[str, int]):
    """Which of many networks an address is in: the bits of all that hold it, 0 for what is no address.

    By inet_pton and one look-up for each length of prefix: `ipaddress` takes ten times as long, and a
    sandbox that scans has every address parsed. As a dict it remembers some.
    """

    def __init__(self, masks: dict[str, int]) -> None:
        """`masks`: CIDR notation, each network once and host bits zero, to bits. Raises ValueError."""
        super().__init__()
        networks = [(ipaddress.ip_network(text), bits) for text, bits in masks.items()]
        self._four = _by_length([(network, bits) for network, bits in networks if network.version == 4])
        self._six = _by_length([(network, bits) for network, bits in networks if network.version == 6])

    def __missing__(self, text: str) -> int:
        bits = self(text)
        if len(text) <= REMEMBERED_ADDRESS:
            if len(self) >= REMEMBERED_ADDRESSES:
                self.clear()
            self[text] = bits
        return bits

    def __call__(self, text: str) -> int:
        if not text:  # a unix socket has no address, and an exception would take longer than all else
            return 0
        lengths = self._four
        try:
            if ":" in text:
                packed = inet_pton(AF_INET6, text.partition("%")[0])  # without its scope
                # An IPv4 destination written as IPv6 reaches the same host: it must not slip past an IPv4 network.
                if packed[:12] == _MAPPED:
                    packed = packed[12:]
                else:
                    lengths = self._six
            else:
                packed = inet_pton(AF_INET, text)
        except (OSError, ValueError):
            return 0
        number = int.from_bytes(packed)
        bits = 0
        for shift, prefixes in lengths:
            bits |= prefixes.get(number >> shift, 0)
        return bits


def _by_length(networks: list[tuple[_Network, int]]) -> tuple[tuple[int, dict[int, int]], ...]:
    """For each length of prefix: how many bits of an address it leaves out, and prefix to bits."""
    lengths: dict[int, dict[int, int]] = {}
    for network, bits in networks:
        shift = network.max_prefixlen - network.prefixlen
        lengths.setdefault(shift, {})[int(network.network_address) >> shift] = bits
    return tuple(lengths.items())


def cidr(*networks: str) -> Callable[[str], int]:
    """Whether an address is in any of the networks: 1 or 0."""
    return Networks(dict.fromkeys(networks, 1))


def time_part(time_ns: int, unit: str) -> int:
    """UTC minute, hour, day of the month, ISO week, month or year."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return moment.isocalendar().week if unit == "week" else int(getattr(moment, unit))


class Literals:
    """Which of many literals a text contains, in one pass: the bits of all that it does."""

    def __init__(self, masks: dict[bytes, int]) -> None:
        """`masks`: literal in normal form (literals.normal) to the bits of the clauses that it satisfies."""
        memory = max(LITERALS_MEMORY, LITERALS_MEMORY_PER_BYTE * sum(map(len, masks)))
        self._set = re2.Set.SearchSet(_options(memory, literal=True))
        for literal in masks:
            self._set.Add(literal)
        self._set.Compile()
        # As the wrapper, which only encodes what is no bytes; where a release has none around it, the same.
        self._match = getattr(self._set, "_set", self._set).Match
        same: dict[int, int] = {}  # a clause's literals have one mask
        self._masks = tuple(same.setdefault(bits, bits) for bits in masks.values())
        self._sets: dict[tuple[int, ...], int] = {}

    def find(self, text: str) -> int:
        found: list[int] | None = self._match(
            b" %b " % text.encode().translate(FOLDED)
            if text.isascii()  # folding and setting off words is one pass then
            else f" {text} ".casefold().encode("utf-8", "replace").translate(NORMAL)
        )
        if not found:
            return 0
        # Work of one kind has the same words: which sets there are repeats far more than the texts do.
        key = tuple(found)
        bits = self._sets.get(key)
        if bits is None:
            bits = 0
            for index in key:
                bits |= self._masks[index]
            if len(key) <= REMEMBERED_SET:
                if len(self._sets) >= REMEMBERED_SETS:
                    self._sets.clear()
                self._sets[key] = bits
        return bits


class FieldIndex(dict[str, int]):
    """Value of one field to the bits of the rules that it makes candidates; computed once per value.

    For fields with few distinct values (programs, users, directories). It remembers a bounded amount
    of text, so that a sandbox which invents values only makes it compute them again.
    """

    def __init__(
        self,
        exact: dict[str, int] | None = None,
        names: dict[str, int] | None = None,
        literals: dict[bytes, int] | None = None,
        networks: dict[str, int] | None = None,
    ) -> None:
        """Folded whole values; last path components; substrings; CIDR networks: each to its bits."""
        super().__init__()
        self._exact = exact or {}
        self._names = names or {}
        self._literals = Literals(literals).find if literals else None
        self._networks = Networks(networks) if networks else None
        self._characters = 0

    def __missing__(self, value: str) -> int:
        folded = value.casefold()
        bits = self._exact.get(folded, 0)
        if self._names:
            bits |= self._names.get(folded.rpartition("/")[2], 0)
        if self._literals is not None:
            bits |= self._literals(value)
        if self._networks is not None:
            bits |= self._networks(value)
        self._remember(value, bits)
        return bits

    def _remember(self, value: str, bits: int) -> None:
        self._characters += len(value) + 32  # an entry costs memory even for an empty text
        if self._characters > REMEMBERED_CHARACTERS:
            self.clear()
            self._characters = len(value) + 32
        self[value] = bits


class Numbers(dict[int, int]):
    """Value of a number to the bits of the rules that it makes candidates."""

    def __missing__(self, value: int) -> int:
        return 0


class Together(dict[tuple[str | int, ...], int]):
    """Values of several fields to the bits of all: one look-up for a program that does the same again."""

    def __init__(self, indexes: Sequence[Mapping[Any, int]], always: int) -> None:
        """`always`: the bits that are there whatever the values are."""
        super().__init__()
        self._indexes = tuple(indexes)
        self._always = always
        self._free = self._count = 0
        self._planes = 1
        self._characters = 0

    def settle(self, free: int, count: int, planes: int) -> None:
        """From here on of `planes` groups of `count` bits each only what is in all of them; `free`: in the further ones
        whatever the values are."""
        self._free, self._count, self._planes = free, count, planes

    def __missing__(self, values: tuple[str | int, ...]) -> int:
        bits, characters = self._free, 0
        for index, value in zip(self._indexes, values, strict=True):
            bits |= index[value]
            characters += (len(value) if isinstance(value, str) else 0) + 32
        if self._planes > 1:
            in_all = bits & ((1 << self._count) - 1)
            for plane in range(1, self._planes):
                in_all &= bits >> plane * self._count
            bits = in_all
        bits |= self._always
        self._characters += characters
        if self._characters > REMEMBERED_CHARACTERS:
            self.clear()
            self._characters = characters
        self[values] = bits
        return bits
