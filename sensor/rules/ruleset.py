"""Compiled rules, as the core loads them: from the cache, else from a compiler child.

Never imports pySigma or PyYAML. A change of any rule file, or of the compiler, makes another key.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from sensor.errors import RuleError
from sensor.rules.places import Place

log = logging.getLogger(__name__)

CACHE_FILE = "rules.cache"
MAX_CACHE_BYTES = 64 << 20
COMPILE_SECONDS = 120

_SUFFIXES = (".yml", ".yaml")
_EXAMPLES = tuple(f".events{suffix}" for suffix in _SUFFIXES)


class Rule(Struct, frozen=True):
    """What a rule says of itself. `id` is its UUID, `level` one of detection.LEVELS."""

    id: str
    title: str
    level: str
    status: str
    tags: tuple[str, ...]
    file: str
    category: str
    description: str
    falsepositives: tuple[str, ...]
    references: tuple[str, ...]


class Ruleset(Struct, frozen=True):
    """`source` is Python for `engine`; `refused` holds `file:line: reason` lines; `unindexed` the ids of
    rules that are evaluated for every event of their category, since nothing in them can be looked up. `places` is
    what rules about files speak of, `beyond` the ids of those that may match elsewhere, where nobody watches."""

    rules: tuple[Rule, ...]
    source: str
    refused: tuple[str, ...]
    unindexed: tuple[str, ...]
    places: tuple[Place, ...] = ()
    beyond: tuple[str, ...] = ()


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
    key = _key(files)
    cache = None if cache_dir is None else Path(cache_dir) / CACHE_FILE
    ruleset = _cached(cache, key) if cache is not None else None
    if ruleset is None:
        ruleset = _compiled(files)
        if cache is not None:
            _store(cache, key, ruleset)
    if ruleset.refused and not keep_going:
        raise RuleError("\n".join(ruleset.refused))
    return ruleset


def _key(files: Sequence[Path]) -> bytes:
    """A digest of the compiler's own source, its interpreter, and each rule file's path and content."""
    digest = hashlib.sha256(sys.version.encode())
    package = Path(__file__).parent
    sources = [*sorted(package.glob("*.py")), package.parent / "events" / "activity.py"]
    for path in [*sources, *files]:
        try:
            content = path.read_bytes()
        except OSError as error:  # the compiler names it; here it only must not share a key with a readable one
            content = f"unreadable {error.errno}".encode()
        name = os.fsencode(path)
        digest.update(b"%d %d " % (len(name), len(content)) + name + content)
    return digest.hexdigest().encode()


def _cached(cache: Path, key: bytes) -> Ruleset | None:
    """None where there is no cache of this key, or one that is damaged or not ours alone: what is in
    it is executed, so that only a file that nobody else could have written will do."""
    try:
        stored_key, _, rest = _private(cache).partition(b"\n")
        digest, _, payload = rest.partition(b"\n")
        if stored_key != key:
            return None
        if digest != hashlib.sha256(payload).hexdigest().encode():
            raise ValueError("it is damaged")
        return msgspec.json.decode(payload, type=Ruleset)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("ignoring %s: %s", cache, error)
        return None


def _private(path: Path) -> bytes:
    """The content of a regular file of this user that nobody else may touch. Raises OSError, ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ValueError("it is not a file of mode 0600 that belongs to this user")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_CACHE_BYTES)
    finally:
        os.close(descriptor)


def _store(cache: Path, key: bytes, ruleset: Ruleset) -> None:
    payload = msgspec.json.encode(ruleset)
    content = b"\n".join((key, hashlib.sha256(payload).hexdigest().encode(), payload))
    temporary = ""
    try:
        cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{CACHE_FILE}.", dir=cache.parent)  # mode 0600
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, cache)
    except OSError as error:  # the next start compiles again, nothing else is lost
        log.warning("cannot keep compiled rules in %s: %s", cache, error.strerror)
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _compiled(files: Sequence[Path]) -> Ruleset:
    import subprocess  # noqa: PLC0415  # only when the cache has nothing: it costs the warm start 10 ms

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    with tempfile.TemporaryDirectory(prefix="pinfold-rules-") as folder:
        output = Path(folder) / "rules.json"
        command = [sys.executable, "-P", "-m", "sensor.rules.sigma", "--keep-going", "--output", str(output), "--"]
        try:
            done = subprocess.run(
                [*command, *map(str, files)],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMPILE_SECONDS,
                check=False,
            )
            if done.returncode == 0:
                return msgspec.json.decode(output.read_bytes(), type=Ruleset)
        except (OSError, subprocess.TimeoutExpired, msgspec.MsgspecError) as error:
            raise RuleError(f"{files[0]}:1: the rules' compiler failed: {error}") from error
    last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    raise RuleError(f"{files[0]}:1: the rules' compiler ended with status {done.returncode}: {last}")
