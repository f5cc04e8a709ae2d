"""Egress lists: as entries of the kernel's maps, as grants to the addresses of names, and as a question.

The list of a class is in the trie `egress`; what its names lead to is in `egress_names`, by sandbox.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from msgspec import Struct

from sensor.bpf import state
from sensor.config import Config, SandboxClass
from sensor.confignetwork import (
    ADDRESS_BITS,
    ANY,
    LOOPBACK,
    MOST_NAME_CHARACTERS,
    MOST_RANGES,
    TCP,
    UDP,
    Egress,
    EgressEntry,
    Prefix,
    Range,
    longest,
    merged,
    name_of,
    packed_address,
    prefix_of,
    prefixes,
    ranges_of,
    truncated,
)
from sensor.respond.policy import DEFAULT_CLASS

MOST_GRANTS = 65536  # entries of the map egress_names
MOST_GRANTS_OF_SANDBOX = 1024
MOST_ENTRIES_OF_ADDRESS = 16
_CLASS_BITS = 32
_LEAST_ENDS = 1024


class Change(Struct, frozen=True, gc=False):
    """To be written to the map egress_names; without a value, to be deleted there."""

    key: bytes  # struct pf_name_key
    value: bytes | None  # struct pf_name


# For the kernel.


def compile_egress(class_id: int, egress: Egress) -> list[tuple[bytes, bytes]]:
    """Entries of the trie: (struct pf_egress_key, struct pf_egress) each. None where nothing is limited."""
    if egress.default == "allow":
        return []
    return [(_key(class_id, prefix), _ports(ranges).pack()) for prefix, ranges in prefixes(egress).items()]


def egress_entries(config: Config, numbers: Mapping[str, int]) -> dict[bytes, bytes]:
    """The whole trie, of all classes. `numbers`: of policy.class_index."""
    entries: dict[bytes, bytes] = {}
    for name, class_id in numbers.items():
        entries.update(compile_egress(class_id, config.classes.get(name, SandboxClass()).egress))
    return entries


def _key(class_id: int, prefix: Prefix) -> bytes:
    # The trie compares bytes from the first on, so the class must be big-endian there: bytes swapped in a u32.
    swapped = int.from_bytes(class_id.to_bytes(4, "big"), "little")
    return state.EgressKey(_CLASS_BITS + prefix.bits, swapped, prefix.value.to_bytes(16, "big")).pack()


def _ports(ranges: tuple[Range, ...]) -> state.Egress:
    # More than fit were refused when the configuration was read; were it otherwise, the rest is not allowed.
    kept = ranges[:MOST_RANGES]
    low = b"".join(each.low.to_bytes(2, "little") for each in kept)
    high = b"".join(each.high.to_bytes(2, "little") for each in kept)
    protocols = bytes(each.protocol for each in kept)
    size = 2 * MOST_RANGES
    return state.Egress(low.ljust(size, b"\0"), high.ljust(size, b"\0"), protocols.ljust(MOST_RANGES, b"\0"), len(kept))


# As a question.


def matches(egress: Egress, address: str, port: int, protocol: int) -> bool:
    """Whether the list allows it, names left aside, said as simply as it can be: what the compiled entries are
    tested against. `port` is 0 where the protocol has none."""
    value = packed_address(address)
    if egress.default == "allow" or value is None:
        return egress.default == "allow"
    if egress.loopback == "allow" and is_loopback(value):
        return True
    return any(prefix_of(entry.to) is not None and entry_allows(entry, value, port, protocol) for entry in egress.allow)


def is_loopback(address: int) -> bool:
    """As the probes' is_local has it. `address`: 128 bits, IPv4 as ::ffff:a.b.c.d."""
    return any(_within(address, prefix) for prefix in LOOPBACK)


def entry_allows(entry: EgressEntry, address: int | None, port: int, protocol: int) -> bool:
    """Of an entry with a name only ports and protocol are asked; `address` is None then."""
    prefix = prefix_of(entry.to)
    if prefix is None or address is None:
        return (prefix is None) == (address is None) and _allows(ranges_of(entry), port, protocol)
    return _within(address, prefix) and _allows(ranges_of(entry), port, protocol)


def _within(value: int, prefix: Prefix) -> bool:
    same_family = prefix.four == Prefix(value, ADDRESS_BITS).four
    return same_family and truncated(value, prefix.bits) == prefix.value


def _allows(ranges: Iterable[Range], port: int, protocol: int) -> bool:
    return any(each.protocol in {ANY, protocol} and each.low <= port <= each.high for each in ranges)


