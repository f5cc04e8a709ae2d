"""Kernel time to UTC. Records carry CLOCK_MONOTONIC, which starts at boot and stops in suspend."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

SAMPLE_EVERY_NS = 2_000_000_000
# Later than any uptime. A record that says so is corrupt, and its sum would not fit the log's 64 bits.
MONOTONIC_MAX_NS = 1 << 62


class Clock(Protocol):
    def sample(self) -> int:
        """REALTIME - MONOTONIC, in nanoseconds."""


class SystemClock:
    def sample(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Timeline:
    """UTC is record time + `offset`, for record times in [`start`, `end`); others ask `utc`, which
    samples the clock anew and calls `on_sample`."""

    __slots__ = ("_on_sample", "clock", "end", "impossible", "offset", "start")

    def __init__(self, clock: Clock, on_sample: Callable[[], None]) -> None:
        self.clock = clock
        self._on_sample = on_sample
        self.offset = 0
        self.start = 0
        self.end = 0
        self.impossible = 0  # records whose time no clock can have had

    def utc(self, monotonic_ns: int) -> int:
        if monotonic_ns >= MONOTONIC_MAX_NS:
            self.impossible += 1
            return 0
        if not self.start <= monotonic_ns < self.end:
            self.offset = self.clock.sample()
            self.start = monotonic_ns
            self.end = monotonic_ns + SAMPLE_EVERY_NS
            self._on_sample()
        return monotonic_ns + self.offset

    @property
    def state(self) -> tuple[int, int, int]:
        """Offset, start and end: a recording carries on where it began."""
        return self.offset, self.start, self.end

    @state.setter
    def state(self, found: tuple[int, int, int]) -> None:
        self.offset, self.start, self.end = found

    def now(self) -> tuple[int, int]:
        """(UTC, CLOCK_MONOTONIC), in nanoseconds."""
        monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        return self.utc(monotonic_ns), monotonic_ns
