"""Which names the addresses of each sandbox have: from its DNS answers and from its own hosts file.

For display, and for asking whether a server name was ever resolved. A name is as good as its source:
whoever is root in a sandbox writes its hosts file and may run a resolver of its own, and so gives any
address any name. What a configured resolver said goes before both, and `trusted_name` gives only that;
nothing may be held for harmless by a name of another source.
"""

from __future__ import annotations

from collections import Counter
from socket import AF_INET, AF_INET6, inet_pton
from typing import Literal

from msgspec import Struct

from sensor.enrich.addresses import Address, describe

NAME_MAX = 253  # a host name's bound; what is longer is no host's
NAMES_MAX = 4  # of one address: a CDN's serves many, the last ones say what it is used for
KNOWN_MAX = 32  # names of one address, by hash, that `has_name` remembers

Source = Literal["resolver", "dns", "hosts"]
_RANKS: dict[str, int] = {"hosts": 0, "dns": 1, "resolver": 2}
_KEY_BYTES = 8
_TRUSTED = _RANKS["resolver"]

_Name = tuple[int, str, int]  # rank, name, until


class NamesSettings(Struct, frozen=True, forbid_unknown_fields=True):
    addresses_per_sandbox: int = 2048  # a browser meets 1,000 in a day
    addresses: int = 32768  # in all sandboxes: 0.45 KB each, 15 MB in all; up to 2 KB where a sandbox works at it
    kept_s: int = 3600  # a name is shown this long after its time to live: flows outlive it


class _Entry:
    __slots__ = ("known", "names")

    def __init__(self) -> None:
        self.names: list[_Name] = []  # best last: by source, then by time
        self.known = b""  # hashes, as `_key` writes them


def address_of(text: str) -> Address | None:
    """As connect records tell it: ::ffff:a.b.c.d is IPv4. None where the text is no address."""
    family = AF_INET6 if ":" in text else AF_INET
    try:
        return describe(family, inet_pton(family, text))
    except (OSError, ValueError):  # ValueError: a NUL, or not encodable
        return None


class Names:
    """Times are CLOCK_MONOTONIC nanoseconds. Addresses are text as `address_of` gives it, names are lower case."""

    def __init__(self, settings: NamesSettings | None = None) -> None:
        self._settings = settings or NamesSettings()
        self._kept_ns = self._settings.kept_s * 1_000_000_000
        self.sandboxes: dict[int, dict[str, _Entry]] = {}  # of each, the entry longest unchanged first
        self._count = 0
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._count

    def learn(  # noqa: PLR0917 - an answer's parts
        self, sandbox_id: int, name: str, address: str, until_ns: int, source: Source, aliases: tuple[str, ...] = ()
    ) -> None:
        """`aliases`: the names of the CNAME chain that led to this address."""
        if not name or not address or len(name) > NAME_MAX:
            return
        held = self.sandboxes.get(sandbox_id, {})
        entry = held.pop(address, None)
        if entry is None:
            self._make_room(held)
            entry = _Entry()
            self._count += 1
        # Only now: making room may have dropped this sandbox's last entry, and itself with it.
        self.sandboxes.setdefault(sandbox_id, held)[address] = entry
        _add(entry, (_RANKS[source], name, until_ns))
        for known in (name, *aliases):
            if (key := _key(known)) not in entry.known:
                entry.known = (entry.known + key)[-KNOWN_MAX * _KEY_BYTES :]

    def name_of(self, sandbox_id: int, address: str, now_ns: int) -> str:
        """The best source's latest; "" where none is known."""
        entry = self._entry(sandbox_id, address)
        if entry is not None:
            for _, name, until_ns in reversed(entry.names):
                if until_ns + self._kept_ns > now_ns:
                    return name
        return ""

    def names_of(self, sandbox_id: int, address: str, now_ns: int) -> list[str]:
        """At most NAMES_MAX, the best first."""
        entry = self._entry(sandbox_id, address)
        names = reversed(entry.names) if entry is not None else ()
        return list(dict.fromkeys(name for _, name, until_ns in names if until_ns + self._kept_ns > now_ns))

    def trusted_name(self, sandbox_id: int, address: str, now_ns: int) -> str:
        """The latest that a configured resolver gave, "" where none did: for whatever excuses by a name."""
        entry = self._entry(sandbox_id, address)
        if entry is not None:
            for rank, name, until_ns in reversed(entry.names):
                if rank == _TRUSTED and until_ns + self._kept_ns > now_ns:
                    return name
        return ""

    def asked(self, sandbox_id: int, address: str) -> bool:
        """Whether the sandbox learned this address by a name."""
        return self._entry(sandbox_id, address) is not None

    def has_name(self, sandbox_id: int, address: str, name: str) -> bool:
        """Whether this very name, or one whose CNAMEs lead through it, gave the address. A common suffix is not
        enough: two customers of one CDN have it, and fronting is just that."""
        entry = self._entry(sandbox_id, address)
        return entry is not None and _key(name.lower().removesuffix(".")) in entry.known

    def forget(self, sandbox_id: int) -> None:
        self._count -= len(self.sandboxes.pop(sandbox_id, ()))

    def _entry(self, sandbox_id: int, address: str) -> _Entry | None:
        held = self.sandboxes.get(sandbox_id)
        return None if held is None else held.get(address)

    def _make_room(self, held: dict[str, _Entry]) -> None:
        if len(held) >= self._settings.addresses_per_sandbox:
            del held[next(iter(held))]
            self._count -= 1
            self.counters["names_dropped_sandbox"] += 1
        if self._count >= self._settings.addresses:
            # Of the sandbox that holds most, so that a flood costs others nothing; a quarter at once, so
            # that the search for it is paid by many.
            sandbox_id, largest = max(self.sandboxes.items(), key=lambda item: len(item[1]))
            dropped = list(largest)[: max(1, len(largest) // 4)]
            for address in dropped:
                del largest[address]
            self._count -= len(dropped)
            self.counters["names_dropped_all"] += len(dropped)
            if not largest:
                del self.sandboxes[sandbox_id]


def _key(name: str) -> bytes:
    """Eight bytes of a keyed hash, which nobody can make collide; one that is found across two of them would be
    a chance of 1 in 2^64."""
    return hash(name).to_bytes(_KEY_BYTES, "little", signed=True)


def _add(entry: _Entry, new: _Name) -> None:
    """One name may stand there once for each source: else a hosts file could lengthen what a resolver said."""
    rank, name, until_ns = new
    for old in entry.names:
        if old[0] == rank and old[1] == name:
            entry.names.remove(old)
            until_ns = max(until_ns, old[2])
            break
    at = len(entry.names)
    while at and entry.names[at - 1][0] > rank:
        at -= 1
    entry.names.insert(at, (rank, name, until_ns))
    if len(entry.names) > NAMES_MAX:
        del entry.names[0]