class NameList:
    """The names of one class's list, with the ports of each."""

    def __init__(self, egress: Egress) -> None:
        self.ranges: dict[str, tuple[Range, ...]] = {}  # by the name as it is in the list, folded
        for entry in egress.allow:
            if (name := name_of(entry.to)) is not None:
                self.ranges[name] = merged([*self.ranges.get(name, ()), *ranges_of(entry)])

    def find(self, name: str) -> list[str]:
        """The entries that a name matches. *.x.org matches a.x.org and a.b.x.org, and x.org not."""
        folded = name.lower().removesuffix(".")
        if not self.ranges or len(folded) > MOST_NAME_CHARACTERS or "*" in folded:
            return []
        found = [folded] if folded in self.ranges else []
        at = folded.find(".", 1)
        while at > 0:
            if (suffix := "*" + folded[at:]) in self.ranges:
                found.append(suffix)
            at = folded.find(".", at + 1)
        return found


class EgressPolicy:
    """For detectors. Immutable: a reload makes another one."""

    def __init__(self, config: Config) -> None:
        self._lists = {name: _List(settings.egress) for name, settings in config.classes.items()}
        self._lists.setdefault(DEFAULT_CLASS, _List(Egress()))

    def explicitly_allowed(self, sandbox_class: str, address: str, port: int, hostname: str = "") -> bool:
        """Whether an entry names it, for TCP or UDP: never so without a list, nor for loopback as such.
        `hostname` must come from the answers that count for policy, or "": a sandbox can make others up."""
        found = self._lists.get(sandbox_class)
        return (found or self._lists[DEFAULT_CLASS]).names(address, port, hostname)


class _List:
    def __init__(self, egress: Egress) -> None:
        listed = Egress(default=egress.default, allow=egress.allow, loopback="deny")
        self._table = prefixes(listed) if egress.default == "deny" else {}
        self._lengths = sorted({prefix.bits for prefix in self._table}, reverse=True)
        self._names = NameList(listed)

    def names(self, address: str, port: int, hostname: str) -> bool:
        value = packed_address(address)
        ranges = longest(self._table, self._lengths, value) if value is not None else ()
        by_name = (each for entry in self._names.find(hostname) for each in self._names.ranges[entry])
        both = (*ranges, *by_name)
        return _allows(both, port, TCP) or _allows(both, port, UDP)


# What names lead to.


class _Sandbox:
    __slots__ = ("addresses", "class_name")

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.addresses: dict[bytes, dict[str, int]] = {}  # address → entry of the list → until


