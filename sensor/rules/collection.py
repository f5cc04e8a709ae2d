"""Sigma 1's collections: several documents of a file that share what an `action: global` one says.

`global` holds for the documents after it, until another or `reset`; `repeat` is the document before, with changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sensor.rules.document import Document, Place, RefusalError


class _Layered(Place):
    """Of a document made of two: its own places first, then those of what it was made from."""

    def __init__(self, own: Place, beneath: Place) -> None:
        self._own, self._beneath = own, beneath
        self.line = own.line

    def at(self, key: str) -> Place:
        own, beneath = self._own.find(key), self._beneath.find(key)
        if own is not None and beneath is not None:
            return _Layered(own, beneath)
        return own or beneath or self._own

    def find(self, key: str) -> Place | None:
        return self.at(key) if self._own.find(key) or self._beneath.find(key) else None

    def item(self, index: int) -> Place:
        return self._own.item(index)


def collected(documents: Iterable[Document]) -> Iterator[Document]:
    """Each rule whole. Raises RefusalError for an action that Sigma does not have, or a repeat of nothing."""
    template: Document | None = None
    last: Document | None = None
    for document in documents:
        action = document.data.pop("action", None)
        if action is None:
            last = document if template is None or "filter" in document.data else _merged(document, template)
            yield last
        elif action == "global":
            template = last = document
        elif action == "reset":
            template = None
        elif action == "repeat" and last is not None:
            last = _merged(document, last)
            yield last
        else:
            reason = "nothing to repeat" if action == "repeat" else f"action {action!r} is not global, reset or repeat"
            raise RefusalError(reason, document.place.at("action").line)


def _merged(upper: Document, lower: Document) -> Document:
    return Document(_update(lower.data, upper.data), _Layered(upper.place, lower.place))


def _update(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _update(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged
