"""DNS messages of a sandbox to events, to names of addresses, and to what names an egress list lets in.

What is granted by a name rests on the answer alone, so an answer counts only where nobody in the sandbox can
have made it: it came from a configured resolver, to the socket, with the id and for the question that had left
before, and neither it nor the question went by loopback or a tun device. Loopback never counts, even
where 127.0.0.53 is configured: whoever holds port 53 there, in whichever network namespace, answers as it likes,
and a sandbox with a namespace of its own may be that. Docker's 127.0.0.11 is such a stub; where names
are to be allowed there, sandboxes need the resolver's own address (`--dns` on the default bridge).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from socket import AF_INET, AF_INET6, inet_pton
from typing import Literal

from msgspec import Struct

from sensor.enrich.addresses import Address
from sensor.enrich.domains import registered_domain
from sensor.enrich.names import Names, address_of
from sensor.enrich.protocols.dns import Message, Question, addresses_of, parse

RESULTS_MAX = 1024  # characters
QUESTIONS_TOLD = 8  # of one message; nobody but a tunnel asks more than one (RFC 9619)
CHAIN_MAX = 8
TTL_SHOWN_S = 86400
HELD_MAX = 2048  # bytes of a TCP message whose end has not come
STREAMS_MAX = 2048
STREAMS_PER_SANDBOX = 16
SANDBOXES_MAX = 16384
RESOLV_MAX_BYTES = 64 * 1024
# systemd-resolved's stub is on loopback; it writes whom it asks to the second file, which Docker reads too.
RESOLV_FILES = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")

_NS = 1_000_000_000
_STATUS = (
    *("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"),
    *("YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE"),
)
_IN = 1
_NAT64 = bytes.fromhex("0064ff9b") + bytes(8)


class DnsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`resolvers` empty: the host's own nameservers, which runtimes give to sandboxes. Where some are named, only
    these count: adding the host's would trust more than the operator wrote."""

    resolvers: tuple[str, ...] = ()
    ttl_cap_s: int = 300  # a grant outlives its name by this at most
    ttl_floor_s: int = 30  # names with a TTL of 0 are connected to a moment after all the same
    private_answers: bool = False  # an allowed name may lead to private ranges; to loopback or link-local never
    outstanding: int = 512  # questions without an answer, a sandbox
    outstanding_all: int = 16384
    outstanding_s: int = 10  # glibc and musl ask again after 5, and give up


class DnsFlow(Struct, frozen=True, gc=False):
    """Whose message it is: an answer counts for a question of the same flow only."""

    protocol: str  # tcp, udp
    cookie: int
    address: str  # the remote end, as `sensor.enrich.addresses` writes it
    port: int
    local_port: int


class DnsSeen(Struct, frozen=True, gc=False):
    """The fields of one DnsQuery event, and (name, address, until CLOCK_MONOTONIC ns) that its answer grants."""

    QueryName: str
    QueryType: str
    Answered: bool
    QueryStatus: str
    QueryResults: str
    RegisteredDomain: str
    Resolver: bool
    MessageBytes: int
    granted: list[tuple[str, str, int]]


class _Stream:
    """One direction of a TCP flow, from its first byte on, in order. What lies behind a gap is not read: bytes
    in the middle of a record, which a zone's owner chose, could pass there for another message."""

    __slots__ = ("_held", "_lost", "_next", "_skip")

    def __init__(self) -> None:
        self._next = 0
        self._held = b""
        self._skip = 0
        self._lost = False

    def feed(self, offset: int, data: bytes, length: int) -> list[bytes]:
        """Messages, each with its length before it; the last may be cut. `length`: of the piece, of which `data`
        may be only the first bytes."""
        again = self._next - offset
        if self._lost or length <= again:
            return []
        if again < 0:
            self._lost = True
            return []
        data, length = data[again:], length - again
        self._next += length
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        rest = self._held + data[skipped:]
        messages = []
        while len(rest) >= 2 and len(rest) >= (size := 2 + int.from_bytes(rest[:2], "big")):
            messages.append(rest[:size])
            rest = rest[size:]
        self._lost = length > len(data)
        if self._lost or len(rest) > HELD_MAX:
            if rest:
                messages.append(rest)
                self._skip = 2 + int.from_bytes(rest[:2], "big") - len(rest)
            rest = b""
        self._held = rest
        return messages


class _Sandbox:
    __slots__ = ("asked", "id", "streams")

    def __init__(self, sandbox_id: int) -> None:
        self.id = sandbox_id
        # Flow and id → the first question, how many there were, when they left, and whether by loopback or
        # tun; oldest first.
        self.asked: dict[tuple[DnsFlow, int], tuple[Question, int, int, bool]] = {}
        self.streams: dict[tuple[DnsFlow, bool], _Stream] = {}


