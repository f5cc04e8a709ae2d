"""What the configuration says about networks: egress lists, denied protocols, resolvers, flow telling.

The arithmetic of prefixes and port ranges is here and not beside the maps, since a list that does not
fit the kernel's entry must be refused with its line, and not when it is loaded.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from typing import Literal, cast

from msgspec import Struct

from sensor.configfile import KeyPath, Problem, found

DeniedProtocol = Literal["ssh", "stratum", "socks", "wireguard", "bore", "http-connect"]

MOST_ENTRIES = 1024  # of one class
MOST_RANGES = 8  # struct pf_egress
MOST_RESOLVERS = 16
MOST_NAME_CHARACTERS = 253  # RFC 1035, 2.3.4, as text
ANY, ICMP, TCP, UDP, ICMP6 = 0, socket.IPPROTO_ICMP, socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6
ADDRESS_BITS, MAPPED_BITS = 128, 96
MAPPED = 0xFFFF << 32  # ::ffff:0:0/96, where IPv4 is in the kernel's keys
HIGHEST_PORT = 65535


class EgressEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """`to`: an address, a network, a name, or *.suffix, which is every name below the suffix and not itself."""

    to: str
    ports: tuple[object, ...] = ()  # 443 or "8000-8010", as `port_range` reads them; none: all, and what has no ports
    protocol: Literal["any", "tcp", "udp", "icmp"] = "any"


class Egress(Struct, frozen=True, forbid_unknown_fields=True):
    default: Literal["allow", "deny"] = "allow"  # what is not in the list
    allow: tuple[EgressEntry, ...] = ()
    loopback: Literal["allow", "deny"] = "allow"


class Dns(Struct, frozen=True, forbid_unknown_fields=True):
    resolvers: tuple[str, ...] = ()  # whose answers count for names in egress lists
    ttl_cap_seconds: int = 300
    private_answers: Literal["deny", "allow"] = "deny"


class Flows(Struct, frozen=True, forbid_unknown_fields=True):
    full_per_peer: int = 64
    window_seconds: int = 10
    sample_one_in: int = 64
    late_seconds: int = 1
    sample_seconds: int = 60
    idle_seconds: int = 30
    table: int = 65536  # a power of two: the kernel's index is a mask
    pause_ms: int = 1000
    after_inversion_ms: int = 500


class Prefix(Struct, frozen=True, gc=False):
    """A network as the trie has it: IPv4 in ::ffff:0:0/96, its bits counted from there."""

    value: int
    bits: int

    @property
    def four(self) -> bool:
        return self.bits >= MAPPED_BITS and self.value >> 32 == MAPPED >> 32


class Range(Struct, frozen=True, order=True, gc=False):
    """Ports `low` to `high`. What has no ports is looked up with port 0."""

    protocol: int  # IP protocol number, or ANY
    low: int
    high: int


EVERYTHING = Range(ANY, 0, HIGHEST_PORT)
# Linux connects 0.0.0.0 and :: to itself (ip_route_connect, tcp_v6_connect): they are loopback too.
LOOPBACK = (Prefix(MAPPED | 127 << 24, 104), Prefix(MAPPED, 128), Prefix(1, 128), Prefix(0, 128))

_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
# RFC 1123, 2.1: what ends in a label of digits alone is read as an address.
_NAME = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PROTOCOLS = {"any": ANY, "tcp": TCP, "udp": UDP}

_TTL_SECONDS = (30, 86400)
_FLOWS = {
    "full_per_peer": (1, 65536),
    "window_seconds": (1, 3600),
    "sample_one_in": (1, 65536),
    "late_seconds": (1, 3600),
    "sample_seconds": (1, 3600),
    "idle_seconds": (1, 3600),
    "pause_ms": (10, 3_600_000),
    "after_inversion_ms": (0, 60_000),
}
_TABLE = (1024, 1 << 22)


# Reading an entry.


def packed_address(text: str) -> int | None:
    """128 bits, IPv4 as ::ffff:a.b.c.d; None where it is no address."""
    try:
        if ":" in text:
            return int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
        return MAPPED | int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):  # ValueError: a NUL, or half a character
        return None


def truncated(value: int, bits: int) -> int:
    return value >> (ADDRESS_BITS - bits) << (ADDRESS_BITS - bits)


def prefix_of(to: str) -> Prefix | None:
    """None where it is no address or network; one with bits set beyond its length is none."""
    prefix = _network(to)
    return prefix if prefix is not None and truncated(prefix.value, prefix.bits) == prefix.value else None


def name_of(to: str) -> str | None:
    """Folded; None where it is no name."""
    name = to.lower()
    fits = len(name.removeprefix("*.")) <= MOST_NAME_CHARACTERS and _NAME.fullmatch(name)
    return name if fits else None


def port_range(value: object) -> tuple[int, int] | None:
    """Lowest and highest; None where the value is no port and no range of ports."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value) if 0 <= value <= HIGHEST_PORT else None
    match = _PORTS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    low, high = int(match[1]), int(match[2] or match[1])
    return (low, high) if max(low, high) <= HIGHEST_PORT else None


