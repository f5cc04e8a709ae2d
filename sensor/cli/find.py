"""Which sandbox or quarantine somebody means by a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sensor.cli.escape import escape
from sensor.cli.show import Row
from sensor.errors import NotFoundError, UsageError

IN_FORCE = frozenset({"beginning", "held", "releasing", "killing"})
_NEAREST = 3
_SHOWN = 8
_COMPARED = 4096  # names that are compared, and characters of a word: difflib is slow


def sandbox(found: Sequence[Row], word: str) -> Row:
    """By name, cgroup id or cgroup path.

    :raises NotFoundError: with the nearest names.
    :raises UsageError: several have this name; with their ids and paths.
    """
    path = word.strip("/")
    meant = [one for one in found if str(one.get("id")) == word] or [
        one for one in found if one.get("name") == word or (path and str(one.get("path", "")).strip("/") == path)
    ]
    if len(meant) > 1:
        shown = "; ".join(f"{one.get('id')} {one.get('path')}" for one in meant[:_SHOWN])
        raise UsageError(f"{len(meant)} sandboxes are called {word!r}: name one by its id or path: {shown}")
    if not meant:
        raise unknown(word, (str(one.get("name")) for one in found))
    return meant[0]


def unknown(word: str, names: Iterable[str]) -> NotFoundError:
    return NotFoundError(f"no sandbox {word!r}{nearest(word, names)}")


def quarantine(found: Sequence[Row], word: str) -> Row:
    """By its id, or by the name, id or path of a sandbox that is in quarantine now.

    :raises NotFoundError: with the nearest ids and names.
    :raises UsageError: several are meant.
    """
    for one in found:
        if one.get("id") == word:
            return one
    path = word.strip("/")
    held = [one for one in found if one.get("state") in IN_FORCE]
    meant = [
        one
        for one in held
        if word in (order(one).get("name"), str(order(one).get("sandbox_id")))
        or (path and str(order(one).get("path", "")).strip("/") == path)
    ]
    if len(meant) > 1:
        shown = "; ".join(f"{one.get('id')} {order(one).get('path')}" for one in meant[:_SHOWN])
        raise UsageError(f"{len(meant)} quarantines are of a sandbox called {word!r}: name one by its id: {shown}")
    if not meant:
        words = (str(word) for one in found for word in (one.get("id"), order(one).get("name")))
        raise NotFoundError(f"no quarantine {word!r}{nearest(word, words)}")
    return meant[0]


def order(record: Row) -> Row:
    found = record.get("order")
    return found if isinstance(found, dict) else {}


def nearest(word: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415
    from itertools import islice  # noqa: PLC0415

    known = list(dict.fromkeys(islice((name[:_COMPARED] for name in names if name), _COMPARED)))
    close = get_close_matches(word[:_COMPARED], known, _NEAREST, 0.5)
    return f"; nearest: {', '.join(map(escape, close))}" if close else ""
