"""Write layouts.py and sensor/bpf/state.py from the C headers that the probes include.

`python -m sensor.events.generate` rewrites the modules; `--check` exits 1 if one would change.
Refused, since either would make the two sides differ in silence: a type without a fixed width, and
padding that the C compiler would have to add.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from struct import calcsize

_INCLUDE = Path(__file__).resolve().parents[2] / "probes" / "include"
_LAYOUTS = Path(__file__).with_name("layouts.py")
_STATE = Path(__file__).resolve().parents[1] / "bpf" / "state.py"

_FORMATS = {"u8": ("B", 1), "u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8), "s32": ("i", 4)}
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_ENUM = re.compile(r"enum (\w+) \{(.*?)\};", re.DOTALL)
_STRUCT = re.compile(r"struct (\w+) \{(.*?)\};", re.DOTALL)
_MEMBER = re.compile(r"(struct \w+|\w+) (\w+)(?:\[(\d+)\])?")

# Which struct a record of each type is laid out as.
RECORDS = {
    "PF_TYPE_EXEC": "pf_exec",
    "PF_TYPE_FORK": "pf_fork",
    "PF_TYPE_EXIT": "pf_exit",
    "PF_TYPE_CGROUP_BIRTH": "pf_cgroup",
    "PF_TYPE_CGROUP_DEATH": "pf_cgroup",
    "PF_TYPE_CGROUP_MOVE": "pf_move",
    "PF_TYPE_CONNECT": "pf_connect",
    "PF_TYPE_CONNECT_UNIX": "pf_connect_unix",
    "PF_TYPE_DEVICE": "pf_device_attempt",
    "PF_TYPE_FLOW": "pf_flow",
    "PF_TYPE_LISTEN": "pf_listen",
    "PF_TYPE_PAYLOAD": "pf_payload",
    "PF_TYPE_INVERSION": "pf_inversion",
    "PF_TYPE_SENSOR_ACCESS": "pf_sensor_access",
    "PF_TYPE_SYSTEM_CALL": "pf_system_call",
}
# Most of all records: their members go on as tuples, since a Struct in between costs a twentieth of an event.
SPLIT = ("PF_TYPE_EXEC", "PF_TYPE_CONNECT", "PF_TYPE_CONNECT_UNIX")
# Members of those that no activity has: a number that is not made is a three-hundredth of an event less.
UNREAD = {
    "pf_exec": {"tid", "argv_bytes", "egid", "mode", "cgroup_ns", "owner", "group"},
    "pf_connect": {"tid", "maker_sandbox_id", "maker_exec_id", "unconnected"},
    "pf_connect_unix": {"tid", "maker_sandbox_id", "maker_exec_id"},
}


class LayoutError(Exception):
    """The header breaks one of its own rules."""


@dataclass
class Layout:
    """One C struct, flattened: `members` as (name, struct format, python type)."""

    name: str
    members: list[tuple[str, str, str]] = field(default_factory=list)
    size: int = 0
    align: int = 1

    def add(self, name: str, letter: str, width: int, count: int | None) -> None:
        if self.size % width:
            raise LayoutError(f"{self.name}.{name}: not aligned to {width}, write the padding out")
        self.size += width * (count or 1)
        self.align = max(self.align, width)
        if name == "pad":
            self.members.append((name, f"{width * (count or 1)}x", ""))
        elif count is not None:
            self.members.append((name, f"{width * count}s", "bytes"))
        else:
            self.members.append((name, letter, "int"))

    @property
    def tails(self) -> list[str]:
        return [name[:-4] for name, _, _ in self.members if name.endswith("_len")]


def parse(text: str) -> tuple[dict[str, dict[str, int]], dict[str, Layout]]:
    """Enums as name → {member: value}, structs as name → Layout."""
    text = _COMMENT.sub("", text)
    enums: dict[str, dict[str, int]] = {}
    for name, body in _ENUM.findall(text):
        pairs = (item.split("=") for item in body.split(",") if item.strip())
        enums[name] = {key.strip(): int(value) for key, value in pairs}
    structs: dict[str, Layout] = {}
    for name, body in _STRUCT.findall(text):
        layout = Layout(name)
        for statement in filter(None, (part.strip() for part in body.split(";"))):
            match = _MEMBER.fullmatch(statement)
            if match is None:
                raise LayoutError(f"{name}: cannot read `{statement}`")
            kind, member, count = match.group(1), match.group(2), match.group(3)
            if kind.startswith("struct "):
                inner = structs[kind.removeprefix("struct ")]
                if layout.size % inner.align:
                    raise LayoutError(f"{name}.{member}: not aligned, write the padding out")
                layout.members += inner.members
                layout.size += inner.size
                layout.align = max(layout.align, inner.align)
            elif kind in _FORMATS:
                layout.add(member, *_FORMATS[kind], int(count) if count else None)
            else:
                raise LayoutError(f"{name}.{member}: `{kind}` has no fixed width")
        if layout.size % layout.align:
            raise LayoutError(f"{name}: ends unaligned, write the padding out")
        structs[name] = layout
    return enums, structs


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.removeprefix("pf_").split("_"))


def _is_length(member: str) -> bool:
    return member.endswith("_len")


def _passing(layout: Layout, passed: Callable[[str], bool]) -> str:
    """The format that passes over some members."""
    return "<" + "".join(f"{calcsize('<' + letter)}x" if passed(name) else letter for name, letter, _ in layout.members)


def _split_members(layout: Layout) -> list[str]:
    unread = UNREAD.get(layout.name, set())
    if gone := unread - {name for name, _, _ in layout.members}:
        raise LayoutError(f"{layout.name}: has no {', '.join(sorted(gone))}")
    return [name for name, _, kind in layout.members if kind and not _is_length(name) and name not in unread]


def _record(layout: Layout) -> list[str]:
    kept = [(name, kind) for name, _, kind in layout.members if kind and not _is_length(name)]
    tails = layout.tails
    name = _camel(layout.name)
    fields = [f"    {member}: {kind}" for member, kind in kept]
    fields += [f"    {tail}: bytes" for tail in tails]
    text = [f"class {name}(Struct, frozen=True, gc=False):"]
    text += [f'    """A `struct {layout.name}`: {layout.size} bytes, then its tails."""', "", *fields, "", ""]
    pattern = "<" + "".join(letter for _, letter, _ in layout.members)
    text.append(f'_{layout.name.upper()} = PackedStruct("{pattern}")')
    packed = f"_{layout.name.upper()}"
    if tails:
        text.append(f'{packed}_FIXED = PackedStruct("{_passing(layout, _is_length)}")')
        text.append(f'{packed}_TAILS = PackedStruct("{_passing(layout, lambda member: not _is_length(member))}")')
    is_split = any(RECORDS[kind] == layout.name for kind in SPLIT)
    if is_split:
        split = _split_members(layout)
        text.append(f'{packed}_SPLIT = PackedStruct("{_passing(layout, lambda member: member not in split)}")')
    text += ["", ""]
    if tails or is_split:
        text += _split(layout, is_split)
    function = layout.name.removeprefix("pf_")
    text.append(f"def read_{function}(buffer: Buffer, at: int) -> {name}:")
    if not tails:
        text += [f"    return {name}(*_{layout.name.upper()}.unpack_from(buffer, at))", "", ""]
        return text
    given, *further = tails
    ignored = "  # type: ignore[call-arg]"
    members = "_" if is_split else "members"
    whole = [f"    members = {packed}_FIXED.unpack_from(buffer, at)"] if is_split else []
    if not further:
        text += [
            f"    {members}, {given} = split_{function}(buffer, at)",
            *whole,
            f"    return {name}(*members, {given}){ignored}",
        ]
        return [*text, "", ""]
    lengths = [f"n{index}" for index in range(1, len(tails) - 1)]
    ends = ["", *(" + ".join(lengths[:count]) for count in range(1, len(lengths) + 1)), ""]
    colon = [" : " if "+" in begin + end else ":" for begin, end in itertools.pairwise(ends)]  # as ruff has it
    pairs = zip(itertools.pairwise(ends), colon, strict=True)
    pieces = ", ".join(f"joined[{f'{begin}{between}{end}'.strip()}]" for (begin, end), between in pairs)
    return [
        *text,
        f"    {members}, {given}, joined, {', '.join(lengths)} = split_{function}(buffer, at)",
        *whole,
        f"    return {name}(*members, {given}, {pieces}){ignored}",
        "",
        "",
    ]


def _split(layout: Layout, is_split: bool) -> list[str]:
    """The function that gives a record's members and its tails. Of several tails the first by itself, since it is
    always another; the further ones joined, for one look-up of what they say, and the lengths of all but the last."""
    tails = layout.tails
    function, packed = layout.name.removeprefix("pf_"), f"_{layout.name.upper()}"
    format_of = f"{packed}_{'SPLIT' if is_split else 'FIXED'}"
    text = [f"def split_{function}(buffer: Buffer, at: int) -> Split:"]
    if not tails:
        return [*text, f"    return ({format_of}.unpack_from(buffer, at),)", "", ""]
    lengths = [f"n{index}" for index in range(len(tails))]
    # The members by one call and its result as it is: forty names on their way cost more than a second unpacking.
    text += [
        f"    {', '.join(lengths) if len(tails) > 1 else '(n0,)'} = {packed}_TAILS.unpack_from(buffer, at)",
        f"    first = at + {layout.size}",
        "    further = first + n0",
        *([f"    end = further + {' + '.join(lengths[1:])}"] if len(tails) > 1 else []),
        f"    members = {format_of}.unpack_from(buffer, at)",
        f"    if {'end' if len(tails) > 1 else 'further'} - at > members[{_split_members(layout).index('size')}]:",
        "        raise ShortRecord",
    ]
    joined = f", {', '.join(['buffer[further:end]', *lengths[1:-1]])}" if len(tails) > 1 else ""
    return [*text, f"    return members, buffer[first:further]{joined}", "", ""]


def generate(text: str) -> str:
    """The text of layouts.py for the text of events.h."""
    enums, structs = parse(text)
    abi = re.search(r"#define PF_ABI (\d+)", text)
    if abi is None:
        raise LayoutError("PF_ABI is not defined")
    out = [
        '"""Generated from probes/include/events.h by sensor.events.generate. Do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Callable",
        "from enum import IntEnum, IntFlag",
        "from mmap import mmap",
        "from operator import attrgetter",
        "from struct import Struct as PackedStruct",
        "from typing import Any",
        "",
        "from msgspec import Struct",
        "",
        "Buffer = bytes | mmap  # slices of which are bytes",
        "Split = tuple[Any, ...]  # what a split_… gives",
        f"ABI = {abi.group(1)}",
        "",
        "",
        "class ShortRecord(ValueError):",
        '    """A record whose tails reach beyond its own size."""',
        "",
        "",
    ]
    for name, members in enums.items():
        base = "IntFlag" if name in ("pf_flag", "pf_file", "pf_flow_flag") else "IntEnum"
        prefix = name.upper() + "_"
        out += [f"class {_camel(name)}({base}):"]
        out += [f"    {member.removeprefix(prefix)} = {value}" for member, value in members.items()]
        out += ["", ""]
    for layout in structs.values():
        if layout.name != "pf_header":
            out += _record(layout)
    out += [f"HEADER_SIZE = {structs['pf_header'].size}", ""]
    types = enums["pf_type"]
    out.append("# Record type → (smallest size, reader).")
    out.append("READERS: dict[int, tuple[int, Callable[[Buffer, int], Struct]]] = {")
    for member, struct in RECORDS.items():
        out.append(f"    {types[member]}: ({structs[struct].size}, read_{struct.removeprefix('pf_')}),")
    out += ["}", "# Record type → what gives its members and tails without a Struct."]
    out.append("SPLITTERS: dict[int, Callable[[Buffer, int], Split]] = {")
    out += [f"    {types[member]}: split_{RECORDS[member].removeprefix('pf_')}," for member in SPLIT]
    out += ["}", "# Record type → those members of a Struct."]
    out.append("SPLIT_MEMBERS: dict[int, Callable[[Any], tuple[Any, ...]]] = {")
    for member in SPLIT:
        names = (f'        "{name}",' for name in _split_members(structs[RECORDS[member]]))
        out += [f"    {types[member]}: attrgetter(", *names, "    ),"]
    out += ["}", "# Record type → its tails, each with the place of its length among what the whole format gives."]
    out.append("TAILS: dict[int, dict[str, int]] = {")
    for member, struct in RECORDS.items():
        unpacked = [name for name, _, kind in structs[struct].members if kind]
        places = (f'"{tail}": {unpacked.index(f"{tail}_len")}' for tail in structs[struct].tails)
        out.append(f"    {types[member]}: {{{', '.join(places)}}},")
    out += ["}", ""]
    return "\n".join(out)