def ranges_of(entry: EgressEntry) -> tuple[Range, ...]:
    """Of a valid entry, merged."""
    if entry.protocol == "icmp":
        prefix = prefix_of(entry.to)
        return (Range(ICMP if prefix is None or prefix.four else ICMP6, 0, HIGHEST_PORT),)
    protocol = _PROTOCOLS[entry.protocol]
    if not entry.ports:
        return (Range(protocol, 0, HIGHEST_PORT),)
    ranges: list[Range] = []
    for low, high in filter(None, map(port_range, entry.ports)):
        # Port 0 of ANY would be ICMP and the like, which an entry with ports does not mean.
        protocols = (TCP, UDP) if protocol == ANY and low == 0 else (protocol,)
        ranges += (Range(each, low, high) for each in protocols)
    return merged(ranges)


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same ports in the fewest ranges: no two overlap or touch, and none of one protocol is within one of ANY."""
    joined: list[Range] = []
    for each in sorted(ranges):  # those of ANY come first
        last = joined[-1] if joined else None
        if last is not None and last.protocol == each.protocol and each.low <= last.high + 1:
            joined[-1] = Range(each.protocol, last.low, max(last.high, each.high))
        else:
            joined.append(each)
    wide = [each for each in joined if each.protocol == ANY]
    return tuple(
        each
        for each in joined
        if each.protocol == ANY or not any(one.low <= each.low and each.high <= one.high for one in wide)
    )


def prefixes(egress: Egress) -> dict[Prefix, tuple[Range, ...]]:
    """Entries of the trie for a list with `default: deny`. The trie answers with the longest prefix alone, so each
    has the ports of all that cover it. Names are not among them."""
    own: dict[Prefix, list[Range]] = {}
    if egress.loopback == "allow":
        own = {prefix: [EVERYTHING] for prefix in LOOPBACK}
    for entry in egress.allow:
        if (prefix := prefix_of(entry.to)) is not None:
            own.setdefault(prefix, []).extend(ranges_of(entry))
    if any(not prefix.four and truncated(MAPPED, prefix.bits) == prefix.value for prefix in own):
        # ::/0 and the like cover IPv4's place in the trie, and do not mean IPv4.
        own.setdefault(Prefix(MAPPED, MAPPED_BITS), [])
    lengths = sorted({prefix.bits for prefix in own}, reverse=True)
    table: dict[Prefix, tuple[Range, ...]] = {}
    for prefix in sorted(own, key=lambda one: one.bits):
        least = MAPPED_BITS if prefix.four else 0
        around = [bits for bits in lengths if least <= bits < prefix.bits]
        table[prefix] = merged([*own[prefix], *longest(table, around, prefix.value)])
    return table


def longest(table: dict[Prefix, tuple[Range, ...]], lengths: Iterable[int], value: int) -> tuple[Range, ...]:
    """What the trie answers. `lengths`: those in the table, longest first."""
    for bits in lengths:
        found_ranges = table.get(Prefix(truncated(value, bits), bits))
        if found_ranges is not None:
            return found_ranges
    return ()


def _network(to: str) -> Prefix | None:
    host, slash, length = to.partition("/")
    value = packed_address(host)
    most, first = (ADDRESS_BITS, 0) if ":" in host else (32, MAPPED_BITS)
    if value is None or (slash and not re.fullmatch(r"[0-9]{1,3}", length)) or int(length or most) > most:
        return None
    return Prefix(value, first + int(length or most))


# What is wrong.


def egress_problems(at: KeyPath, egress: Egress) -> Iterator[Problem]:
    """`at`: the path of the list."""
    if egress.default == "allow":
        # Taken as it stands, it would limit nothing, and whoever wrote it means it to.
        if egress.allow:
            yield Problem((*at, "allow"), "no list unless `default: deny`", found(egress.allow))
        if egress.loopback == "deny":
            yield Problem((*at, "loopback"), "allow unless `default: deny`", found(egress.loopback))
        return
    if len(egress.allow) > MOST_ENTRIES:
        yield Problem((*at, "allow"), f"at most {MOST_ENTRIES} entries", found(len(egress.allow)))
        return
    problems = [each for index, entry in enumerate(egress.allow) for each in _entry((*at, "allow", index), entry)]
    yield from problems or _too_many_ranges((*at, "allow"), egress)


def _entry(at: KeyPath, entry: EgressEntry) -> Iterator[Problem]:
    address = bool(re.fullmatch(r"[0-9.]*|.*[:/].*", entry.to, re.DOTALL))
    if (expected := _address_problem(entry.to) if address else _name_problem(entry.to)) is not None:
        yield Problem((*at, "to"), expected, found(entry.to))
    if entry.protocol == "icmp" and not address:
        yield Problem((*at, "protocol"), "any, tcp or udp for a name", found(entry.protocol))
    if entry.protocol == "icmp" and entry.ports:
        yield Problem((*at, "ports"), "no ports with `protocol: icmp`", found(entry.ports))
    for index, value in enumerate(entry.ports):
        ports = port_range(value)
        if ports is None:
            expected = f'a port from 0 to {HIGHEST_PORT}, or a range such as "8000-8010"'
            yield Problem((*at, "ports", index), expected, found(value))
        elif ports[0] > ports[1]:
            yield Problem((*at, "ports", index), "the lower port first", found(value))


def _address_problem(to: str) -> str | None:
    if _network(to) is None:
        return "an address, a network such as 10.0.0.0/8, a name, or *.suffix"
    return None if prefix_of(to) is not None else "a network without bits beyond its length, such as 10.0.0.0/8"


def _name_problem(to: str) -> str | None:
    return None if name_of(to) is not None else "a name of letters, digits, - and ., with *. at most in front"


def _too_many_ranges(at: KeyPath, egress: Egress) -> Iterator[Problem]:
    table = prefixes(egress)
    names: set[Range] = set()
    for index, entry in enumerate(egress.allow):
        prefix = prefix_of(entry.to)
        ranges = ranges_of(entry) if prefix is None else table[prefix]
        if len(ranges) > MOST_RANGES:
            expected = f"at most {MOST_RANGES} ranges, merged and with those of the networks around it"
            yield Problem((*at, index, "ports"), expected, found(len(ranges)))
        elif prefix is None:
            names.update(ranges)
    # One address may serve all of the names: its entry must have room for any of them together.
    if len(names) > MOST_RANGES:
        yield Problem(at, f"at most {MOST_RANGES} different port ranges in all its names", found(len(names)))


def dns_problems(dns: Dns) -> Iterator[Problem]:
    if len(dns.resolvers) > MOST_RESOLVERS:
        yield Problem(("dns", "resolvers"), f"at most {MOST_RESOLVERS}", found(len(dns.resolvers)))
        return
    for index, text in enumerate(dns.resolvers):
        value = packed_address(text)
        if value is None:
            yield Problem(("dns", "resolvers", index), "an address", found(text))
        elif any(truncated(value, prefix.bits) == prefix.value for prefix in LOOPBACK):
            # On its own loopback a sandbox is the resolver itself, and would allow itself any address.
            yield Problem(("dns", "resolvers", index), "an address that is not loopback", found(text))
    least, most = _TTL_SECONDS
    if not least <= dns.ttl_cap_seconds <= most:
        yield Problem(("dns", "ttl_cap_seconds"), f"{least} to {most}", found(dns.ttl_cap_seconds))


def flow_problems(flows: Flows) -> Iterator[Problem]:
    for name, (least, most) in _FLOWS.items():
        if not least <= (value := cast(int, getattr(flows, name))) <= most:
            yield Problem(("flows", name), f"{least} to {most}", found(value))
    least, most = _TABLE
    if not least <= flows.table <= most or flows.table & (flows.table - 1):
        yield Problem(("flows", "table"), f"a power of two from {least} to {most}", found(flows.table))