class NameGrants:
    """What is in the map egress_names. Bounded: who resolves more loses what would end first, of its own.

    The kernel looks at `until_ns` itself; `expire` makes room, and takes from an address that served several
    names what only an ended one allowed. Called every few seconds, that is how much longer such ports last.
    """

    def __init__(self, config: Config, most: int = MOST_GRANTS, most_of_sandbox: int = MOST_GRANTS_OF_SANDBOX) -> None:
        self._most, self._most_of_sandbox = most, most_of_sandbox
        self._sandboxes: dict[int, _Sandbox] = {}
        self._count = 0
        self._lists = _name_lists(config)
        # (not before, sandbox, address, entry): one that was renewed is put back when its time comes, and
        # one that was dropped is passed over. Made anew when most of it may be such.
        self._ends: list[tuple[int, int, bytes, str]] = []
        self._most_ends = _LEAST_ENDS

    def __len__(self) -> int:
        return self._count

    def grant(self, sandbox_class: str, sandbox_id: int, name: str, address: str, until_ns: int) -> list[Change]:
        """After an answer that counts. Nothing where the list does not have the name. `until_ns`: CLOCK_MONOTONIC;
        it never shortens what was granted before."""
        value = packed_address(address)
        found = self._list(sandbox_class).find(name)
        if value is None or not found:
            return []
        packed = value.to_bytes(16, "big")
        known = self._sandboxes.get(sandbox_id)
        changes: list[Change] = []
        if known is None or packed not in known.addresses:
            changes += self._make_room(sandbox_id)
            self._count += 1
        sandbox = self._sandboxes.setdefault(sandbox_id, _Sandbox(sandbox_class))
        sandbox.class_name = sandbox_class
        entries = sandbox.addresses.setdefault(packed, {})
        for entry in found:
            if entry not in entries:
                heapq.heappush(self._ends, (until_ns, sandbox_id, packed, entry))
            entries[entry] = max(until_ns, entries.get(entry, 0))
        while len(entries) > MOST_ENTRIES_OF_ADDRESS:
            del entries[min(entries, key=entries.__getitem__)]
        if len(self._ends) > self._most_ends:
            self._sort_ends()
        return [*changes, self._change(sandbox_id, sandbox, packed)]

    def expire(self, now_ns: int) -> list[Change]:
        changed: dict[tuple[int, bytes], Change] = {}
        while self._ends and self._ends[0][0] <= now_ns:
            _, sandbox_id, packed, entry = heapq.heappop(self._ends)
            sandbox = self._sandboxes.get(sandbox_id)
            until_ns = sandbox.addresses.get(packed, {}).get(entry) if sandbox is not None else None
            if sandbox is None or until_ns is None:
                continue
            if until_ns > now_ns:
                heapq.heappush(self._ends, (until_ns, sandbox_id, packed, entry))
            else:
                changed[sandbox_id, packed] = self._without(sandbox_id, sandbox, packed, [entry])
        return list(changed.values())

    def forget(self, sandbox_id: int) -> list[Change]:
        """When it has ended."""
        sandbox = self._sandboxes.pop(sandbox_id, None)
        if sandbox is None:
            return []
        self._count -= len(sandbox.addresses)
        return [Change(_name_key(sandbox_id, packed), None) for packed in sandbox.addresses]

    def reload(self, config: Config, classes: Mapping[int, str]) -> list[Change]:
        """Under another configuration: what its lists have no more ends, the rest goes on with their ports.
        `classes`: by sandbox id, as they are now; who is not in it keeps the one it had."""
        self._lists = _name_lists(config)
        changes: list[Change] = []
        for sandbox_id, sandbox in list(self._sandboxes.items()):
            sandbox.class_name = classes.get(sandbox_id, sandbox.class_name)
            ranges = self._list(sandbox.class_name).ranges
            for packed, entries in list(sandbox.addresses.items()):
                gone = [entry for entry in entries if entry not in ranges]
                changes.append(self._without(sandbox_id, sandbox, packed, gone))
        return changes

    def _list(self, sandbox_class: str) -> NameList:
        return self._lists.get(sandbox_class) or self._lists[DEFAULT_CLASS]

    def _without(self, sandbox_id: int, sandbox: _Sandbox, packed: bytes, gone: list[str]) -> Change:
        entries = sandbox.addresses[packed]
        for entry in gone:
            del entries[entry]
        return self._change(sandbox_id, sandbox, packed) if entries else self._drop(sandbox_id, packed)

    def _make_room(self, sandbox_id: int) -> list[Change]:
        own = self._sandboxes.get(sandbox_id)
        held = len(own.addresses) if own is not None else 0
        if self._count < self._most and held < self._most_of_sandbox:
            return []
        if not held:  # all is taken, by others: from the one that has most
            sandbox_id = max(self._sandboxes, key=lambda each: len(self._sandboxes[each].addresses))
        addresses = self._sandboxes[sandbox_id].addresses
        return [self._drop(sandbox_id, min(addresses, key=lambda packed: max(addresses[packed].values())))]

    def _drop(self, sandbox_id: int, packed: bytes) -> Change:
        sandbox = self._sandboxes[sandbox_id]
        del sandbox.addresses[packed]
        self._count -= 1
        if not sandbox.addresses:
            del self._sandboxes[sandbox_id]
        return Change(_name_key(sandbox_id, packed), None)

    def _change(self, sandbox_id: int, sandbox: _Sandbox, packed: bytes) -> Change:
        entries = sandbox.addresses[packed]
        known = self._list(sandbox.class_name).ranges
        ports = _ports(merged(each for entry in entries for each in known.get(entry, ())))
        value = state.Name(max(entries.values()), ports.low, ports.high, ports.protocol, ports.count)
        return Change(_name_key(sandbox_id, packed), value.pack())

    def _sort_ends(self) -> None:
        self._ends = [
            (until_ns, sandbox_id, packed, entry)
            for sandbox_id, sandbox in self._sandboxes.items()
            for packed, entries in sandbox.addresses.items()
            for entry, until_ns in entries.items()
        ]
        heapq.heapify(self._ends)
        self._most_ends = 2 * len(self._ends) + _LEAST_ENDS


def _name_lists(config: Config) -> dict[str, NameList]:
    lists = {name: NameList(settings.egress) for name, settings in config.classes.items()}
    lists.setdefault(DEFAULT_CLASS, NameList(Egress()))
    return lists


def _name_key(sandbox_id: int, packed: bytes) -> bytes:
    return state.NameKey(sandbox_id, packed).pack()
