"""A policy out of what a sandbox was seen to do: a class in monitor mode and examples, as YAML, to be read by a person.

Values are only what was checked: addresses, names of the DNS, numbers, our own words. What else came from a sandbox
stands in comments, in ASCII and on one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import get_args

from msgspec import Struct

from sensor.configassign import CLASS_NAME
from sensor.configdevices import DEVICE_CLASSES, HIGHEST_INDEX
from sensor.confignetwork import (
    MAPPED_BITS,
    MOST_RANGES,
    MOST_RESOLVERS,
    DeniedProtocol,
    Dns,
    Egress,
    EgressEntry,
    Prefix,
    dns_problems,
    egress_problems,
    merged,
    packed_address,
    prefix_of,
    ranges_of,
    truncated,
)
from sensor.enrich.gpus import ACCEL, DRM, NVIDIA, NVIDIA_MODESET
from sensor.errors import UsageError
from sensor.respond.seen import Seen

MOST_ENTRIES = 256
MOST_EXAMPLES = 64
MOST_SINGLES = 8  # GPUs one by one; more are their class
MOST_TOLD = 20  # of a kind, in comments
NEIGHBOURS = 8  # so many addresses of a /24 (IPv6: /64) with the same ports are its network
_WATCHED = {NVIDIA: "nvidia", DRM: "drm", ACCEL: "accel"}


class Listed(Struct):
    """An entry to be, with how often it was used and of how many addresses."""

    to: str
    protocol: str
    ports: tuple[int, ...]
    count: int
    addresses: int = 1


def suggest(lines: Iterable[bytes], sandbox: str, class_name: str) -> str:
    """`lines` of the log in any order; `sandbox`: a name or an id.

    :raises UsageError: the log has nothing of it, or the class's name is none.
    """
    if not CLASS_NAME.fullmatch(class_name):
        raise UsageError(f"class: expected 1 to 32 letters, digits, _ and -, found {class_name[:64]!a}")
    seen = Seen(sandbox)
    seen.take_all(lines)
    if not seen.lines:
        raise UsageError(f"the log has nothing of a sandbox {sandbox[:64]!a}")
    return "\n".join([*_head(seen, sandbox), *_policy(seen, class_name), ""])


def _policy(seen: Seen, class_name: str) -> list[str]:
    resolvers = _resolvers(seen)
    entries = _entries(seen, named=bool(resolvers))
    kept = _fitting(sorted(entries, key=lambda one: -one.count)[:MOST_ENTRIES])
    granted, devices = _devices(seen)
    text = []
    if any(packed_address(each.to.partition("/")[0]) is None for each in kept):
        text += ["dns:", f"  resolvers: [{', '.join(json.dumps(each) for each in resolvers)}]"]
    text += [
        "classes:",
        f"  {json.dumps(class_name)}:",
        "    mode: monitor  # enforce, once `pinfold events` shows nothing refused that should not be",
        f"    granted_devices: [{', '.join(json.dumps(each) for each in granted)}]",
        *(f"    {line}" for line in devices),
        "    responses: {high: log, critical: quarantine}",
        *_programs(seen),
        *_protocols(seen),
        "    egress:",
        "      default: deny",
        "      allow:" if kept else "      allow: []",
        *(f"      - {_entry(each)}" for each in kept),
    ]
    if len(entries) > len(kept):
        text.append(f"      # {len(entries) - len(kept)} further destinations are left out, the least used")
    examples = [*_asked(class_name, kept), *_asked_devices(class_name, granted)][:MOST_EXAMPLES]
    return [*text, "examples:" if examples else "examples: []", *examples]


# What is said about it.


def _head(seen: Seen, sandbox: str) -> list[str]:
    text = [
        f"# Suggested from {seen.lines} lines of the log of the sandbox {json.dumps(sandbox[:200])}.",
        "# It allows what was seen, whatever that was: an attack that ran is among it. Read every line, take out what",
        "# the sandbox has no business with, and keep the class in monitor mode until nothing is refused that should",
        "# not be.",
    ]
    told = [f"{level}: {title}" for (level, title), _ in seen.detections.most_common()]
    if told:
        text.append("# Detections in it, which should be understood first:")
        text += _comments(told, [count for _, count in seen.detections.most_common()])
    refused = seen.refused.most_common()
    if refused:
        text.append("# Refused while it ran, and not allowed here:")
        text += _comments([name for name, _ in refused], [count for _, count in refused])
    other = seen.other.most_common()
    if other:
        text.append("# Sent by protocols that no entry names; `protocol: any` without ports would allow them:")
        text += _comments([name for name, _ in other], [count for _, count in other])
    if seen.unreadable or seen.left_out:
        lost = seen.unreadable + sum(seen.left_out.values())
        text.append(f"# {lost} lines could not be read, or were beyond what is kept here.")
    return text


def _comments(names: list[str], counts: list[int]) -> list[str]:
    text = [f"#   {json.dumps(name)}: {count}" for name, count in zip(names, counts, strict=True)]
    return text[:MOST_TOLD] + ([f"#   and {len(text) - MOST_TOLD} more"] if len(text) > MOST_TOLD else [])


def _programs(seen: Seen) -> list[str]:
    def said(count: int) -> str:
        return f"  # seen {count} times" if count else ""

    return [
        "    denied_executables:",
        f"      memfd: {'false' if seen.memfd else 'true'}{said(seen.memfd)}",
        f"      deleted: {'false' if seen.deleted else 'true'}{said(seen.deleted)}",
        f"    shells_on_sockets: {'allow' if seen.shell_on_socket else 'deny'}{said(seen.shell_on_socket)}",
    ]


def _protocols(seen: Seen) -> list[str]:
    deniable: tuple[str, ...] = get_args(DeniedProtocol)
    text = [f"    denied_protocols: [{', '.join(name for name in deniable if not seen.protocols[name])}]"]
    known = [(name, count) for name, count in seen.protocols.most_common() if name]
    if known:
        told = ", ".join(f"{name} {count}" for name, count in known[:MOST_TOLD])
        text.append(f"    # protocols seen: {json.dumps(told)}")
    return text


# Devices.


def _devices(seen: Seen) -> tuple[list[str], list[str]]:
    """What to grant, and comments."""
    singles: dict[str, set[int]] = {}
    classes: set[str] = set()
    for name, kind, major, minor in seen.devices:
        watched = _WATCHED.get(major) if kind == "char" else None
        if watched is not None and watched == name and minor <= HIGHEST_INDEX:
            singles.setdefault(name, set()).add(minor)
        elif name in DEVICE_CLASSES and not (major == NVIDIA and minor >= NVIDIA_MODESET) and name != "ordinary":
            classes.add(name)
    if "nvidia" in classes and "nvidia" in singles and _only_memory(seen):
        classes.discard("nvidia")  # nvidia-uvm comes with each single GPU
    classes |= {name for name, minors in singles.items() if len(minors) > MOST_SINGLES}
    granted = sorted(classes)
    for name, minors in sorted(singles.items()):
        granted += [f"{name}:{minor}" for minor in sorted(minors)] if name not in classes else []
    opened = seen.devices.most_common()
    alone = [] if "nvidia" in {grant.partition(":")[0] for grant in granted} else _controls(seen)
    names = [f"{kind} {major}:{minor} of class {name}" for (name, kind, major, minor), _ in opened]
    return granted, [*_comments(names, [count for _, count in opened]), *alone]


def _controls(seen: Seen) -> list[str]:
    """Of a sandbox that opened no GPU: granting these would be granting the class, every GPU of it."""
    if any(major == NVIDIA and minor >= NVIDIA_MODESET for _, _, major, minor in seen.devices):
        return ["# nvidiactl and nvidia-modeset are not granted: they come with a GPU, of which none was opened"]
    return []


def _only_memory(seen: Seen) -> bool:
    """Whether the nodes of class nvidia beside GPUs and controls are nvidia-uvm's first alone."""
    others = {(major, minor) for name, _, major, minor in seen.devices if name == "nvidia" and major != NVIDIA}
    return len(others) == 1 and all(not minor for _, minor in others)