def _state_struct(layout: Layout) -> list[str]:
    kept = [(name, kind) for name, _, kind in layout.members if kind]
    name = _camel(layout.name)
    pattern = "<" + "".join(letter for _, letter, _ in layout.members)
    text = [
        f'_{layout.name.upper()} = PackedStruct("{pattern}")',
        "",
        "",
        f"class {name}(Struct, frozen=True, gc=False):",
    ]
    text += [f'    """A `struct {layout.name}`: {layout.size} bytes. Arrays are bytes."""', ""]
    text += [
        f"    {member}: {kind} = {'0' if kind == 'int' else f'bytes({letter[:-1]})'}"
        for member, letter, kind in layout.members
        if kind
    ]
    text += ["", "    def pack(self) -> bytes:", f"        return _{layout.name.upper()}.pack("]
    text += [f"            self.{member}," for member, _ in kept]
    text += ["        )", "", "    @staticmethod", f"    def unpack(data: bytes) -> {name}:"]
    text += [f"        return {name}(*_{layout.name.upper()}.unpack(data))", "", ""]
    return text


def generate_state(text: str) -> str:
    """The text of sensor/bpf/state.py for the text of state.h."""
    _, structs = parse(text)
    out = [
        '"""Generated from probes/include/state.h by sensor.events.generate. Do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        "from struct import Struct as PackedStruct",
        "",
        "from msgspec import Struct",
        "",
    ]
    for layout in structs.values():
        out += _state_struct(layout)
    out.append("SIZES = {")
    out += [f'    "{layout.name}": {layout.size},' for layout in structs.values()]
    out += ["}", ""]
    return "\n".join(out)


def texts() -> dict[Path, str]:
    """What each generated module should hold."""
    return {
        _LAYOUTS: generate((_INCLUDE / "events.h").read_text()),
        _STATE: generate_state((_INCLUDE / "state.h").read_text()),
    }


def main() -> int:
    wanted = texts()
    if "--check" in sys.argv[1:]:
        return int(any(not path.exists() or path.read_text() != text for path, text in wanted.items()))
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
