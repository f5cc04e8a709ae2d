"""`|expand`: text with %names% in it becomes several texts, with the values that the configuration gives them.

Only in the child: pySigma is heavy.
"""

from __future__ import annotations

from collections.abc import Iterator

from sigma import types as sigma

from sensor.rules import ir
from sensor.rules.document import RefusalError
from sensor.rules.setting import Placeholders

MOST_TEXTS = 10_000  # that one value may become: names multiply

Parts = tuple[str | int, ...]


def filled(value: sigma.SigmaString, values: Placeholders) -> list[Parts]:
    """Literals, ANY and ONE of each text that the value stands for; runs of ANY and literals are joined."""
    return [_parts(pieces) for pieces in _texts(tuple(value.s), values)]


def filled_regex(value: sigma.SigmaRegularExpression, values: Placeholders) -> list[str]:
    """As `filled`; a placeholder's values are regexes too."""
    if not value.contains_placeholder():
        return [str(value.regexp)]
    texts = _texts(tuple(value.regexp.s), values, escape=False)
    return ["".join(piece if isinstance(piece, str) else _WILDCARDS[piece] for piece in pieces) for pieces in texts]


_WILDCARDS: dict[object, str] = {sigma.SpecialChars.WILDCARD_MULTI: "*", sigma.SpecialChars.WILDCARD_SINGLE: "?"}


def _texts(pieces: tuple[object, ...], values: Placeholders, escape: bool = True) -> list[tuple[object, ...]]:
    texts: list[tuple[object, ...]] = [()]
    for piece in pieces:
        choices = _choices(piece, values, escape)
        if len(texts) * len(choices) > MOST_TEXTS:
            raise RefusalError(f"the placeholders stand for more than {MOST_TEXTS} texts")
        texts = [(*text, *choice) for text in texts for choice in choices]
    return texts


def _choices(piece: object, values: Placeholders, escape: bool) -> list[tuple[object, ...]]:
    if not isinstance(piece, sigma.Placeholder):
        return [(piece,)]
    if piece.name not in values:
        raise RefusalError(f"placeholder %{piece.name}% has no value: give it one under rules, placeholders")
    return [tuple(sigma.SigmaString(text, escape=escape).s) for text in values[piece.name]]


def _parts(pieces: tuple[object, ...]) -> Parts:
    return tuple(_joined(pieces))


def _joined(pieces: tuple[object, ...]) -> Iterator[str | int]:
    literal = ""
    last: object = None
    for piece in pieces:
        if isinstance(piece, str):
            literal += piece
            continue
        if literal:
            yield literal
            literal, last = "", None
        if piece == sigma.SpecialChars.WILDCARD_MULTI:
            if last != ir.ANY:
                yield ir.ANY
            last = ir.ANY
        else:
            yield ir.ONE
            last = ir.ONE
    if literal:
        yield literal