# Destinations.


def _resolvers(seen: Seen) -> list[str]:
    """Those that answered this sandbox, as far as they may be configured."""
    fit = [each for each in sorted(seen.resolvers) if not list(dns_problems(Dns(resolvers=(each,))))]
    return fit[:MOST_RESOLVERS]


def _entries(seen: Seen, *, named: bool) -> list[Listed]:
    ports: dict[tuple[str, str], set[int]] = {}
    counts: dict[tuple[str, str], int] = {}
    for (address, protocol, port), count in seen.destinations.items():
        to = (seen.name_of(address) if named and protocol != "icmp" else "") or address
        ports.setdefault((to, protocol), set()).add(port)
        counts[to, protocol] = counts.get((to, protocol), 0) + count
    listed = [
        Listed(to, protocol, () if protocol == "icmp" else tuple(sorted(found)), counts[to, protocol])
        for (to, protocol), found in ports.items()
    ]
    return _networks(listed)


def _networks(listed: list[Listed]) -> list[Listed]:
    """Neighbours with the same protocol and ports as one network, where there are many of them."""
    groups: dict[tuple[Prefix, str, tuple[int, ...]], list[Listed]] = {}
    rest = []
    for each in listed:
        value = packed_address(each.to)
        if value is None:
            rest.append(each)
            continue
        bits = MAPPED_BITS + 24 if Prefix(value, 128).four else 64
        groups.setdefault((Prefix(truncated(value, bits), bits), each.protocol, each.ports), []).append(each)
    for (prefix, protocol, ports), members in groups.items():
        if len(members) < NEIGHBOURS:
            rest += members
            continue
        count = sum(each.count for each in members)
        rest.append(Listed(_written(prefix), protocol, ports, count, len(members)))
    return rest


