"""What is said of a line of a rule file."""

from __future__ import annotations

from msgspec import Struct


class Refusal(Struct, frozen=True):
    line: int
    reason: str
