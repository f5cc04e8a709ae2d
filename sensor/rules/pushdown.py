"""What the kernel can decide of the loaded rules: which opens and connects none of them can match.

A rule is asked about what the probes know of an event (its device class, its port, whether it goes to this host itself)
with everything else left open; only a plain no counts. So what is not sent could not have matched. Of connects only
repeats are left out: the first to each destination is lineage.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from sensor.events.layouts import Device
from sensor.rules import ir

DEVICES = tuple(device.name.lower() for device in Device if device is not Device.ORDINARY)
MOST_PORTS = 4096  # of a zone; what wants more wants all
_LAST_PORT = 65535
_LOCAL = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128")))
_OPEN: Mapping[str, str | int | bool] = {"Verdict": "allowed", "Granted": True}
_REPEAT: Mapping[str, str | int | bool] = {
    "Verdict": "allowed",
    "Repeat": True,
    "Initiated": True,
    "DestinationPath": "",
    "SourceIp": "",
    "SourcePort": 0,
}
_ZONES = {True: {"DestinationIsLoopback": True, "DestinationIsPrivate": True}, False: {"DestinationIsLoopback": False}}

Known = Mapping[str, str | int | bool]


class Wants(Struct, frozen=True):
    """What one rule could match. `devices`: classes of granted opens. `local` and `outward`: ports of repeated connects
    to this host itself and elsewhere; None: to all of them."""

    devices: tuple[str, ...] = ()
    behaviors: tuple[str, ...] = ()
    local: tuple[int, ...] | None = ()
    outward: tuple[int, ...] | None = ()


class Pushdown(Struct, frozen=True):
    """`devices`: classes of which no granted open is wanted. The others as in Wants, of all rules."""

    devices: tuple[str, ...] = ()
    local: tuple[int, ...] | None = None
    outward: tuple[int, ...] | None = None


EVERYTHING = Pushdown()
_DERIVED = ("tun_flow", "fan_out")  # by detectors that count what could be left out


def of_rule(category: str, expression: ir.Expression) -> Wants:
    if category == "device_access":
        return Wants(tuple(name for name in DEVICES if can_match(expression, {**_OPEN, "DeviceClass": name})))
    if category == "network_behavior":
        return Wants(behaviors=tuple(name for name in _DERIVED if can_match(expression, {"Behavior": name})))
    if category == "network_connection":
        return Wants(local=_ports(expression, local=True), outward=_ports(expression, local=False))
    return NOTHING


NOTHING = Wants()


def joined(wants: Iterable[Wants]) -> Pushdown:
    wants = [each for each in wants if each != NOTHING]
    behaviors = {name for each in wants for name in each.behaviors}
    devices = {name for each in wants for name in each.devices} | ({"tun"} if "tun_flow" in behaviors else set())
    left = tuple(name for name in DEVICES if name not in devices)
    if "fan_out" in behaviors:  # it counts distinct destinations in windows, which repeats keep from sliding on
        return Pushdown(left)
    return Pushdown(left, _union(each.local for each in wants), _union(each.outward for each in wants))


def said(category: str, wants: Wants) -> list[str]:
    """For whoever asks what a rule costs in the kernel; nothing of a category that is always sent."""
    if category == "device_access":
        kinds = ", ".join(wants.devices)
        return [f"granted opens of {kinds} are sent for it" if kinds else "no granted open is sent for it"]
    if category != "network_connection":
        return []
    zones = (("to this host itself", wants.local), ("elsewhere", wants.outward))
    return [f"repeated connects {where} are sent for it: {_ports_said(ports)}" for where, ports in zones]


def _ports_said(ports: tuple[int, ...] | None) -> str:
    if ports is None:
        return "all"
    some = ", ".join(map(str, ports[:16]))
    return f"ports {some}{', …' if len(ports) > 16 else ''}" if ports else "none"


def _union(ports: Iterable[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    found: set[int] = set()
    for each in ports:
        if each is None or len(found.union(each)) > MOST_PORTS:
            return None
        found.update(each)
    return tuple(sorted(found))


def _ports(expression: ir.Expression, *, local: bool) -> tuple[int, ...] | None:
    known = {**_REPEAT, **_ZONES[local]}
    if not can_match(expression, known):
        return ()
    wanted: set[int] = set()
    # What a rule says of ports changes at those that it names, and nowhere else.
    edges = sorted({0, *(near for port in _named(expression) for near in (port, port + 1) if 0 < near <= _LAST_PORT)})
    for first, last in zip(edges, [*edges[1:], _LAST_PORT + 1], strict=True):
        if can_match(expression, {**known, "DestinationPort": first}):
            if last - first + len(wanted) > MOST_PORTS:
                return None
            wanted.update(range(first, last))
    return tuple(sorted(wanted))


def _named(item: ir.Expression) -> Iterator[int]:
    """Ports at which a comparison may change."""
    if isinstance(item, (ir.And, ir.Or)):
        for part in item.items:
            yield from _named(part)
    elif isinstance(item, ir.Not):
        yield from _named(item.item)
    elif isinstance(item, (ir.Number, ir.Text)) and item.attribute == "DestinationPort":
        yield from [int(item.value)] if isinstance(item, ir.Number) or item.value.isdecimal() else []


def can_match(expression: ir.Expression, known: Known) -> bool:
    return _value(expression, known) is not False


def _value(item: ir.Expression, known: Known) -> bool | None:
    """None: what is known does not tell."""
    if isinstance(item, ir.And):
        values = [_value(part, known) for part in item.items]
        return False if False in values else None if None in values else True
    if isinstance(item, ir.Or):
        values = [_value(part, known) for part in item.items]
        return True if True in values else None if None in values else False
    if isinstance(item, ir.Not):
        value = _value(item.item, known)
        return None if value is None else not value
    if isinstance(item, ir.Constant):
        return item.value
    if item.attribute == "DestinationIp":
        return _address(item, known)
    return _leaf(item, known[item.attribute]) if item.attribute in known else None


def _leaf(item: ir.Leaf, value: str | int | bool) -> bool | None:
    if isinstance(item, ir.Flag):
        return bool(value) is item.value
    if isinstance(item, ir.Empty):
        return value == ""
    if isinstance(item, ir.Number) and isinstance(value, int):
        return _compared(item, value)
    if isinstance(item, ir.Text):
        text = str(value)
        subject = text if item.cased else ir.fold(text)
        if item.shape == "exact":
            return subject == item.value
        if item.attribute != "DestinationPort":  # of which only whole numbers are looked at, see `_named`
            shapes = {"prefix": subject.startswith, "suffix": subject.endswith, "contains": subject.__contains__}
            return bool(shapes[item.shape](item.value))
    return None


def _compared(item: ir.Number, value: int) -> bool:
    if item.compare == "eq":
        return value == item.value
    if item.compare in {"lt", "lte"}:
        return value < item.value or (item.compare == "lte" and value == item.value)
    return value > item.value or (item.compare == "gte" and value == item.value)


def _address(item: ir.Leaf, known: Known) -> bool | None:
    """False where this host's own addresses are none of those that are meant. An empty one is never sent."""
    if isinstance(item, ir.Empty):
        return False
    if not known.get("DestinationIsLoopback"):
        return None
    try:
        if isinstance(item, ir.Cidr):
            network = ipaddress.ip_network(item.network, strict=False)
        elif isinstance(item, ir.Text) and item.shape == "exact":
            network = ipaddress.ip_network(item.value)
        else:
            return None
    except ValueError:
        return None
    # Of two families `overlaps` is False; a mapped address is told as its IPv4 one.
    return None if any(network.overlaps(own) for own in _LOCAL if own.version == network.version) else False
