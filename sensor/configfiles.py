"""File events: whether, how many, and where besides the places that rules name."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from sensor.configfile import Problem, found

_RANGES = {
    "marks": (64, 1 << 20),
    "marks_per_look": (16, 16384),
    "events_a_second": (1, 100_000),
    "look_seconds": (1, 3600),
    "patience_ms": (10, 60_000),
}
_PLACES_MAX = 64


class Files(Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool = True
    places: tuple[str, ...] = ()  # folders as sandboxes see them: a trainer's checkpoints, rewards, tests
    marks: int = 32768  # in all, some 1 KB of kernel memory each; beyond them all are made anew
    marks_per_look: int = 2048  # in one root
    events_a_second: int = 200  # of a sandbox; what is more is lost, and it is unknown
    look_seconds: int = 30  # a sandbox's root is looked at again this often, for what no event told
    patience_ms: int = 1500  # for one look: a root with its places takes some 10, more where every CPU is busy


def file_problems(files: Files) -> Iterator[Problem]:
    for name, (least, most) in _RANGES.items():
        if not least <= (value := getattr(files, name)) <= most:
            yield Problem(("files", name), f"{least} to {most}", found(value))
    if len(files.places) > _PLACES_MAX:
        yield Problem(("files", "places"), f"at most {_PLACES_MAX}", found(len(files.places)))
    for index, path in enumerate(files.places[:_PLACES_MAX]):
        if not path.startswith("/") or ".." in path.split("/") or not path.isprintable() or not path.strip("/"):
            yield Problem(("files", "places", index), "an absolute path without .., below the root", found(path))
