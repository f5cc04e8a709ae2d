"""BTF made by hand: a table of types as the kernel's own build would write it."""

from __future__ import annotations

from pathlib import Path
from struct import pack

from sensor.bpf.btf import Btf

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD = 1, 2, 3, 4, 5, 6, 7
TYPEDEF, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, ENUM64 = 8, 12, 13, 14, 15, 16, 17, 19

Member = tuple[str, int, int]  # name, type id, offset in bits (or, with bitfields, size << 24 | bits)


class Blob:
    """Each method adds a type and returns its id; `whole()` gives the whole."""

    def __init__(self) -> None:
        self.strings = b"\0"
        self.types = b""
        self.count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = self.strings.find(b"\0" + text.encode() + b"\0")
        if at < 0:
            at = len(self.strings) - 1
            self.strings += text.encode() + b"\0"
        return at + 1

    def add(
        self, kind: int, name: str = "", *, size: int = 0, vlen: int = 0, flag: bool = False, tail: bytes = b""
    ) -> int:
        self.types += pack("<III", self.name(name), flag << 31 | kind << 24 | vlen, size) + tail
        self.count += 1
        return self.count

    def number(self, name: str = "int", size: int = 4) -> int:
        return self.add(INT, name, size=size, tail=pack("<I", size * 8))

    def struct(self, name: str, size: int, *members: Member, kind: int = STRUCT, flag: bool = False) -> int:
        tail = b"".join(pack("<III", self.name(member), of, bits) for member, of, bits in members)
        return self.add(kind, name, size=size, vlen=len(members), flag=flag, tail=tail)

    def union(self, name: str, size: int, *members: Member) -> int:
        return self.struct(name, size, *members, kind=UNION)

    def whole(self) -> bytes:
        header = pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings

    def read(self, folder: Path) -> Btf:
        file = folder / "vmlinux"
        file.write_bytes(self.whole())
        return Btf(file)
