"""Settings of the control socket: who may do what there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from sensor.configfile import KeyPath, Problem, found

MOST_UIDS = 64
MOST_PARENTS = 64  # of one launcher
HIGHEST_UID = (1 << 32) - 2  # -1 is "no user" to the kernel
_GROUP = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")  # shadow's own rule, and upper case


class Launcher(Struct, frozen=True, forbid_unknown_fields=True):
    """Starts sandboxes, and may touch those below these cgroups: paths as in `sandboxes`."""

    uid: int
    parents: tuple[str, ...]


class Control(Struct, frozen=True, forbid_unknown_fields=True):
    """Everybody named here must be in `group` to reach the socket. Root may do everything."""

    uids: tuple[int, ...] = ()  # may change things
    group: str = ""  # of the socket and the runtime folder; its members may read
    launchers: tuple[Launcher, ...] = ()


def control_problems(control: Control) -> Iterator[Problem]:
    if control.group and not _GROUP.fullmatch(control.group):
        yield Problem(("control", "group"), "a group's name, or nothing", found(control.group))
    if len(control.uids) > MOST_UIDS:
        yield Problem(("control", "uids"), f"at most {MOST_UIDS}", found(len(control.uids)))
    for index, uid in enumerate(control.uids):
        yield from _uid_problems(("control", "uids", index), uid)
    if len(control.launchers) > MOST_UIDS:
        yield Problem(("control", "launchers"), f"at most {MOST_UIDS}", found(len(control.launchers)))
    for index, launcher in enumerate(control.launchers):
        at: KeyPath = ("control", "launchers", index)
        yield from _uid_problems((*at, "uid"), launcher.uid)
        if launcher.uid in control.uids or any(one.uid == launcher.uid for one in control.launchers[:index]):
            yield Problem((*at, "uid"), "each uid once, here or in control.uids", found(launcher.uid))
        if not 1 <= len(launcher.parents) <= MOST_PARENTS:
            yield Problem((*at, "parents"), f"1 to {MOST_PARENTS} paths", found(len(launcher.parents)))
        for place, parent in enumerate(launcher.parents):
            if (expected := _parent_problem(parent)) is not None:
                yield Problem((*at, "parents", place), expected, found(parent))


def below(parents: tuple[str, ...], path: str) -> bool:
    """Whether a cgroup lies below one of these; the parent itself does not. Both relative to the mount."""
    parts = path.strip("/").split("/")
    return any(_leads(parent.split("/"), parts) for parent in parents)


def _leads(pattern: list[str], parts: list[str]) -> bool:
    return len(parts) > len(pattern) and all(map(_matches, pattern, parts))


def _matches(pattern: str, name: str) -> bool:
    prefix, star, suffix = pattern.partition("*")
    if not star:
        return pattern == name
    return len(name) >= len(prefix) + len(suffix) and name.startswith(prefix) and name.endswith(suffix)


def _uid_problems(at: KeyPath, uid: int) -> Iterator[Problem]:
    if not 1 <= uid <= HIGHEST_UID:
        yield Problem(at, f"1 to {HIGHEST_UID} (root needs no mention)", found(uid))


def _parent_problem(parent: str) -> str | None:
    if not parent or parent.startswith("/"):
        return "a path relative to the cgroup2 mount, without a leading /"
    for name in parent.split("/"):
        if name in ("", ".", ".."):
            return "no empty component, no . and no .."
        if not name.isprintable() or any(character in name for character in "?[]{}") or name.count("*") > 1:
            return "names in which * is the only wildcard, one at most in a component"
    return None
