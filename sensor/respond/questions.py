"""What an operator may ask a policy: connects, devices, programs, detections, as they are written on a command line."""

from __future__ import annotations

import re

from msgspec import Struct

from sensor.configfile import found
from sensor.confignetwork import ICMP, ICMP6, MAPPED_BITS, TCP, UDP, name_of, packed_address
from sensor.errors import UsageError
from sensor.respond.policy import Subject

MOST_CHARACTERS = 4096
_PROTOCOLS = {"tcp": TCP, "udp": UDP}
_KINDS = ("memfd", "deleted", "written-inside", "shell-on-socket")


class Connect(Struct, frozen=True):
    to: str  # an address, or a name
    port: int  # 0 where the protocol has none
    protocol: int  # IP protocol number
    address: int | None  # 128 bits, IPv4 as ::ffff:a.b.c.d; None of a name


class Device(Struct, frozen=True):
    """A class's name, a node below /dev, or kind:major:minor."""

    text: str


class Exec(Struct, frozen=True):
    """One of them."""

    path: str = ""  # or a name without /
    sha256: str = ""
    kind: str = ""  # memfd, deleted, written-inside, shell-on-socket


Question = Connect | Device | Exec | Subject


def connect(text: str) -> Connect:
    """`192.0.2.1:443`, `[2001:db8::1]:443/udp`, `github.com:22`, `192.0.2.1/icmp`; tcp where no protocol is named.

    :raises UsageError: it is nothing of that kind.
    """
    where, _, protocol = text[:MOST_CHARACTERS].partition("/")
    match = re.fullmatch(
        r"\[([^\]]*)\](?::([0-9]{1,5}))?|([^:\[\]]*|[0-9a-fA-F:.]*::[0-9a-fA-F:.]*)(?::([0-9]{1,5}))?", where
    )
    if match is None:
        raise _no_connect(text)
    host, port = match[1] or match[3] or "", int(match[2] or match[4] or 0)
    address = packed_address(host)
    if protocol == "icmp" and address is not None and not port:
        return Connect(host, 0, ICMP if address >> (128 - MAPPED_BITS) == 0xFFFF else ICMP6, address)
    number = _PROTOCOLS.get(protocol or "tcp")
    named = name_of(host.removesuffix("."))
    if number is None or not 1 <= port <= 65535 or (address is None and (named is None or "*" in named)):
        raise _no_connect(text)
    return Connect(host if address is not None else named or "", port, number, address)


def _no_connect(text: str) -> UsageError:
    return UsageError(
        "to connect: an address or a name and a port, such as 192.0.2.1:443, [2001:db8::1]:53/udp, github.com:22 or "
        f"192.0.2.1/icmp, not {found(text)}"
    )


def device(text: str) -> Device:
    """:raises UsageError: it is empty or unprintable."""
    if not text or len(text) > MOST_CHARACTERS or not text.isprintable():
        raise UsageError(
            f"a device: nvidia0, /dev/nvidia0, 195:0, block:8:0 or a class such as nvidia, not {found(text)}"
        )
    return Device(text)


def executable(text: str) -> Exec:
    """A path, a name, `sha256:` and 64 digits, or one of memfd, deleted, written-inside and shell-on-socket.

    :raises UsageError: it is none of them.
    """
    if text in _KINDS:
        return Exec(kind=text)
    digest = text.removeprefix("sha256:").lower()
    if re.fullmatch(r"[0-9a-f]{64}", digest):
        return Exec(sha256=digest)
    named = bool(text) and "/" not in text and text not in (".", "..")
    whole = text.startswith("/") and all(part not in ("", ".", "..") for part in text[1:].split("/"))
    if not (named or whole) or text.startswith("sha256:") or not text.isprintable() or len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"a program: an absolute path, a name, sha256:DIGITS, {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, "
            f"not {found(text)}"
        )
    return Exec(path=text)
