"""Rule files: which there are, and what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from sensor.rules.unit import digest

MAX_FILE_BYTES = 1 << 20  # of a rule file
_MOSTLY = 1 << 14  # of one: to ask for the most at once would have room made for it

_FILTER = re.compile(rb"\nfilter[ \t]*:")
_SUFFIXES = (".yml", ".yaml")
_EXAMPLES = tuple(f".events{suffix}" for suffix in _SUFFIXES)


class Seen(Struct, frozen=True):
    """What is asked of every file at each load."""

    content: str  # its digest; of a file that cannot be read, none
    filters: bool  # it holds some


def rule_files(paths: Iterable[Path | str]) -> list[Path]:
    """Rule files below folders, and files named themselves, in order; examples are not rules."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
            found.update((p, None) for p in files if not p.name.endswith(_EXAMPLES))
        else:
            found[path] = None  # also one that is missing: the compiler says so
    return list(found)


def read(path: Path) -> bytes:
    """A byte more than MAX_FILE_BYTES of a file that is larger. Raises OSError."""
    with path.open("rb") as file:
        content = file.read(_MOSTLY)
        return content if len(content) < _MOSTLY else content + file.read(MAX_FILE_BYTES + 1 - _MOSTLY)


def seen(path: Path) -> Seen:
    try:
        content = read(path)
    except OSError:
        return Seen("unreadable", filters=False)
    return Seen(digest(content), bool(_FILTER.search(b"\n" + content)))


def filter_files(files: Iterable[Path]) -> list[Path]:
    """Those with filters, which are told to all others."""
    return [path for path in files if seen(path).filters]
