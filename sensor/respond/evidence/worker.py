"""Reads that a sandbox may make wait for ever, each in a thread that can be left behind.

Its memory (argv, environment) may be mapped from a FUSE file or wait for userfaultfd, its files may be served by
itself, and no signal ends some of these waits. A thread that hangs dies with the process, or stays with it.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Any, TypeVar

from sensor.respond.evidence.bounded import LIMITS

LEAST_SECONDS = 0.05
T = TypeVar("T")


class StalledError(Exception):
    """It did not come back in time, or too many did not before."""


class _Thread:
    def __init__(self) -> None:
        self.job: Callable[[], Any] | None = None
        self.result: Any = None
        self.error: Exception | None = None
        self.asked = _thread.allocate_lock()
        self.done = _thread.allocate_lock()
        self.asked.acquire()
        self.done.acquire()
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        while True:
            self.asked.acquire()
            self.result, self.error = None, None
            assert self.job is not None
            try:
                self.result = self.job()
            except Exception as error:
                self.error = error
            self.done.release()


class Worker:
    """`stalls`: how often it was waited for in vain. Each time, the next is waited for half as long, so that all of
    them together cost twice the first."""

    def __init__(self) -> None:
        self.stalls = 0
        self._thread: _Thread | None = None

    def do(self, job: Callable[[], T], seconds: float) -> T:
        """:raises StalledError, and whatever the job raises."""
        if self.stalls >= LIMITS["stalls"]:
            raise StalledError
        thread = self._thread = self._thread or _Thread()
        thread.job = job
        thread.asked.release()
        if not thread.done.acquire(timeout=max(seconds / 2**self.stalls, LEAST_SECONDS)):
            self._thread = None  # it may write to what it was given, and to nothing else
            self.stalls += 1
            raise StalledError
        if thread.error is not None:
            raise thread.error
        result: T = thread.result
        return result