def _written(prefix: Prefix) -> str:
    """As an entry has it."""
    if prefix.four:
        address = prefix.value & 0xFFFFFFFF
        quads = ".".join(str(address >> shift & 0xFF) for shift in (24, 16, 8, 0))
        return f"{quads}/{prefix.bits - MAPPED_BITS}"
    groups = ":".join(f"{prefix.value >> shift & 0xFFFF:x}" for shift in range(112, -16, -16))
    return f"{groups}/{prefix.bits}"


def _fitting(listed: list[Listed]) -> list[Listed]:
    """What the kernel's entries have room for: where ports are too many, all of them."""
    for each in listed:
        if len(_ranges(each)) > MOST_RANGES:
            each.ports = ()
    for _ in range(len(listed) + 1):
        egress = Egress("deny", tuple(map(_of, listed)))
        problem = next(egress_problems((), egress), None)
        if problem is None:
            break
        if len(problem.path) > 1 and isinstance(problem.path[1], int):
            listed[problem.path[1]].ports = ()
        else:  # different ports in all names together
            for each in listed:
                if prefix_of(each.to) is None:
                    each.ports = ()
    return listed


def _of(each: Listed) -> EgressEntry:
    protocol = {"tcp": "tcp", "udp": "udp", "icmp": "icmp"}[each.protocol]
    return EgressEntry(each.to, tuple(_ranges(each)), protocol)  # type: ignore[arg-type]


def _ranges(each: Listed) -> list[int | str]:
    if not each.ports:
        return []
    joined = merged(ranges_of(EgressEntry("0.0.0.0", each.ports, "tcp")))  # noqa: S104 - no address is asked
    return [one.low if one.low == one.high else f"{one.low}-{one.high}" for one in joined]


def _entry(each: Listed) -> str:
    ports = ", ".join(json.dumps(one) for one in _ranges(each))
    fields = f"to: {json.dumps(each.to)}" + (f", ports: [{ports}]" if ports else "") + f", protocol: {each.protocol}"
    many = f", {each.addresses} addresses" if each.addresses > 1 else ""
    return f"{{{fields}}}  # {each.count} times{many}"


# Examples.


def _asked(class_name: str, kept: list[Listed]) -> list[str]:
    text = []
    for each in kept:
        host = each.to.partition("/")[0]
        shown = f"[{host}]" if ":" in host else host
        port = each.ports[0] if each.ports else 443
        where = f"{shown}/icmp" if each.protocol == "icmp" else f"{shown}:{port}/{each.protocol}"
        if port or each.protocol == "icmp":
            text.append(_example(class_name, "connect", where))
    return text


def _asked_devices(class_name: str, granted: list[str]) -> list[str]:
    majors = {name: major for major, name in _WATCHED.items()}
    text = []
    for grant in granted:
        name, _, minor = grant.partition(":")
        text.append(_example(class_name, "device", f"{majors[name]}:{minor}" if minor else name))
    return text


def _example(class_name: str, kind: str, value: str) -> str:
    return f"- {{class: {json.dumps(class_name)}, {kind}: {json.dumps(value)}, expect: allowed}}"
