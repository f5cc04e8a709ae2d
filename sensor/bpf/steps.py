"""Configured cgroup paths as the kernel matches them: one step a component, from the root down.

A cgroup is watched for the steps that its children may match. The last step's match is a sandbox, so
that it is tracked from its birth on, however many components above it are patterns too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from struct import pack

from msgspec import Struct

from sensor.bpf.maps import STEPS
from sensor.bpf.state import Step, Watch
from sensor.errors import HostError

STEPS_PER_CGROUP = 8


class Place(Struct, frozen=True):
    """A component of a pattern: `prefix*suffix`, or with `exact` the prefix alone."""

    prefix: bytes
    suffix: bytes
    exact: bool
    last: bool
    next: int
    class_id: int

    def matches(self, name: bytes) -> bool:
        if self.exact:
            return name == self.prefix
        long_enough = len(name) >= len(self.prefix) + len(self.suffix)
        return long_enough and name.startswith(self.prefix) and name.endswith(self.suffix)

    def pack(self) -> bytes:
        return Step(
            prefix=self.prefix.ljust(64, b"\0"),
            prefix_mask=(b"\xff" * len(self.prefix)).ljust(64, b"\0"),
            suffix=self.suffix.ljust(32, b"\0"),
            suffix_mask=(b"\xff" * len(self.suffix)).ljust(32, b"\0"),
            prefix_length=len(self.prefix),
            suffix_length=len(self.suffix),
            exact=self.exact,
            last=self.last,
            next=self.next,
            class_id=self.class_id,
        ).pack()


class Plan(Struct, frozen=True):
    """`first`: the steps to try on children of the root. `watch`: cgroup id → steps, for what exists."""

    places: tuple[Place, ...]
    first: tuple[int, ...]


def compile_patterns(patterns: Sequence[tuple[str, int]]) -> Plan:
    """(path below the mount, class id) each. Raises HostError beyond what the maps hold."""
    places: list[Place] = []
    first: list[int] = []
    for path, class_id in patterns:
        components = [part for part in path.split("/") if part]
        first.append(len(places))
        for number, component in enumerate(components):
            prefix, star, suffix = component.partition("*")
            last = number == len(components) - 1
            places.append(Place(os.fsencode(prefix), os.fsencode(suffix), not star, last, len(places) + 1, class_id))
    if len(places) > STEPS:
        raise HostError(f"sandboxes: the patterns have {len(places)} components, {STEPS} are possible")
    if len(first) > STEPS_PER_CGROUP:
        raise HostError(f"sandboxes: {len(first)} patterns with that of the instance, {STEPS_PER_CGROUP} are possible")
    return Plan(tuple(places), tuple(first))


def literal_folders(patterns: Sequence[tuple[str, int]]) -> list[str]:
    """The paths, below the mount, that hold the programs: what stands before a pattern's first `*`, but
    never the sandbox itself."""
    folders = []
    for path, _ in patterns:
        literal = []
        components = [part for part in path.split("/") if part]
        for component in components[:-1]:
            if "*" in component:
                break
            literal.append(component)
        folder = "/".join(literal)
        if folder not in folders:
            folders.append(folder)
    return folders


class Found(Struct, frozen=True):
    """What the tree holds now. `watch`: (cgroup id, steps). `sandboxes`: (cgroup id, class id)."""

    watch: list[tuple[int, tuple[int, ...]]]
    sandboxes: list[tuple[int, int]]


def find(plan: Plan, folder: str, steps: tuple[int, ...]) -> Found:
    """Walks down from a folder to whose children `steps` apply. What vanishes meanwhile is passed over."""
    found = Found([], [])
    _find(plan, folder, steps, found)
    return found


def _find(plan: Plan, folder: str, steps: tuple[int, ...], found: Found) -> None:
    try:
        found.watch.append((os.stat(folder).st_ino, steps))
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in names:
        matching = [plan.places[step] for step in steps if plan.places[step].matches(os.fsencode(name))]
        whole = next((place for place in matching if place.last), None)
        if whole is not None:
            try:
                found.sandboxes.append((os.stat(f"{folder}/{name}").st_ino, whole.class_id))
            except OSError:
                continue
        elif matching:
            _find(plan, f"{folder}/{name}", tuple(place.next for place in matching), found)


def steps_at(plan: Plan, path: str) -> tuple[int, ...]:
    """Which steps apply to the children of the cgroup at `path` below the mount."""
    steps = plan.first
    for name in path.split("/"):
        matching = (plan.places[step] for step in steps)
        steps = tuple(place.next for place in matching if not place.last and place.matches(os.fsencode(name)))
    return steps


def pack_watch(steps: tuple[int, ...]) -> bytes:
    chosen = steps[:STEPS_PER_CGROUP]
    return Watch(steps=pack(f"<{len(chosen)}I", *chosen).ljust(32, b"\0"), count=len(chosen)).pack()
