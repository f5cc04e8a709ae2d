"""Compiled rules, as the core loads them: from the cache, else from a compiler child.

Never imports pySigma or PyYAML. A change of any rule file, or of the compiler, makes another key.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sensor import private
from sensor.errors import RuleError
from sensor.rules import pushdown, setting
from sensor.rules.children import Children
from sensor.rules.correlation.model import Correlation
from sensor.rules.correlation.resolve import References
from sensor.rules.files import Seen, read, rule_files, seen
from sensor.rules.places import Place
from sensor.rules.pushdown import EVERYTHING, Pushdown
from sensor.rules.refusal import Refusal
from sensor.rules.setting import Placeholders, Setting
from sensor.rules.unit import Compiled, Rule, Unit, digest

log = logging.getLogger(__name__)

CACHE_FILE = "rules.cache"
MAX_CACHE_BYTES = 64 << 20
MOST_OTHERS = 1024  # units in the cache of files that are not loaded now

_SOURCES = frozenset({".py", ".yaml", ".yml", ".json"})


class Ruleset(Struct, frozen=True):
    """`compiled` stands beside `rules`; `refused` holds `file:line: reason` lines; `unindexed` the ids of rules that
    are evaluated for every event of their category, since nothing in them can be looked up. A rule for several
    categories is there once for each, under the same id. `warnings`: `file:line: text`; `dormant`, rules that are right
    and can match no event of ours: `file:line: title: what is missing`."""

    rules: tuple[Rule, ...]
    compiled: tuple[Compiled, ...]
    refused: tuple[str, ...]
    unindexed: tuple[str, ...]
    pushdown: Pushdown = EVERYTHING
    warnings: tuple[str, ...] = ()
    dormant: tuple[str, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    calls: tuple[int, ...] = ()  # numbers of the system calls that rules are about
    places: tuple[Place, ...] = ()  # that rules about files speak of
    beyond: tuple[str, ...] = ()  # ids of those that may match elsewhere too, where nobody watches
    silent: tuple[str, ...] = ()  # of rules and correlations that are only there to be referred to

    def source_of(self, rule_id: str) -> str | None:
        """The Python that decides about a rule; None of one that is not there."""
        found = [one.source for one in self.compiled if one.rule.id == rule_id]
        return "\n\n".join(found) or None

    @property
    def source(self) -> str:
        """Of all rules, to read."""
        return "\n\n".join(f"# {one.rule.id} {one.rule.file!a}\n{one.source}" for one in self.compiled)


def joined(units: Sequence[Unit]) -> Ruleset:
    """The units' rules in their order; of two with one id the second is refused."""
    compiled: list[Compiled] = []
    refused: list[str] = []
    warnings: list[str] = []
    dormant: list[str] = []
    places: dict[str, str] = {}
    references = References()
    for unit in units:
        complaints = list(unit.refused)
        here = [(one.rule.id, one.line) for one in unit.rules]
        here += [(one.id, one.line) for one in unit.dormant] + [(one.id, one.line) for one in unit.drafts]
        taken: set[tuple[str, int]] = set()
        for identity, line in sorted(set(here), key=_second):
            where = f"{unit.file}:{line}"
            if places.setdefault(identity, where) != where:
                taken.add((identity, line))
                complaints.append(Refusal(line, f"id {identity} is also that of {places[identity]}"))
        rules = [one for one in unit.rules if (one.rule.id, one.line) not in taken]
        complaints += references.rules(unit, rules)
        complaints += references.correlations([one for one in unit.drafts if (one.id, one.line) not in taken])
        compiled += rules
        refused += _lines(unit, complaints)
        warnings += _lines(unit, unit.warnings)
        dormant += _lines(
            unit, [Refusal(one.line, one.reason) for one in unit.dormant if (one.id, one.line) not in taken]
        )
    narrowed = {where for unit in units for where in unit.narrowed}
    for unit in units:
        idle = [line for line in unit.filters if f"{unit.file}:{line}" not in narrowed]
        warnings += _lines(unit, [Refusal(line, "the filter narrows no rule") for line in idle])
    resolved = references.resolve()
    return Ruleset(
        rules=tuple(one.rule for one in compiled),
        compiled=tuple(compiled),
        refused=(*refused, *resolved.refused),
        unindexed=tuple(dict.fromkeys(one.rule.id for one in compiled if not one.indexed)),
        pushdown=pushdown.joined(one.wants for one in compiled),
        warnings=tuple(warnings),
        dormant=(*dormant, *resolved.dormant),
        correlations=resolved.correlations,
        calls=tuple(sorted({number for one in compiled for number in one.calls})),
        places=tuple(dict.fromkeys(place for one in compiled for place in one.cover.places)),
        beyond=tuple(dict.fromkeys(one.rule.id for one in compiled if not one.cover.whole)),
        silent=resolved.silent,
    )