class DnsTracker:
    def __init__(self, settings: DnsSettings, names: Names) -> None:
        self._settings = settings
        self._names = names
        chosen = settings.resolvers or host_resolvers()
        found = [address for address in map(address_of, chosen) if address is not None]
        self.resolvers = frozenset(address.text for address in found if not address.is_loopback)
        self._sandboxes: dict[int, _Sandbox] = {}
        self._asked = self._streams = 0
        self.counters: Counter[str] = Counter()

    def take(  # noqa: PLR0917 - a payload record's parts
        self,
        sandbox_id: int,
        flow: DnsFlow,
        data: bytes,
        incoming: bool,
        now_ns: int,
        aside: bool,
        offset: int = 0,
        length: int = 0,
    ) -> list[DnsSeen]:
        """A datagram, or a piece of a TCP stream that begins at `offset`; `length` where more of it was on the
        wire than `data`. `aside`: it went by loopback or a tun device, whatever its addresses say: root in a
        sandbox may give `lo` the resolver's address. Never raises."""
        sandbox = self._sandbox(sandbox_id)
        length = max(length, len(data))
        messages: list[Message | None]
        if flow.protocol == "tcp":
            pieces = self._stream(sandbox, (flow, incoming)).feed(offset, data, length)
            messages = [parse(piece, udp=False) for piece in pieces]
        else:
            messages = [parse(data, udp=True)]
        seen: list[DnsSeen] = []
        for message in messages:
            if message is None:
                self.counters["dns_not_parsed"] += 1
            elif message.response is incoming:  # else the sandbox is somebody's server
                size = message.wire_size if flow.protocol == "tcp" else length
                take = self._answer if incoming else self._question
                seen += take(sandbox, flow, message, now_ns, aside, size)
        return seen

    def forget(self, sandbox_id: int) -> None:
        """The sandbox is gone. Its names are `Names`' to forget."""
        sandbox = self._sandboxes.pop(sandbox_id, None)
        if sandbox is not None:
            self._streams -= len(sandbox.streams)
            self._asked -= len(sandbox.asked)

    def _sandbox(self, sandbox_id: int) -> _Sandbox:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            if len(self._sandboxes) >= SANDBOXES_MAX:
                self.forget(next(iter(self._sandboxes)))
                self.counters["dns_sandboxes_dropped"] += 1
            sandbox = self._sandboxes[sandbox_id] = _Sandbox(sandbox_id)
        return sandbox

    def _stream(self, sandbox: _Sandbox, key: tuple[DnsFlow, bool]) -> _Stream:
        stream = sandbox.streams.get(key)
        if stream is None:
            if len(sandbox.streams) >= STREAMS_PER_SANDBOX:
                self._drop_streams(sandbox, 1)
            elif self._streams >= STREAMS_MAX:
                # Of the one that holds most, and half of them: finding it costs a walk over all.
                largest = max(self._sandboxes.values(), key=lambda other: len(other.streams))
                self._drop_streams(largest, 1 + len(largest.streams) // 2)
            stream = sandbox.streams[key] = _Stream()
            self._streams += 1
        return stream

    def _drop_streams(self, sandbox: _Sandbox, count: int) -> None:
        for key in list(sandbox.streams)[:count]:
            del sandbox.streams[key]
            self._streams -= 1
            self.counters["dns_streams_dropped"] += 1

    def _drop_asked(self, sandbox: _Sandbox, count: int) -> None:
        for key in list(sandbox.asked)[:count]:
            del sandbox.asked[key]
            self._asked -= 1
            self.counters["dns_questions_dropped"] += 1

    def _question(  # noqa: PLR0917
        self, sandbox: _Sandbox, flow: DnsFlow, message: Message, now_ns: int, aside: bool, size: int
    ) -> list[DnsSeen]:
        asked, key = sandbox.asked, (flow, message.id)
        oldest = now_ns - self._settings.outstanding_s * _NS
        while asked and next(iter(asked.values()))[2] < oldest:
            del asked[next(iter(asked))]
            self._asked -= 1
        if asked.pop(key, None) is None:
            self._asked += 1
            if len(asked) >= self._settings.outstanding:
                self._drop_asked(sandbox, 1)
            elif self._asked > self._settings.outstanding_all:
                largest = max(self._sandboxes.values(), key=lambda other: len(other.asked))
                self._drop_asked(largest, 1 + len(largest.asked) // 4)
        asked[key] = (message.questions[0], len(message.questions), now_ns, aside)
        resolver = self._is_resolver(flow, aside)
        return [_seen(question, resolver, size) for question in message.questions[:QUESTIONS_TOLD]]

    def _answer(  # noqa: PLR0917
        self, sandbox: _Sandbox, flow: DnsFlow, message: Message, now_ns: int, aside: bool, size: int
    ) -> list[DnsSeen]:
        resolver = self._is_resolver(flow, aside)
        key = (flow, message.id)
        asked = sandbox.asked.get(key)
        granted: list[tuple[str, str, int]] = []
        if asked is None or now_ns - asked[2] > self._settings.outstanding_s * _NS:
            self.counters["dns_answers_unasked"] += 1
        elif message.questions[:1] != asked[:1] or len(message.questions) != asked[1]:
            self.counters["dns_answers_to_other_questions"] += 1
        else:
            del sandbox.asked[key]
            self._asked -= 1
            granted = self._learn(sandbox.id, message, now_ns, resolver and not asked[3])
        status = _STATUS[message.rcode] if message.rcode < len(_STATUS) else f"RCODE{message.rcode}"
        results = ";".join(answer.data for answer in message.answers)[:RESULTS_MAX]
        seen = [_seen(question, resolver, size, status, results) for question in message.questions[:QUESTIONS_TOLD]]
        if seen:
            seen[0].granted.extend(granted)
        return seen

    def _learn(self, sandbox_id: int, message: Message, now_ns: int, trusted: bool) -> list[tuple[str, str, int]]:
        """Names for display from every answer; what a trusted one grants is returned."""
        # A truncated answer is asked again by TCP, and what it holds is not to be used (RFC 2181, 9).
        if message.rcode or message.opcode or message.truncated or len(message.questions) != 1:
            return []
        asked = message.questions[0]
        # An escape is in no host's name, and a dot in a label is a way to look like another's subdomain.
        if asked.class_ != _IN or "\\" in asked.name:
            return []
        aliases = _chain(message, asked.name)
        granted = []
        for name, text, ttl in addresses_of(message):
            address = address_of(text)
            if address is None:
                continue
            until_ns = now_ns + min(ttl, TTL_SHOWN_S) * _NS
            self._names.learn(sandbox_id, name, address.text, until_ns, "resolver" if trusted else "dns", aliases)
            if trusted and self._may_grant(address):
                lived = min(max(ttl, self._settings.ttl_floor_s), self._settings.ttl_cap_s)
                granted.append((name, address.text, now_ns + lived * _NS))
        return granted

    def _may_grant(self, address: Address) -> bool:
        """Not what lies inside: who owns an allowed name could point it at the host's neighbours, or at the
        cloud's metadata (DNS rebinding)."""
        kind = reach(address.text)
        if kind == "public" or (kind == "private" and self._settings.private_answers):
            return True
        self.counters["dns_grants_refused_inside"] += 1
        return False

    def _is_resolver(self, flow: DnsFlow, aside: bool) -> bool:
        return not aside and flow.port == 53 and flow.address in self.resolvers


def _seen(question: Question, resolver: bool, size: int, status: str = "", results: str = "") -> DnsSeen:
    """Names are 255 bytes on the wire, so 1,016 characters with every byte escaped."""
    domain = registered_domain(question.name)
    return DnsSeen(question.name, question.type, status != "", status, results, domain, resolver, size, granted=[])


def reach(address: str) -> Literal["public", "private", "never"]:
    """Where an address that `address_of` wrote leads. IPv6 that carries an IPv4 address (NAT64 of RFC 6052, 6to4)
    leads where that does. Not `ipaddress.is_private`, whose list grows with Python."""
    if ":" not in address:
        return _reach_of_four(inet_pton(AF_INET, address))
    packed = inet_pton(AF_INET6, address)
    if packed.startswith(_NAT64):
        return _reach_of_four(packed[12:])
    if packed.startswith(b"\x20\x02"):
        return _reach_of_four(packed[2:6])
    if packed[0] & 0xFE == 0xFC or packed.startswith(b"\x00\x64\xff\x9b\x00\x01"):  # RFC 4193, RFC 8215
        return "private"
    return "public" if packed[0] & 0xE0 == 0x20 else "never"  # 2000::/3 is all that is routed


def _reach_of_four(packed: bytes) -> Literal["public", "private", "never"]:
    first, second = packed[0], packed[1]
    if first in (0, 127) or first >= 224 or (first == 169 and second == 254):
        return "never"
    inside = first == 10 or (first == 172 and 16 <= second < 32) or (first == 192 and second == 168)
    # 100.64/10 is carriers' and clouds' inside, one's metadata among it; 198.18/15 is for benchmarks (RFC 2544).
    inside = inside or (first == 100 and 64 <= second < 128) or (first == 198 and second in (18, 19))
    return "private" if inside or packed[:3] == b"\xc0\0\0" else "public"


def _chain(message: Message, asked: str) -> tuple[str, ...]:
    """The names that lead from the one asked to its addresses, by CNAMEs in whatever order they stand."""
    targets = {answer.name: answer.data for answer in message.answers if answer.type == "CNAME"}
    chain: list[str] = []
    name = asked
    while len(chain) < CHAIN_MAX and (name := targets.pop(name, "")):
        chain.append(name)
    return tuple(chain)


def host_resolvers(files: Iterable[str] = RESOLV_FILES) -> tuple[str, ...]:
    """Nameservers of the host that are not on loopback, from the first file that has any. A file that cannot be
    read has none: then no answer grants anything, which is the safe side."""
    for path in files:
        found = [address_of(text.partition("%")[0]) for text in _nameservers(path)]
        usable = tuple(address.text for address in found if address is not None and not address.is_loopback)
        if usable:
            return usable
    return ()


def _nameservers(path: str) -> list[str]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return []
            content = file.read(RESOLV_MAX_BYTES)
    except OSError:
        return []
    rows = [line.split() for line in content.decode(errors="replace").splitlines()]
    return [row[1] for row in rows if len(row) >= 2 and row[0] == "nameserver"]
