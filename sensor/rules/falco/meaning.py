"""What Falco's checks mean in our categories: types of events as true or false, fields in our names."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import re2

from sensor.rules import fields
from sensor.rules.falco.grammar import Check, Known, Tree

Item = tuple[str, list[Any]]  # Sigma's key and values, any of which may match

# By the system calls that Falco names: what of ours is sent when one of them succeeds.
TYPES: dict[str, frozenset[str]] = {
    "process_creation": frozenset({"execve", "execveat"}),
    "network_connection": frozenset({"connect", "sendto", "sendmsg", "accept", "accept4"}),
    "network_listen": frozenset({"listen", "bind"}),
    "file_event": frozenset({"open", "openat", "openat2", "creat", "link", "linkat", "symlink", "symlinkat"}),
    "file_access": frozenset({"open", "openat", "openat2"}),
    "file_rename": frozenset({"rename", "renameat", "renameat2"}),
    "file_delete": frozenset({"unlink", "unlinkat", "rmdir"}),
    "file_change": frozenset(
        {"chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat", "utime", "utimensat"}
    ),
}
_INITIATED = {"connect": True, "sendto": True, "sendmsg": True, "accept": False, "accept4": False}
_TAKEN = frozenset().union(*TYPES.values()) | {"clone", "clone3", "fork", "vfork", "procexit", "close", "read", "write"}
_FILES = frozenset({"file_event", "file_access", "file_rename", "file_delete", "file_change"})
_NETWORK = frozenset({"network_connection", "network_listen"})
CATEGORIES = (*TYPES, "system_call")
# Which category these flags of an open make it.
_OPENED = {"evt.is_open_write": "file_event", "evt.is_open_read": "file_access", "evt.is_open_exec": ""}
# In a sandbox, and of what has succeeded, these are so.
_ALWAYS = frozenset({"evt.dir", "evt.res", "evt.rawres", "evt.failed", "fd.num", "container.id", "evt.arg.res"})
_KINDS = {"f": _FILES, "file": _FILES, "4": _NETWORK, "6": _NETWORK, "ipv4": _NETWORK, "ipv6": _NETWORK}

_PROGRAMS = {"proc.name": "Image", "proc.pname": "ParentImage", "proc.aname[1]": "ParentImage"}
_NAMES = {
    "proc.exepath": "Image", "proc.cmdline": "CommandLine", "proc.args": "CommandLine", "proc.exe": "ImageInvoked",
    "proc.pexepath": "ParentImage", "proc.pcmdline": "ParentCommandLine", "proc.cwd": "CurrentDirectory",
    "user.name": "User", "user.uid": "Uid", "proc.is_exe_writable": "ImageWritable",
    "proc.is_exe_from_memfd": "ImageMemfd", "proc.vpid": "ProcessId", "fd.sport": "DestinationPort",
    "fd.rport": "DestinationPort", "fd.cport": "SourcePort", "fd.sip.name": "DestinationHostname",
    "fd.l4proto": "Protocol", "fs.path.name": "TargetFilename", "fs.path.source": "SourceFilename",
    "fs.path.target": "TargetFilename", "evt.arg.path": "TargetFilename", "evt.arg.name": "TargetFilename",
    "evt.arg.newpath": "TargetFilename", "evt.arg.oldpath": "SourceFilename",
}  # fmt: skip
_ADDRESSES = frozenset({"fd.sip", "fd.rip", "fd.ip", "fd.snet", "fd.rnet", "fd.net"})
_MODIFIERS = {
    "contains": "|contains", "icontains": "|contains", "startswith": "|startswith", "endswith": "|endswith",
    "pmatch": "|startswith",
}  # fmt: skip
_EQUAL = frozenset({"=", "==", "in", "intersects"})
_ORDER = {"<": "|lt", "<=": "|lte", ">": "|gt", ">=": "|gte"}


def placed(check: Check, category: str) -> Tree:
    """In this category: true or false where it is about the kind of event, a check of the system call, or itself."""
    negated = check.operator == "!="
    if check.field == "evt.type":
        return _type(check, category, negated)
    if check.field in _OPENED:
        wanted = check.values[:1] not in {("false",), ("no",)}
        return Known((_OPENED[check.field] == category) is (wanted is not negated))
    if check.field in _ALWAYS:
        return Known(_always(check))
    if check.field in {"fd.typechar", "fd.type"} and all(value in _KINDS for value in check.values):
        return Known(any(category in _KINDS[value] for value in check.values) is not negated)
    return check


def _type(check: Check, category: str, negated: bool) -> Tree:
    types = frozenset(check.values)
    if category == "system_call":
        own = tuple(value for value in check.values if value not in _TAKEN)
        return Check("evt.type", "!=" if negated else "in", own) if own else Known(negated)
    of = types & TYPES[category]
    if category == "network_connection" and of and not negated and len({_INITIATED[name] for name in of}) == 1:
        return Check("evt.type", "=", (next(iter(of)),))  # of the two ways of a connection, this one
    return Known(bool(of) is not negated)


def _always(check: Check) -> bool:
    """`container.id != host`, `evt.dir = <`, `evt.rawres >= 0`, `evt.failed = false`: each the other way is never."""
    value = check.values[0] if check.values else ""
    if check.field == "container.id":
        return (value in {"host", ""}) is (check.operator == "!=")
    if check.field == "evt.failed":
        return (value == "false") is (check.operator != "!=")
    if check.field in {"evt.rawres", "evt.res", "evt.arg.res"}:
        return not (check.operator == "<" or value.startswith(("-", "E")))
    return True


def item(check: Check, category: str) -> Item | None:
    """The check as Sigma has it, without its negation (`!=`); None where there is nothing like it."""
    if check.field == "evt.type" and category in {"system_call", "network_connection"}:
        if category == "system_call":
            return "SystemCall", list(check.values)
        return "Initiated", [_INITIATED[check.values[0]]]
    if check.operator in {"!=", *_EQUAL} and check.field in _ADDRESSES and category == "network_connection":
        return _address(check)
    translate = _SPECIAL.get(check.field)
    found = translate(check, category) if translate is not None else _plain(check, _name(check.field, category))
    if found is None or found[0].partition("|")[0] not in fields.of_category(category):
        return None
    return found


def _name(field: str, category: str) -> str:
    if field == "fd.name":
        return "TargetFilename" if category in _FILES else ""
    if category == "network_listen" and field in {"fd.sport", "fd.lport"}:
        return "SourcePort"
    return _NAMES.get(field, "")


def _plain(check: Check, name: str) -> Item | None:
    if not name:
        return None
    operator = check.operator
    if operator in _EQUAL or operator == "!=":
        return name, [_typed(name, value) for value in check.values]
    if operator == "exists":
        return f"{name}|exists", [True]
    if operator == "regex":
        return _regex(name, check.values[0])
    if operator in _ORDER:
        number = check.values[0]
        return (name + _ORDER[operator], [int(number)]) if number.isascii() and number.isdigit() else None
    return _part(name, check)


def _part(name: str, check: Check) -> Item | None:
    if check.operator in _MODIFIERS:
        return name + _MODIFIERS[check.operator], [escaped(value) for value in check.values]
    if check.operator in {"glob", "iglob"}:
        return name, [value.replace("\\", "\\\\") for value in check.values]
    return None


def _typed(name: str, value: str) -> Any:
    """Numbers and flags as such: of whichever category, a name is always of one kind."""
    for category in fields.CATEGORIES:
        field = fields.of_category(category).get(name)
        if field is not None:
            if field.kind == "number" and value.isascii() and value.isdigit():
                return int(value)
            if field.kind == "flag":
                return value in {"true", "yes", "1"}
            break
    return escaped(value)


def _regex(name: str, pattern: str) -> Item | None:
    """Falco's must match the whole text."""
    whole = f"^(?:{pattern})$"
    try:
        re2.compile(whole)
    except re2.error:
        return None
    return f"{name}|re", [whole]


