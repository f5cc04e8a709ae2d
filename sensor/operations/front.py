"""The core as the api process sees it. The api is started before the stages are made, since its start takes longest;
nothing is answered before `open`, and the loop runs after that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sensor.config import Config
from sensor.control.caller import Caller
from sensor.control.link import CoreLink, Desk
from sensor.control.listeners import Listener
from sensor.metrics import Metrics
from sensor.operations.operations import Operations
from sensor.operations.parts import Parts

TOLD_NS = 1_000_000_000  # between two lines about refused peers: who is refused may come again and again


class Front:
    def __init__(self, config: Config, metrics: Metrics, say: Callable[[str], None]) -> None:
        self._config = config
        self._metrics = metrics
        self._say = say
        self._parts: Parts
        self._operations: Operations
        self._next_refusal = 0

    def spawn(self, listeners: list[Listener]) -> CoreLink:
        """:raises OSError: the api process cannot be started."""
        providers = {
            "metrics": self._metrics.snapshot,
            "status": lambda: self._operations.status(),  # noqa: PLW0108 - made after the api is started
            "sandboxes": lambda: self._parts.reports.sandboxes(),  # noqa: PLW0108
            "rules": lambda: self._parts.reports.rules(),  # noqa: PLW0108
        }
        log = os.path.join(self._config.paths.log, self._config.log.file)
        desk = Desk(self._config.control, self._answer, log, self._within)
        return CoreLink.spawn(
            listeners, providers, sandboxed=self._sandboxed, metrics=self._metrics, say=self._say, desk=desk
        )

    def open(self, parts: Parts) -> Operations:
        self._parts = parts
        self._operations = Operations(parts)
        return self._operations

    def _answer(self, name: str, body: bytes, caller: Caller) -> bytes:
        return self._operations.answer(name, body, caller)

    def _within(self, cgroup_path: str) -> bool:
        return self._parts.enricher.sandboxes.outermost(cgroup_path) is not None

    def _sandboxed(self, tgid: int, cgroup_path: str) -> bool:
        known = self._parts.enricher.processes.get(tgid)
        inside = (known is not None and known.sandbox_id != 0) or self._within(cgroup_path)
        if inside and time.monotonic_ns() >= self._next_refusal:
            self._next_refusal = time.monotonic_ns() + TOLD_NS
            # Nobody inside a sandbox has business here.
            text = "critical: a process of a sandbox asked the sensor's own sockets, and was refused"
            self._parts.log.add_notice(text, ProcessId=tgid, cgroup=cgroup_path)
        return inside
