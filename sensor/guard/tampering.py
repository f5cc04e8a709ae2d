"""What the guard found, and how it is told: a notice for the operator, a count for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from sensor.metrics import Metrics

SAY_AGAIN_NS = 60_000_000_000
MOST_KEYS = 4096


class Told:
    """`tell(text, **fields)` writes a notice into the log and says it to the operator. The same difference, that cannot
    be repaired, is told once a minute; the count goes on."""

    def __init__(self, metrics: Metrics, tell: Callable[..., None]) -> None:
        self._metrics = metrics
        self._tell = tell
        self._last: dict[str, int] = {}

    def tampered(self, what: str, text: str, repaired: str, **fields: object) -> None:
        """`what` is one of metrics.TAMPERED; `repaired`: empty, or why it could not be."""
        self._metrics.count("pinfold_tampering_total", (what,))
        outcome = f"which could not be repaired: {repaired}" if repaired else "which was repaired"
        self.critical(f"{text}, {outcome}", what=what, **fields)

    def critical(self, text: str, **fields: object) -> None:
        now = time.monotonic_ns()
        if now - self._last.get(text, -SAY_AGAIN_NS) < SAY_AGAIN_NS:
            return
        if len(self._last) >= MOST_KEYS:
            self._last.clear()
        self._last[text] = now
        self._tell(f"critical: {text}", **fields)