def _program(check: Check, _category: str) -> Item | None:
    """A name is the end of a path."""
    name, operator = _PROGRAMS[check.field], check.operator
    if operator in _EQUAL or operator == "!=":
        return f"{name}|endswith", [f"/{escaped(value)}" for value in check.values]
    if operator in {"glob", "iglob"}:
        return name, ["*/" + value.replace("\\", "\\\\") for value in check.values]
    if operator == "startswith":
        return f"{name}|contains", [f"/{escaped(value)}" for value in check.values]
    if operator == "regex":
        return _regex(name, f".*/(?:{check.values[0]})")
    return _plain(check, name)


def _folder(check: Check, category: str) -> Item | None:
    """`fd.directory`: what stands in it, and not below."""
    if category not in _FILES or check.operator not in {"!=", *_EQUAL}:
        return None
    quoted = "|".join(re2.escape(value.rstrip("/")) for value in check.values)
    return "TargetFilename|re", [f"^(?:{quoted})/[^/]*$"]


def _file(check: Check, category: str) -> Item | None:
    """`fd.filename`: the last part of the path."""
    if category not in _FILES or check.operator not in {"!=", *_EQUAL}:
        return None
    return "TargetFilename|endswith", [f"/{escaped(value)}" for value in check.values]


def _address(check: Check) -> Item | None:
    values = [value.strip("\"'") for value in check.values]
    try:
        networks = [str(ipaddress.ip_network(value, strict=False)) for value in values]
    except ValueError:
        return None
    return "DestinationIp|cidr", networks


def escaped(value: str) -> str:
    """Sigma's wildcards as themselves."""
    return value.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")


_SPECIAL: dict[str, Callable[[Check, str], Item | None]] = {
    "proc.name": _program, "proc.pname": _program, "proc.aname[1]": _program,
    "fd.directory": _folder, "fd.filename": _file,
}  # fmt: skip
