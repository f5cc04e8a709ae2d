"""Records to bytes, as the probes write them: the other way round than the decoder, from the same header."""

from __future__ import annotations

from pathlib import Path
from struct import Struct as PackedStruct
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from sensor.events import generate
from sensor.events.layouts import Type

EVENTS_H = Path(generate.__file__).resolve().parents[2] / "probes" / "include" / "events.h"
_, STRUCTS = generate.parse(EVENTS_H.read_text())
LAYOUTS = {kind: STRUCTS[generate.RECORDS[f"PF_TYPE_{kind.name}"]] for kind in Type}


def packed(kind: Type, members: dict[str, Any]) -> bytes:
    """As the kernel would send it. `type` and `size` are made true."""
    layout = LAYOUTS[kind]
    tails = [members[tail] for tail in layout.tails]
    known = {**members, "type": int(kind), "size": layout.size + sum(map(len, tails))}
    known |= {f"{tail}_len": len(members[tail]) for tail in layout.tails}
    pattern = PackedStruct("<" + "".join(letter for _, letter, _ in layout.members))
    return pattern.pack(*(known[name] for name, _, python in layout.members if python)) + b"".join(tails)


def bytes_of(record: Struct) -> bytes:
    members = asdict(record)
    return packed(Type(members["type"]), members)
