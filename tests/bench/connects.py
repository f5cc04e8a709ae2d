"""Connects as the probes write them into the ring: of many processes, to addresses as an agent's work has them."""

from __future__ import annotations

import random
import socket

from sensor.events import layouts
from tests.bench.records import SANDBOX_ID, Lives, framed, layout_of, packed

PROCESSES = 2000
# Of the recorded programs those that do connect: with sed or stat in their place every fifth event is an attack.
PROGRAMS = frozenset({"curl", "git", "pip", "python3.11"})
MIX = (
    "of curl, git, pip and python; 74 % TCP to some hundred peers, 3 % to peers never seen before,"
    " 13 % UDP to resolvers, 10 % unix sockets"
)
_CONNECT = layout_of(layouts._PF_CONNECT, layouts.Connect)
_UNIX = layout_of(layouts._PF_CONNECT_UNIX, layouts.ConnectUnix, "target")
_PORTS = (443, 443, 443, 443, 80, 80, 22, 8080, 5432, 6379, 8000, 9418)
_RESOLVERS = ("10.0.0.2", "127.0.0.53", "fd00::53")
_SOCKETS = (b"/run/dbus/system_bus_socket\0", b"/run/nscd/socket\0", b"/tmp/.X11-unix/X0\0", b"/tmp/app/server.sock\0")
_BETWEEN = 20_000  # nanoseconds


class Connects:
    """Without end, by the processes of `lives`, which go on living."""

    def __init__(self, lives: Lives, seed: int = 1) -> None:
        self._who = lives.who
        self._chance = random.Random(seed)  # noqa: S311 (variety, not secrets)
        self._peers = [_four(self._chance) for _ in range(250)] + [_six(self._chance) for _ in range(50)]
        self._time_ns = max(who.exec_ns for who in lives.who)
        self._cookie = 0

    def records(self, count: int) -> bytes:
        return b"".join(framed(self._record()) for _ in range(count))

    def _record(self) -> bytes:
        chance = self._chance
        drawn = chance.random()
        if drawn < 0.10:
            return packed(_UNIX, **self._common(layouts.Type.CONNECT_UNIX), target=chance.choice(_SOCKETS))
        protocol, port, (family, address) = socket.IPPROTO_TCP, chance.choice(_PORTS), chance.choice(self._peers)
        if drawn < 0.23:
            protocol, port, (family, address) = socket.IPPROTO_UDP, 53, _packed_address(chance.choice(_RESOLVERS))
        elif drawn < 0.26:
            family, address = _six(chance) if chance.random() < 0.2 else _four(chance)
        self._cookie += 1
        return packed(
            _CONNECT, **self._common(layouts.Type.CONNECT), cookie=self._cookie, family=family, address=address,
            port=port, protocol=protocol,
        )  # fmt: skip

    def _common(self, kind: int) -> dict[str, int]:
        self._time_ns += _BETWEEN
        who = self._chance.choice(self._who)
        return {
            "type": kind, "time_ns": self._time_ns, "tgid": who.tgid, "tid": who.tgid, "exec_id": who.exec_ns,
            "maker_sandbox_id": SANDBOX_ID, "maker_exec_id": who.exec_ns, "maker_tgid": who.tgid, "count": 1,
            "first_ns": self._time_ns, "last_ns": self._time_ns, "uid": 1000,
        }  # fmt: skip


def _packed_address(text: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return family, socket.inet_pton(family, text).ljust(16, b"\0")


def _four(chance: random.Random) -> tuple[int, bytes]:
    return socket.AF_INET, bytes([chance.choice((1, 10, 52, 104, 140, 151, 185)), *chance.randbytes(3)]).ljust(
        16, b"\0"
    )


def _six(chance: random.Random) -> tuple[int, bytes]:
    return socket.AF_INET6, b"\x26\x06" + chance.randbytes(14)
