"""Which files rules of the file categories speak of, so that those alone are watched."""

from __future__ import annotations

from msgspec import Struct

from sensor.rules import ir
from sensor.rules.literals import required

WRITE, READ = 1, 2
CATEGORIES = {
    "file_event": WRITE,
    "file_rename": WRITE,
    "file_delete": WRITE,
    "file_change": WRITE,
    "file_access": READ,
}
# Folders of the root: what begins with one may be anywhere, as a rule has it, and is looked for there.
_TOP_NAMES = (
    "bin", "boot", "dev", "etc", "home", "lib", "lib64", "opt", "proc", "root", "run", "sbin", "sys", "tmp", "usr",
    "var",
)  # fmt: skip
TOPS = frozenset(f"/{name}/" for name in _TOP_NAMES)
_FIELDS = frozenset({"TargetFilename", "SourceFilename"})


class Place(Struct, frozen=True):
    """`shape`: exact, prefix, suffix or contains, as rules have it; `text` as they have it, or folded; `bits`: WRITE
    for whatever is done to it, READ for reading."""

    shape: str
    text: str
    bits: int


class Cover(Struct, frozen=True):
    """Places of which the path is in one whenever the expression is true; not `whole`: it may be elsewhere too."""

    places: tuple[Place, ...]
    whole: bool


def of_rule(category: str, expression: ir.Expression) -> Cover:
    """`expression` is simplified. A rule of another category speaks of no files."""
    bits = CATEGORIES.get(category)
    return Cover((), True) if bits is None else _cover(expression, bits)


def _cover(item: ir.Expression, bits: int) -> Cover:
    if isinstance(item, ir.Or):
        parts = [_cover(part, bits) for part in item.items]
        return Cover(tuple(place for part in parts for place in part.places), all(part.whole for part in parts))
    if isinstance(item, ir.And):  # the best of its parts is enough, where one tells where to look
        return max((_cover(part, bits) for part in item.items), key=_worth, default=Cover((), False))
    if isinstance(item, (ir.Text, ir.Pattern, ir.Regex)) and item.attribute in _FIELDS:
        return _of_place(_best(item, bits))
    if isinstance(item, ir.Constant) and not item.value:
        return Cover((), True)
    return Cover((), False)


def _of_place(place: Place | None) -> Cover:
    return Cover((), False) if place is None else Cover((place,), _placed(place) > 0)


def _worth(cover: Cover) -> tuple[bool, int, int]:
    least = min((_placed(place) for place in cover.places), default=0)
    return cover.whole, least, -len(cover.places)


def _placed(place: Place) -> int:
    """How well it says where to look; 0: only a look everywhere would do."""
    text = place.text
    if place.shape == "exact":
        return 5
    if place.shape == "prefix":
        return (2 if text in TOPS else 4) if text.rfind("/") > 0 else 0
    if not text.startswith("/"):
        return 0
    return 3 if place.shape == "suffix" else int(text.count("/") > 1 and text not in TOPS)


def _best(item: ir.Text | ir.Pattern | ir.Regex, bits: int) -> Place | None:
    if isinstance(item, ir.Text):
        return Place(item.shape, item.value, bits) if item.value else None
    if isinstance(item, ir.Regex):
        single = [
            next(iter(clause)).decode("utf-8", "replace") for clause in required(item.pattern) if len(clause) == 1
        ]
        found = [Place("contains", text.strip(), bits) for text in single if text.strip()]
    else:
        parts = item.parts
        found = [Place("contains", part, bits) for part in parts if isinstance(part, str)]
        found += [Place("prefix", part, bits) for part in parts[:1] if isinstance(part, str)]
        found += [Place("suffix", part, bits) for part in parts[-1:] if isinstance(part, str)]
    return max(found, key=lambda place: (_placed(place), len(place.text)), default=None)
