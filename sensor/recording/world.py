"""The host as a recording has it: whatever the stages ask, they get the answer of then, and nothing of this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensor.config import Config
from sensor.detect.detectors import Detectors
from sensor.detect.host import HostWorld
from sensor.detect.world import Counters
from sensor.enrich.enricher import Enricher
from sensor.enrich.sandboxes.named import HostFiles, Named, guessed
from sensor.events.activity import AnyActivity, SandboxChange
from sensor.respond.egress import EgressPolicy

ANSWERS_MAX = 1 << 18
NOWHERE = "/nonexistent"
_STREAMS = ("", "", "", 0, 0, 0)
_KEPT = frozenset(
    {
        "counters", "counters_at_dial", "holders", "pipe_peers", "pty_masters", "standard_streams", "cpu_usage_ns",
        "gpu_held", "image", "parent", "user", "path_of", "name_of", "kept_of",
    }
)  # fmt: skip


class Answers:
    """The latest answer to each question. What was never asked then has no answer now: it is as if gone."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}
        self.missing = 0

    def learn(self, what: str, arguments: list[Any], answer: Any) -> None:
        if what not in _KEPT:
            return
        if len(self._known) >= ANSWERS_MAX:
            self._known.clear()
        self._known[what, *map(_text, arguments)] = answer

    def find(self, default: Any, what: str, *arguments: Any) -> Any:
        try:
            return self._known[what, *arguments]
        except KeyError:
            self.missing += 1
            return default


class Clock:
    """REALTIME less MONOTONIC, as it was sampled last."""

    def __init__(self) -> None:
        self.offset = 0

    def sample(self) -> int:
        return self.offset


class World(HostWorld):
    def __init__(self, enricher: Enricher, config: Config, answers: Answers, cpus: int) -> None:
        allowed = EgressPolicy(config).explicitly_allowed
        super().__init__(
            enricher.processes, lambda _: None, lambda *_: None, lambda _: None, allowed, lambda *_: False
        )  # fmt: skip
        self._find = answers.find
        self._cpus = cpus

    def counters(self, cookie: int) -> Counters | None:
        return _counters(self._find(None, "counters", cookie))

    def counters_at_dial(self, inner: int, outer: int) -> Counters | None:
        return _counters(self._find(None, "counters_at_dial", inner, outer))

    def holders(self, sandbox_id: int, inode: int, most: int = 16) -> tuple[int, ...]:
        asked = (sandbox_id, inode) if most == 16 else (sandbox_id, inode, most)
        return _numbers(self._find((), "holders", *asked))

    def pipe_peers(self, sandbox_id: int, inode: int, not_tgid: int) -> tuple[int, ...]:
        return _numbers(self._find((), "pipe_peers", sandbox_id, inode, not_tgid))

    def pty_masters(self, sandbox_id: int, number: int) -> tuple[int, ...]:
        return _numbers(self._find((), "pty_masters", sandbox_id, number))

    def standard_streams(self, tgid: int) -> tuple[str, str, str, int, int, int]:
        found = self._find(_STREAMS, "standard_streams", tgid)
        fits = isinstance(found, list) and [type(each) for each in found] == [str, str, str, int, int, int]
        return tuple(found) if fits else _STREAMS

    def cpu_usage_ns(self, sandbox_id: int) -> int | None:
        found = self._find(None, "cpu_usage_ns", sandbox_id)
        return found if isinstance(found, int) else None

    def gpu_held(self, sandbox_id: int, tgid: int) -> bool:
        return self._find(False, "gpu_held", sandbox_id, tgid) is True


class Still:
    """In the network's place: the detectors, and nothing that acts."""

    busy = False

    def __init__(self, config: Config, world: World) -> None:
        self.detectors = Detectors(config.detect, world)

    def observe(self, activity: AnyActivity | SandboxChange) -> None:
        """Nothing follows."""

    def tick(self, now_ns: int) -> None:
        """Nothing waits."""


def enricher_of(config: Config, answers: Answers, clock: Clock) -> Enricher:
    """One that asks nothing of this host."""
    made = Enricher(config, NOWHERE, clock, HostFiles(NOWHERE))
    made.sandboxes.forgetful()
    made.users.known.clear()
    made.dns.resolvers = frozenset()

    def user(uid: int) -> str:
        made.users.known[uid] = name = _string(answers.find("", "user", uid)) or str(uid)
        return name

    def parent(tgid: int, start_ns: int) -> tuple[int, int] | None:
        found = _numbers(answers.find((), "parent", tgid, start_ns))
        return (found[0], found[1]) if len(found) == 2 else None

    def name_of(path: str) -> Named:
        found = answers.find(None, "name_of", path)
        return _named(found) if isinstance(found, dict) else guessed("none", path)

    answering = (
        (made.users, "name", user),
        (made.users, "refresh", lambda: None),
        (made.outside, "image", lambda tgid, start: _string(answers.find("", "image", tgid, start))),
        (made.outside, "parent", parent),
        (made.sandboxes, "path_of", lambda sandbox: _string(answers.find("", "path_of", sandbox)) or None),
        (made.sandboxes, "name_of", name_of),
        (made.sandboxes, "kept_of", lambda sandbox: _strings(answers.find({}, "kept_of", sandbox))),
    )
    for thing, name, answer in answering:
        setattr(thing, name, answer)
    return made


def _text(value: Any) -> Any:
    """A path that is no Unicode was written as bytes; what cannot be looked up by is no question of ours."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str | int) else None


def _string(found: Any) -> str:
    text = _text(found)
    return text if isinstance(text, str) else ""


def _strings(found: Any) -> dict[str, str]:
    return {_string(key): _string(value) for key, value in found.items()} if isinstance(found, Mapping) else {}


def _numbers(found: Any) -> tuple[int, ...]:
    return tuple(each for each in found if isinstance(each, int)) if isinstance(found, list | tuple) else ()


def _counters(found: Any) -> Counters | None:
    names = Counters.__struct_fields__
    if not isinstance(found, dict) or not all(isinstance(found.get(name), int) for name in names):
        return None
    return Counters(*(found[name] for name in names))


def _named(found: dict[str, Any]) -> Named:
    return Named(
        _string(found.get("runtime")), _string(found.get("name")), found.get("certain") is True,
        _strings(found.get("labels")),
    )  # fmt: skip
