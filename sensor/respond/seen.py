"""What a sandbox was seen to do, out of lines of the log: bounded, and nothing of it trusted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from sensor.confignetwork import name_of, packed_address

MOST_KEYS = 4096  # of each kind; what exceeds it is counted in `left_out`
MOST_TEXT = 256
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "busybox", "fish", "tcsh", "csh"})
_STREAMS = ("StandardInput", "StandardOutput", "StandardError")

Destination = tuple[str, str, int]  # address as the log has it, protocol, port


class Seen:
    """`take` lines in any order, then read. Counts are attempts, repeats included."""

    def __init__(self, sandbox: str) -> None:
        self._sandbox = sandbox
        self.lines = 0
        self.unreadable = 0
        self.left_out: Counter[str] = Counter()
        self.destinations: Counter[Destination] = Counter()
        self.refused: Counter[str] = Counter()  # what it did not get
        self.devices: Counter[tuple[str, str, int, int]] = Counter()  # class, char or block, major, minor
        self.protocols: Counter[str] = Counter()
        self.detections: Counter[tuple[str, str]] = Counter()  # level, rule's title
        self.other: Counter[str] = Counter()  # IP protocols that an egress list cannot name
        self.resolvers: set[str] = set()
        self.memfd = self.deleted = self.shell_on_socket = 0
        self._names: dict[str, str] = {}  # address → name, of configured resolvers only

    def take_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.take(line)

    def take(self, line: bytes) -> None:
        try:
            record = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self.unreadable += 1
            return
        if not isinstance(record, dict) or not self._mine(record):
            return
        self.lines += 1
        kind = _text(record, "category") if record.get("kind") == "event" else _text(record, "kind")
        take = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        if take is not None:
            take(record)

    def name_of(self, address: str) -> str:
        """As a configured resolver told it; "" where none did. Whatever else tells names, the sandbox can make up."""
        return self._names.get(address, "")

    def _mine(self, record: dict[str, Any]) -> bool:
        return self._sandbox in (_text(record, "SandboxName"), str(record.get("SandboxId")))

    def _network_connection(self, record: dict[str, Any]) -> None:
        if record.get("Initiated") is True:
            self._destination(record)

    def _network_flow(self, record: dict[str, Any]) -> None:
        if record.get("Initiated") is not True:
            return
        address, name = _text(record, "DestinationIp"), name_of(_text(record, "DestinationHostname"))
        if record.get("HostnameTrusted") is True and name and len(self._names) < MOST_KEYS:
            self._names[address] = name
        if _text(record, "Phase") == "established":
            self._destination(record, again=True)

    def _destination(self, record: dict[str, Any], *, again: bool = False) -> None:
        """`again`: it was told as a connect as well, unless no hook sees such (raw ICMP)."""
        protocol, address = _text(record, "Protocol"), _text(record, "DestinationIp")
        if protocol == "unix" or record.get("DestinationIsLoopback") is True or packed_address(address) is None:
            return
        port = _number(record, "DestinationPort", 65535)
        if protocol not in ("tcp", "udp", "icmp"):
            self._add(self.other, protocol, record)
        elif _text(record, "Verdict") in ("refused", "egress", "protected", "unrecorded"):
            self._add(self.refused, f"{protocol} to {address} port {port}", record)
        else:
            key = (address, protocol, 0 if protocol == "icmp" else port)
            if not again or protocol == "icmp" or key not in self.destinations:
                self._add(self.destinations, key, record)

    def _device_access(self, record: dict[str, Any]) -> None:
        name, kind = _text(record, "DeviceClass"), _text(record, "DeviceType")
        major, minor = _number(record, "DeviceMajor", 1 << 20), _number(record, "DeviceMinor", 1 << 20)
        if _text(record, "Verdict") in ("refused", "unrecorded"):
            self._add(self.refused, f"{kind} device {major}:{minor} of class {name}", record)
        else:
            self._add(self.devices, (name, kind, major, minor), record)

    def _network_protocol(self, record: dict[str, Any]) -> None:
        name = _text(record, "ApplicationProtocol")
        proxied = name == "http" and _text(record, "Method").upper() == "CONNECT"
        self._add(self.protocols, "http-connect" if proxied else name, record)

    def _dns_query(self, record: dict[str, Any]) -> None:
        address = _text(record, "DestinationIp")
        if record.get("Resolver") is True and packed_address(address) is not None and len(self.resolvers) < MOST_KEYS:
            self.resolvers.add(address)

    def _process_creation(self, record: dict[str, Any]) -> None:
        self.memfd += record.get("ImageMemfd") is True
        self.deleted += record.get("ImageDeleted") is True
        shell = os.path.basename(_text(record, "Image")) in _SHELLS
        self.shell_on_socket += shell and any(_text(record, stream) == "socket" for stream in _STREAMS)

    def _detection(self, record: dict[str, Any]) -> None:
        rule = record.get("rule")
        if isinstance(rule, dict):
            self._add(self.detections, (_text(rule, "level"), _text(rule, "title")), {})

    def _add(self, counts: Counter[Any], key: Any, record: dict[str, Any]) -> None:
        if key in counts or len(counts) < MOST_KEYS:
            counts[key] += max(1, _number(record, "Count", 1 << 40))
        else:
            self.left_out[_text(record, "category")] += 1


_KINDS = frozenset(
    {
        "network_connection", "network_flow", "device_access", "network_protocol", "dns_query", "process_creation",
        "detection",
    }
)  # fmt: skip


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    return value[:MOST_TEXT] if isinstance(value, str) else ""


def _number(record: dict[str, Any], key: str, most: int) -> int:
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else 0
