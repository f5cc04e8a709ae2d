"""What the core asks of the C library and the scheduler for its own process."""

from __future__ import annotations

import ctypes
import gc
import os

from sensor.errors import HostError

_M_ARENA_MAX = -8  # malloc.h
_NICE = -10

_libc = ctypes.CDLL(None)


def use_one_arena() -> None:
    """Another arena for each thread would keep what a thread freed, for a thread that has ended."""
    _libc.mallopt(_M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Reading rules and BTF frees megabytes, which malloc keeps unless told."""
    _libc.malloc_trim(0)


def stay_on(cpus: tuple[int, ...]) -> None:
    """With the children started from now on. Raises HostError where none of these CPUs is there."""
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError) as cause:
        raise HostError(f"cpus: none of {list(cpus)} is a CPU that this process may use") from cause


def go_first() -> None:
    """A storm in a sandbox must not take the processor from the one that reads what it does: with as many
    runnable tasks as a fair share would give the core, the ring fills. Where it is not allowed it is not needed."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except PermissionError:
        return


def settle_down() -> None:
    """After a start: what was made for it goes, what is left stays, and the loop goes first. What is made from here on
    is records without cycles; collecting often would only cost."""
    go_first()
    gc.collect()
    give_back_memory()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
