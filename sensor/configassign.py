"""Classes by what is known of a sandbox beyond its path: labels of its runtime, attributes from a launcher."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct, field

from sensor.configfile import KeyPath, Problem, found, near

RUNTIMES = ("docker", "containerd", "crio", "podman", "kubernetes", "systemd", "pinfold", "none")
MOST_RULES = 256
MOST_KEYS = 16  # in labels or attributes of one rule
MOST_CHARACTERS = 253
CLASS_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Assignment(Struct, frozen=True, forbid_unknown_fields=True):
    """What is given must hold, all of it. In values and path, * stands for any characters (/ too) and ? for one."""

    class_: str = field(name="class")
    labels: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    runtime: str = ""
    path: str = ""


def class_problem(name: str, classes: Collection[str]) -> tuple[str, str] | None:
    """Expected and found, where there is no such class. `default` always is."""
    names = sorted({"default", *classes})
    if name in names:
        return None
    return f"one of the classes {', '.join(names)}", found(name) + near(name, names)


def assign_problems(at: KeyPath, rules: tuple[Assignment, ...], classes: Collection[str]) -> Iterator[Problem]:
    if len(rules) > MOST_RULES:
        yield Problem(at, f"at most {MOST_RULES} entries", found(len(rules)))
        return
    for index, rule in enumerate(rules):
        here = (*at, index)
        if (unknown := class_problem(rule.class_, classes)) is not None:
            yield Problem((*here, "class"), *unknown)
        if not (rule.labels or rule.attributes or rule.runtime or rule.path):
            yield Problem(here, "labels, attributes, runtime or path beside the class", "none of them")
        if rule.runtime and rule.runtime not in RUNTIMES:
            said = found(rule.runtime) + near(rule.runtime, RUNTIMES)
            yield Problem((*here, "runtime"), f"one of {', '.join(RUNTIMES)}", said)
        yield from _glob((*here, "path"), rule.path)
        for name, wanted in (("labels", rule.labels), ("attributes", rule.attributes)):
            yield from _wanted((*here, name), wanted)
        if any(_same(earlier, rule) for earlier in rules[:index]):
            yield Problem(here, "an entry that no earlier one fits as well", "the same conditions again")


def _same(one: Assignment, other: Assignment) -> bool:
    return (one.labels, one.attributes, one.runtime, one.path) == (
        other.labels, other.attributes, other.runtime, other.path,
    )  # fmt: skip


def _wanted(at: KeyPath, wanted: Mapping[str, str]) -> Iterator[Problem]:
    if len(wanted) > MOST_KEYS:
        yield Problem(at, f"at most {MOST_KEYS} keys", found(len(wanted)))
        return
    for key, value in wanted.items():
        if not 1 <= len(key) <= MOST_CHARACTERS or not key.isprintable():
            yield Problem((*at, key), f"a key of 1 to {MOST_CHARACTERS} printable characters", found(key))
        yield from _glob((*at, key), value)


def _glob(at: KeyPath, text: str) -> Iterator[Problem]:
    if len(text) > MOST_CHARACTERS or not text.isprintable():
        yield Problem(at, f"at most {MOST_CHARACTERS} printable characters", found(text))
    elif "[" in text:
        yield Problem(at, "* and ? as the only wildcards", found(text))
