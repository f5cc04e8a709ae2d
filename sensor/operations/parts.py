"""What operations act through: stages of the core, and what others put in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from sensor.bpf.state import FlowState
from sensor.config import Config
from sensor.control.caller import ConflictError
from sensor.enrich.enricher import Enricher
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.export.log import EventLog
from sensor.metrics import Metrics
from sensor.pipeline import Pipeline
from sensor.recording.recorder import Recorder
from sensor.reports import Reports
from sensor.respond.disarm import Arming
from sensor.respond.killsandbox import SandboxKiller
from sensor.respond.nevertouch import NeverTouch
from sensor.respond.silences import Silences

OVER = frozenset({"released", "killed", "ended", "failed"})  # of a quarantine


class Asked(Struct, frozen=True):
    """An order for a quarantine, with the members of sensor.respond.quarantine's Order."""

    sandbox_id: int
    path: str  # of its cgroup below the mount: /a/b
    name: str
    reason: str
    operator: str
    ttl_seconds: int
    on_expiry: str
    freeze: bool
    loopback: bool
    evidence: bool
    detection_id: str


class Order(Protocol):
    @property
    def sandbox_id(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def name(self) -> str: ...


class Record(Protocol):
    """A Struct, told as it is."""

    @property
    def id(self) -> str: ...
    @property
    def order(self) -> Order: ...
    @property
    def state(self) -> str: ...


class Quarantines(Protocol):
    """Each may raise NeverTouchError, ActError, UsageError, NotFoundError. None of them waits for anything."""

    def add(self, order: Any, /) -> Record: ...
    def release(self, id: str, /, *, operator: str, reason: str) -> Record: ...
    def kill(self, id: str, /, *, operator: str, reason: str) -> Record: ...
    def records(self) -> Sequence[Record]: ...
    def get(self, id: str, /) -> Record: ...
    def of(self, sandbox_id: int, /) -> Record | None:
        """The one that a sandbox is in."""


class Attributes(Protocol):
    def get(self, sandbox_id: int) -> Mapping[str, str]: ...
    def put(self, sandbox: Sandbox, attributes: Mapping[str, str]) -> None:
        """Kept, and the sandbox's class is what follows of them, at once.

        :raises UsageError:
        :raises OSError: they cannot be kept, and nothing has changed.
        """


class Parts(Struct):
    """Everything that operations need. What is None is not there, and is refused with that."""

    config: Callable[[], Config]
    mount: str  # of cgroup2
    enricher: Enricher
    pipeline: Pipeline
    reports: Reports
    log: EventLog
    metrics: Metrics
    arming: Arming
    arm: Callable[[bool], None]  # the kernel's half
    reload: Callable[[], None]
    killer: SandboxKiller
    guard: NeverTouch
    order: Callable[[Asked], Any] = lambda asked: asked  # to what `quarantines` takes
    quarantines: Quarantines | None = None
    ledger_damage: Callable[[], str] = lambda: ""
    silences: Silences | None = None
    attributes: Attributes | None = None
    explain: Callable[[Sandbox, Mapping[str, str]], Mapping[str, Any]] | None = None
    recorder: Recorder | None = None
    flow: Callable[[int], FlowState | None] = lambda _slot: None  # what the kernel counted, by the flow's slot


def absent(what: str) -> ConflictError:
    return ConflictError(f"this sensor has no {what}")
