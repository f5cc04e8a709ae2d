"""The running kernel's type table: at which offset each member that the probes read stands.

Format: Documentation/bpf/btf.rst. Only structs and unions are kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, error

from sensor.errors import BtfError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_REPORT = "this kernel's layout is not understood, please report it with `uname -a`"

_HEADER = Struct("<HBBIIIII")
_TYPE = Struct("<III")
_MAGIC = 0xEB9F
_STRUCT, _UNION = 4, 5
# kind → (words of four bytes after the common part, and for each of its `vlen`)
_TAIL = {
    1: (1, 0),  # INT
    3: (3, 0),  # ARRAY
    4: (0, 3),  # STRUCT
    5: (0, 3),  # UNION
    6: (0, 2),  # ENUM
    13: (0, 2),  # FUNC_PROTO
    14: (1, 0),  # VAR
    15: (0, 3),  # DATASEC
    17: (1, 0),  # DECL_TAG
    19: (0, 3),  # ENUM64
}
_FIXED = [3 + _TAIL.get(kind, (0, 0))[0] for kind in range(32)]
_EACH = [_TAIL.get(kind, (0, 0))[1] for kind in range(32)]


def names(path: Path = VMLINUX) -> bytes:
    """Every name in the table, each between zeroes: enough to say that one is not there, in a twentieth of the time."""
    data = path.read_bytes()
    _, _, _, header, _, _, strings, length = _HEADER.unpack_from(data)
    return data[header + strings : header + strings + length]


class Btf:
    """Offsets and sizes of named structs. Raises BtfError on anything that is not BTF."""

    def __init__(self, path: Path = VMLINUX) -> None:
        try:
            data = path.read_bytes()
            self._read(data)
        except FileNotFoundError as cause:
            raise BtfError(
                f"{path}: this kernel has no BTF; boot one built with CONFIG_DEBUG_INFO_BTF=y (Debian's are)"
            ) from cause
        except (OSError, error, IndexError, ValueError) as cause:
            raise BtfError(f"{path}: not readable as BTF: {cause}") from cause

    def _read(self, data: bytes) -> None:
        magic, _, _, header, types, types_len, strings, strings_len = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"magic is {magic:#x}, not {_MAGIC:#x}")
        self._data = data
        self._strings = data[header + strings : header + strings + strings_len]
        self._at: list[int] = [0]  # type id → where it stands
        self._structs: dict[int, int] = {}  # offset of its name → type id
        base = header + types
        # A hundred thousand types and more, each behind the other: this loop is most of what reading the table costs.
        words = array("I", data[base : base + types_len])
        at, end = 0, len(words)
        fixed, each, place = _FIXED, _EACH, self._at.append
        while at < end:
            info = words[at + 1]
            kind = (info >> 24) & 31
            if kind == _STRUCT and words[at]:
                self._structs.setdefault(words[at], len(self._at))
            place(base + 4 * at)
            at += fixed[kind] + each[kind] * (info & 0xFFFF)

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(0, offset)].decode()

    def _find(self, name: str) -> int:
        # A name stands in the string table once, so its offset identifies the struct.
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        index = self._structs.get(at + 1) if at >= 0 else None
        if index is None:
            raise BtfError(f"kernel BTF has no struct {name}; {_REPORT}")
        return index

    def _members(self, index: int, base: int = 0, depth: int = 0) -> Iterator[tuple[str, int]]:
        at = self._at[index]
        _, info, _ = _TYPE.unpack_from(self._data, at)
        if (info >> 24) & 31 not in (_STRUCT, _UNION) or depth > 8:
            return
        for number in range(info & 0xFFFF):
            name, kind, offset = _TYPE.unpack_from(self._data, at + 12 + 12 * number)
            bits = base + (offset & 0xFFFFFF if info >> 31 else offset)
            if name:
                yield self._string(name), bits // 8
            else:
                yield from self._members(kind, bits, depth + 1)  # anonymous struct or union

    def offset(self, struct: str, *members: str) -> int:
        """Bytes from the start of `struct` to the first of `members` it has (older names come last)."""
        try:
            found = dict(self._members(self._find(struct)))
        except (error, IndexError, ValueError) as cause:
            raise BtfError(f"kernel BTF: struct {struct} is damaged: {cause}") from cause
        for member in members:
            if member in found:
                return found[member]
        raise BtfError(f"kernel BTF: struct {struct} has no member {' or '.join(members)}; {_REPORT}")

    def size(self, struct: str) -> int:
        _, _, size = _TYPE.unpack_from(self._data, self._at[self._find(struct)])
        return int(size)
