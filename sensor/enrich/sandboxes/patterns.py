"""Configured cgroup paths: which cgroup is a sandbox, and of which class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from msgspec import Struct

from sensor.config import SandboxPattern


class Step(Struct, frozen=True, gc=False):
    """One component: `prefix*suffix`, or the prefix alone."""

    prefix: str
    suffix: str
    exact: bool

    def matches(self, name: str) -> bool:
        if self.exact:
            return name == self.prefix
        # As the kernel's matcher has it: `*` may be empty, but the name may not.
        long_enough = bool(name) and len(name) >= len(self.prefix) + len(self.suffix)
        return long_enough and name.startswith(self.prefix) and name.endswith(self.suffix)


class Pattern(Struct, frozen=True, gc=False):
    steps: tuple[Step, ...]
    class_: str

    def matches(self, components: Sequence[str]) -> bool:
        return len(components) == len(self.steps) and all(
            step.matches(name) for step, name in zip(self.steps, components, strict=True)
        )


def compile_pattern(pattern: SandboxPattern) -> Pattern:
    steps = []
    for component in split(pattern.path):
        prefix, star, suffix = component.partition("*")
        steps.append(Step(prefix, suffix, not star))
    return Pattern(tuple(steps), pattern.class_)


def split(path: str) -> tuple[str, ...]:
    return tuple(component for component in path.split("/") if component)


def outermost(patterns: Sequence[Pattern], path: str) -> tuple[str, str] | None:
    """(path, class) of the sandbox that a cgroup is or lies in: of nested matches, the topmost."""
    components = split(path)
    for depth in range(1, len(components) + 1):
        for pattern in patterns:
            if pattern.matches(components[:depth]):
                return "/".join(components[:depth]), pattern.class_
    return None


def expand(mount: str, pattern: Pattern) -> Iterator[str]:
    """Paths below the mount that exist and match. A folder that vanishes on the way is passed over."""
    yield from _expand(mount, "", pattern.steps)


def _expand(mount: str, at: str, steps: tuple[Step, ...]) -> Iterator[str]:
    if not steps:
        yield at.removeprefix("/")
        return
    step, rest = steps[0], steps[1:]
    if step.exact:
        if os.path.isdir(f"{mount}{at}/{step.prefix}"):
            yield from _expand(mount, f"{at}/{step.prefix}", rest)
        return
    try:
        with os.scandir(mount + at) as entries:
            names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and step.matches(e.name))
    except OSError:
        return
    for name in names:
        yield from _expand(mount, f"{at}/{name}", rest)
