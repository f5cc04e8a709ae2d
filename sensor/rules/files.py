"""Rule files: which there are, and what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
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
            found.update((Path(text), None) for text in sorted(_below(path), key=_parts) if os.path.isfile(text))
        else:
            found[path] = None  # also one that is missing: the compiler says so
    return list(found)


def _below(folder: Path) -> Iterator[str]:
    """Texts, since a thousand Paths take long to sort."""
    for place, _, names in os.walk(folder):
        for name in names:
            if os.path.splitext(name)[1] in _SUFFIXES and not name.endswith(_EXAMPLES):
                yield os.path.join(place, name)


def _parts(text: str) -> list[str]:
    return text.split(os.sep)


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
