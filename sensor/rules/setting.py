"""What rule files are compiled with, besides their own text: a change of it is a change of every rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

Placeholders = Mapping[str, Sequence[str]]


class Setting(Struct, frozen=True):
    """`placeholders`: name to the values of `|expand`. `filters`: the files that hold filters, in their order."""

    placeholders: dict[str, tuple[str, ...]] = {}
    filters: tuple[str, ...] = ()


def of(placeholders: Placeholders | None, filters: Sequence[Path]) -> Setting:
    values = {name: tuple(each) for name, each in (placeholders or {}).items()}
    return Setting(values, tuple(map(str, filters)))


def encode(setting: Setting) -> bytes:
    return msgspec.json.encode(setting, order="deterministic")


def decode(data: bytes) -> Setting:
    return msgspec.json.decode(data, type=Setting)
