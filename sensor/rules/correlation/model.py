"""A correlation as the core evaluates it: every reference, field and condition resolved when it was loaded."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

COUNTED = frozenset({"event_count", "value_sum"})
DISTINCT = frozenset({"value_count", "temporal"})
MEASURED = frozenset({"value_avg", "value_percentile", "value_median"})
_GROWING = frozenset({"gt", "gte"})

Value = str | int | bool


class Key(Struct, frozen=True):
    """Where a value comes from: an attribute of the activity or, where `child` is not -1, that place among the
    group values of the correlation that is referred to."""

    attribute: str = ""
    child: int = -1


class Part(Struct, frozen=True):
    """A rule or correlation that is referred to. `value`: the fields of the condition."""

    rule: str  # its id
    keys: tuple[Key, ...]
    value: tuple[Key, ...]


class Alternative(Struct, frozen=True):
    """Parts by number: all of `wanted`, in this order where the order counts, and none of `barred`."""

    wanted: tuple[int, ...]
    barred: tuple[int, ...] = ()


class Correlation(Struct, frozen=True):
    """`digest` is that of all that decides what it means, the rules it refers to included."""

    category: ClassVar[str] = "correlation"

    id: str
    title: str
    level: str
    status: str
    tags: tuple[str, ...]
    file: str
    description: str
    falsepositives: tuple[str, ...]
    references: tuple[str, ...]
    type: str
    timespan_ns: int
    parts: tuple[Part, ...]
    group_by: tuple[str, ...]
    bounds: tuple[tuple[str, float], ...]  # all must hold; empty where `alternatives` decide
    alternatives: tuple[Alternative, ...]
    percentile: int
    across_sandboxes: bool
    generate: bool
    digest: str

    @property
    def summary(self) -> dict[str, object]:
        """What is told of any rule."""
        names = ("id", "title", "level", "status", "tags", "file", "description", "falsepositives", "references")
        return {name: getattr(self, name) for name in names} | {"category": self.category}

    @property
    def prompt(self) -> bool:
        """More events can only make it true, so that it is asked at each. Else it is asked when its window closes."""
        return (
            self.type not in MEASURED
            and all(operator in _GROWING for operator, _ in self.bounds)
            and not any(each.barred for each in self.alternatives)
        )

    @property
    def least(self) -> float:
        """What a prompt count or sum, always whole, must reach."""
        return max(
            (limit + (operator == "gt" and float(limit).is_integer()) for operator, limit in self.bounds), default=1
        )