def _second(pair: tuple[str, int]) -> int:
    return pair[1]


def _lines(unit: Unit, told: Iterable[Refusal]) -> list[str]:
    return [f"{unit.file}:{one.line}: {one.reason}" for one in sorted(told, key=_line)]


def _line(refusal: Refusal) -> int:
    return refusal.line


def load(
    paths: Sequence[Path | str],
    cache_dir: Path | str | None,
    keep_going: bool = False,
    placeholders: Placeholders | None = None,
) -> Ruleset:
    """The rules below `paths`. Raises RuleError with a line for each broken rule, unless `keep_going`,
    when the others are loaded and the broken ones listed in `refused`. `cache_dir` None: no cache.
    `placeholders`: name to values, for `|expand`."""
    files = rule_files(paths)
    if not files:
        raise RuleError(f"{', '.join(map(str, paths)) or 'rules'}:1: no rule files there")
    cache = None if cache_dir is None else Path(cache_dir) / CACHE_FILE
    with Children() as children:
        children.start(_newer(files, cache))
        now = {path: seen(path) for path in files}
        using = setting.of(placeholders, [path for path in files if now[path].filters])
        units = _units(now, using, cache, children)
    ruleset = joined(units)
    if ruleset.refused and not keep_going:
        raise RuleError("\n".join(ruleset.refused))
    return ruleset


def without_prose(ruleset: Ruleset) -> Ruleset:
    """Without what only people read, which the core would hold as long as its rules."""
    compiled = tuple(
        replace(one, rule=replace(one.rule, description="", falsepositives=(), references=()))
        for one in ruleset.compiled
    )
    return replace(ruleset, compiled=compiled, rules=tuple(one.rule for one in compiled))


def _newer(files: Sequence[Path], cache: Path | None) -> list[Path]:
    """Those that changed since there is a cache, to guess by: times prove nothing."""
    try:
        written = cache.stat().st_mtime_ns if cache is not None else 0
    except OSError:
        written = 0
    found = []
    for path in files:
        with contextlib.suppress(OSError):
            if path.stat().st_ctime_ns > written:
                found.append(path)
    return found


def _units(now: Mapping[Path, Seen], using: Setting, cache: Path | None, children: Children) -> list[Unit]:
    """What each file gives: from the cache where neither it nor the compiler changed, else from children."""
    key = _compiler(using)
    kept = _kept(cache, key) if cache is not None else {}
    fitting = {
        name: one.data
        for path, file in now.items()
        if (one := kept.get(name := str(path))) is not None and one.content == file.content
    }
    changed = [path for path in now if str(path) not in fitting]
    children.compile(changed, using)
    units = {name: _UNIT.decode(data) for name, data in fitting.items()}  # while they work
    for name, data in children.results().items():
        fitting[name], units[name] = data, _UNIT.decode(data)
    if cache is not None and changed:
        # Those of another rule set stay: whoever goes back to it does not compile it again.
        others = [(name, one) for name, one in kept.items() if name not in units][-MOST_OTHERS:]
        _store(cache, key, dict(others) | {name: Kept(unit.content, fitting[name]) for name, unit in units.items()})
    return [units[str(path)] for path in now]


class Kept(Struct, frozen=True):
    """A unit, encoded: decoded one by one, since a decoder lets no other thread run."""

    content: str
    data: bytes


_UNIT = msgspec.msgpack.Decoder(Unit)
_KEPT = msgspec.msgpack.Decoder(dict[str, Kept])


def _compiler(using: Setting) -> bytes:
    """A digest of the compiler's own source and data, of what it stands on, of its interpreter, and of its setting."""
    package = Path(__file__).parent
    sources = [p for p in sorted(package.rglob("*")) if p.suffix in _SOURCES and p.is_file()]
    parts = [sys.version.encode(), setting.encode(using)]
    events = [package.parent / "events" / name for name in ("activity.py", "derived.py")]
    for path in [*sources, *events, *map(Path, using.filters)]:
        parts += [os.fsencode(path.name), _content(path)]
    return digest(*parts).encode()


def _content(path: Path) -> bytes:
    try:
        return read(path)
    except OSError:
        return b""


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
