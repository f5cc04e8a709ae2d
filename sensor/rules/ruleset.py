"""Compiled rules, as the core loads them: from the cache, else from a compiler child.

Never imports pySigma or PyYAML. A change of any rule file, or of the compiler, makes another key.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from sensor import private
from sensor.errors import RuleError
from sensor.rules import pushdown
from sensor.rules.children import Children
from sensor.rules.pushdown import EVERYTHING, Pushdown
from sensor.rules.unit import Compiled, Refusal, Rule, Unit, digest

log = logging.getLogger(__name__)

CACHE_FILE = "rules.cache"
MAX_CACHE_BYTES = 64 << 20
MAX_FILE_BYTES = 1 << 20  # of a rule file

_SOURCES = frozenset({".py", ".yaml", ".yml", ".json"})
_SUFFIXES = (".yml", ".yaml")
_EXAMPLES = tuple(f".events{suffix}" for suffix in _SUFFIXES)


class Ruleset(Struct, frozen=True):
    """`compiled` stands beside `rules`; `refused` holds `file:line: reason` lines; `unindexed` the ids of rules that
    are evaluated for every event of their category, since nothing in them can be looked up."""

    rules: tuple[Rule, ...]
    compiled: tuple[Compiled, ...]
    refused: tuple[str, ...]
    unindexed: tuple[str, ...]
    pushdown: Pushdown = EVERYTHING

    def source_of(self, rule_id: str) -> str | None:
        """The Python that decides about a rule; None of one that is not there."""
        return next((one.source for one in self.compiled if one.rule.id == rule_id), None)

    @property
    def source(self) -> str:
        """Of all rules, to read."""
        return "\n\n".join(f"# {one.rule.id} {one.rule.file!a}\n{one.source}" for one in self.compiled)


def joined(units: Iterable[Unit]) -> Ruleset:
    """The units' rules in their order; of two with one id the second is refused."""
    compiled: list[Compiled] = []
    refused: list[str] = []
    places: dict[str, str] = {}
    for unit in units:
        complaints = list(unit.refused)
        for one in unit.rules:
            if one.rule.id in places:
                complaints.append(Refusal(one.line, f"id {one.rule.id} is also that of {places[one.rule.id]}"))
                continue
            places[one.rule.id] = f"{unit.file}:{one.line}"
            compiled.append(one)
        refused += [f"{unit.file}:{refusal.line}: {refusal.reason}" for refusal in sorted(complaints, key=_line)]
    return Ruleset(
        rules=tuple(one.rule for one in compiled),
        compiled=tuple(compiled),
        refused=tuple(refused),
        unindexed=tuple(one.rule.id for one in compiled if not one.indexed),
        pushdown=pushdown.joined(one.wants for one in compiled),
    )


def _line(refusal: Refusal) -> int:
    return refusal.line


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


def load(paths: Sequence[Path | str], cache_dir: Path | str | None, keep_going: bool = False) -> Ruleset:
    """The rules below `paths`. Raises RuleError with a line for each broken rule, unless `keep_going`,
    when the others are loaded and the broken ones listed in `refused`. `cache_dir` None: no cache."""
    files = rule_files(paths)
    if not files:
        raise RuleError(f"{', '.join(map(str, paths)) or 'rules'}:1: no rule files there")
    units = _units(files, None if cache_dir is None else Path(cache_dir) / CACHE_FILE)
    ruleset = joined(units)
    if ruleset.refused and not keep_going:
        raise RuleError("\n".join(ruleset.refused))
    return ruleset


def _units(files: Sequence[Path], cache: Path | None) -> list[Unit]:
    """What each file gives: from the cache where neither it nor the compiler changed, else from children."""
    key = _compiler()
    kept = _kept(cache, key) if cache is not None else {}
    fitting = {str(path): one.data for path in files if (one := _fitting(kept.get(str(path)), path)) is not None}
    changed = [path for path in files if str(path) not in fitting]
    with Children(changed) as children:
        units = {name: _UNIT.decode(data) for name, data in fitting.items()}  # while they work
        for name, data in children.results().items():
            fitting[name], units[name] = data, _UNIT.decode(data)
    if cache is not None and (changed or len(kept) != len(units)):
        _store(cache, key, {name: Kept(unit.content, fitting[name]) for name, unit in units.items()})
    return [units[str(path)] for path in files]


class Kept(Struct, frozen=True):
    """A unit, encoded: decoded one by one, since a decoder lets no other thread run."""

    content: str
    data: bytes


_UNIT = msgspec.msgpack.Decoder(Unit)
_KEPT = msgspec.msgpack.Decoder(dict[str, Kept])


def _fitting(kept: Kept | None, path: Path) -> Kept | None:
    return kept if kept is not None and kept.content == content_of(path) else None


def content_of(path: Path) -> str:
    """Of a file that cannot be read, it is none."""
    try:
        with path.open("rb") as file:
            return digest(file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        return f"unreadable {error.errno}"


def _compiler() -> bytes:
    """A digest of the compiler's own source and data, of what it stands on, and of its interpreter."""
    package = Path(__file__).parent
    sources = [p for p in sorted(package.rglob("*")) if p.suffix in _SOURCES and p.is_file()]
    parts = [sys.version.encode()]
    for path in [*sources, package.parent / "events" / "activity.py"]:
        parts += [os.fsencode(path.name), path.read_bytes()]
    return digest(*parts).encode()


def _kept(cache: Path, key: bytes) -> dict[str, Kept]:
    """Empty where there is no cache of this key, or one that is damaged or not ours alone: what is in it is
    executed, so that only a file that nobody else could have written will do."""
    try:
        payload = private.read(cache, key, MAX_CACHE_BYTES)
        return {} if payload is None else _KEPT.decode(payload)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("ignoring %s: %s", cache, error)
        return {}


def _store(cache: Path, key: bytes, units: dict[str, Kept]) -> None:
    try:
        private.write(cache, key, msgspec.msgpack.encode(units))
    except OSError as error:  # the next start compiles again, nothing else is lost
        log.warning("cannot keep compiled rules in %s: %s", cache, error.strerror)
