"""Flows, protocols, names, listeners and behaviours, each in one line for people: what matters most comes first,
since 80 columns leave some 40 of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Record = dict[str, Any]

_STATES = {"established": "begins", "sample": "lives", "ended": "ends"}
# What was said, the most telling first: it goes before who said it if it leaves room.
_SAID = (
    "ServerName", "Dialect", "ProtocolTarget", "Software", "Upgrade", "Subprotocol", "Method", "Path", "ProtocolUser",
    "Alpn",
)  # fmt: skip
_SHORT = 20
_UNITS = ("", "k", "M", "G", "T", "P")


def text(record: Record, name: str) -> str:
    value = record.get(name)
    return "" if value is None else str(value)


def program(record: Record) -> str:
    return text(record, "Image").rpartition("/")[2] or "?"


def endpoint(record: Record, side: str = "Destination") -> str:
    """Address and port; of what has no ports, the address."""
    address, port = text(record, f"{side}Ip"), text(record, f"{side}Port")
    shown = f"[{address}]" if ":" in address else address
    return f"{shown}:{port}" if port != "0" else shown


def named(record: Record) -> tuple[str, str]:
    """Where to, by the name that a configured resolver gave; and a name that the sandbox may have made up, for the
    line's end."""
    name = text(record, "DestinationHostname")
    if name and record.get("HostnameTrusted"):
        return f"{name}:{text(record, 'DestinationPort')}", ""
    return endpoint(record), f"({name})" if name else ""


def direction(record: Record) -> str:
    if record.get("Initiated") is False:
        # Of what was there before the sensor nobody knows who began.
        return "with" if record.get("Existing") is True else "accepts"
    return "→"


def flow(record: Record) -> str:
    phase, count = text(record, "Phase"), record.get("Count")
    state = "cut" if text(record, "EndReason") == "cut" else _STATES.get(phase, phase)
    if phase == "ended" and (why := text(record, "EndReason")) not in ("", "closed", "cut"):
        state = f"{state}, {why}"
    where, claimed = named(record)
    shown = [program(record), direction(record), text(record, "Protocol"), where, _moved(record), state]
    if phase != "established":
        shown.append(lasted(record.get("DurationMs")))
    if isinstance(count, int) and count > 1:
        shown.append(f"×{count}")
    return " ".join(filter(None, [*shown, claimed]))


def protocol(record: Record) -> str:
    """`ssh sent OpenSSH_9.2: x7k → 203.0.113.7:443`. The bytes are the role's, whoever connected; where they do not
    tell, whether the sandbox sent or received them."""
    name = text(record, "ApplicationProtocol") or "?"
    what = ["denied" if record.get("Denied") is True else "", name + "?" * (record.get("Certain") is False)]
    what.append(text(record, "ProtocolRole") or ("sent" if record.get("FromSandbox") is True else "received"))
    said = [text(record, field) for field in _SAID]
    if text(record, "ServerName") and record.get("ServerNameUnresolved") is True:
        said.insert(1, "(not looked up)")
    said = list(filter(None, said))
    if said and len(said[0]) <= _SHORT:
        what.append(said.pop(0))
    where = f"{program(record)} {direction(record)} {endpoint(record)}"
    return " ".join(filter(None, [" ".join(filter(None, what)) + ":", where, *said]))


def dns(record: Record) -> str:
    who, asked = program(record), f"{text(record, 'QueryType')} {text(record, 'QueryName')}"
    ours = record.get("Initiated") is not False
    if record.get("Answered") is not True:
        return f"{who} asks {asked} of {endpoint(record)}" if ours else f"{who} is asked {asked} by {endpoint(record)}"
    failed = "" if (status := text(record, "QueryStatus")) == "NOERROR" else status
    answer = " ".join(filter(None, (failed, text(record, "QueryResults")))) or "nothing"
    return f"{who} {'is told' if ours else 'tells'} {asked} = {answer}"


def listen(record: Record) -> str:
    where = f"*:{text(record, 'SourcePort')}" if record.get("SourceIsAny") is True else endpoint(record, "Source")
    return f"{program(record)} listens on {text(record, 'Protocol')} {where}"


def behavior(record: Record) -> str:
    """`relay 85: x7k → 203.0.113.7:443 to 127.0.0.1:22, dial=15 conservation=45 protocol=25`."""
    shown = [f"{text(record, 'Behavior')} {text(record, 'Score')}: {program(record)}"]
    where, claimed = named(record) if text(record, "DestinationIp") else (text(record, "Domain"), "")
    if where:
        shown += ["→", where]
    shown += (f"{word} {value}" for word, value in _facts(record) if value)
    line, parts = " ".join(shown), text(record, "ScoreParts")
    return " ".join(filter(None, [f"{line}, {parts}" if parts else line, claimed]))


def _facts(record: Record) -> list[tuple[str, str]]:
    """A word and what it is about, as far as the behaviour has it."""
    kind, cpu = text(record, "Behavior"), text(record, "CpuPercent")
    if kind == "fan_out":
        pairs = (("DistinctDestinations", "hosts"), ("DistinctPorts", "ports"))
        return [(value, word) for name, word in pairs if (value := text(record, name)) not in ("", "0", "1")]
    if kind == "mining_session":
        return [("in", text(record, "ApplicationProtocol")), ("CPU", f"{cpu} %" if cpu not in ("", "0") else "")]
    by_kind = {
        "cpu_burn": ("for", f"{lasted(record.get('DurationMs'))} CPU {cpu} %"),
        "relay": ("to", text(record, "Inner")),
        "reverse_shell": ("by", text(record, "Inner")),
        "beacon": ("each", lasted(record.get("PeriodMs"))),
        "dns_tunnel": ("for", text(record, "Domain") if text(record, "DestinationIp") else ""),
    }
    return [by_kind[kind]] if kind in by_kind else []


def _moved(record: Record) -> str:
    out, into = record.get("BytesOut"), record.get("BytesIn")
    if not isinstance(out, int) or not isinstance(into, int) or not (out or into):
        return ""
    return f"↑{size(out)} ↓{size(into)}"


def size(count: int) -> str:
    """Three digits at most, decimal."""
    value, unit = float(max(0, min(count, 1 << 63))), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f}{_UNITS[unit]}" if unit == 0 or value >= 9.95 else f"{value:.1f}{_UNITS[unit]}"


def lasted(ms: object) -> str:
    if not isinstance(ms, int) or isinstance(ms, bool) or ms <= 0:
        return ""
    seconds = min(ms, 1 << 62) / 1000
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


SUBJECTS: dict[str, Callable[[Record], str]] = {
    "network_flow": flow,
    "network_protocol": protocol,
    "dns_query": dns,
    "network_listen": listen,
    "network_behavior": behavior,
}
