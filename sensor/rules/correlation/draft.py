"""A correlation as its file has it: checked by the compiler child, its references not looked up yet."""

from __future__ import annotations

from msgspec import Struct

from sensor.rules.correlation.model import Alternative


class Lines(Struct, frozen=True):
    """Where what it says of each stands."""

    name: int
    rules: int
    condition: int
    field: int
    group_by: int
    aliases: int


class Draft(Struct, frozen=True):
    """`aliases`: name → reference → field."""

    file: str
    line: int
    at: Lines
    id: str
    title: str
    level: str
    status: str
    tags: tuple[str, ...]
    description: str
    falsepositives: tuple[str, ...]
    links: tuple[str, ...]
    name: str
    type: str
    references: tuple[str, ...]
    timespan_ns: int
    group_by: tuple[str, ...]
    aliases: dict[str, dict[str, str]]
    bounds: tuple[tuple[str, float], ...]
    alternatives: tuple[Alternative, ...]
    fields: tuple[str, ...]
    percentile: int
    generate: bool
    across_sandboxes: bool
