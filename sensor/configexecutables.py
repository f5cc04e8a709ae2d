"""Which programs a class's sandboxes may not run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from sensor.configfile import KeyPath, Problem, found

MOST_PATHS = 64
MOST_HASHES = 256
MOST_PATH_BYTES = 119  # what the probes compare of a path, less a NUL
_HASH = re.compile(r"[0-9a-f]{64}")


class DeniedExecutables(Struct, frozen=True, forbid_unknown_fields=True):
    """`paths`: absolute ones, or bare names, which are that name in any folder. Symbolic links are followed before the
    kernel compares: /bin/sh is denied by the file that it leads to."""

    paths: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    memfd: bool = False
    deleted: bool = False
    written_inside: bool = False


def executable_problems(at: KeyPath, denied: DeniedExecutables) -> Iterator[Problem]:
    for name, most in (("paths", MOST_PATHS), ("sha256", MOST_HASHES)):
        values: tuple[str, ...] = getattr(denied, name)
        if len(values) > most:
            yield Problem((*at, name), f"at most {most} entries", found(len(values)))
            continue
        for index, value in enumerate(values):
            where = (*at, name, index)
            expected = _path_problem(value) if name == "paths" else _hash_problem(value)
            if expected is not None:
                yield Problem(where, expected, found(value))
            elif value in values[:index]:
                yield Problem(where, "each entry once", f"{found(value)} again")


def path_problem(path: str) -> str | None:
    """What an absolute path of an executable must be instead, or None."""
    if not path.startswith("/") or path == "/":
        return "an absolute path"
    if any(part in ("", ".", "..") for part in path[1:].split("/")):
        return "a path without //, . and .., and no / at its end"
    if not path.isprintable():
        return "printable characters"
    if len(path.encode("utf-8", "replace")) > MOST_PATH_BYTES:
        return f"at most {MOST_PATH_BYTES} bytes"
    return None


def _path_problem(path: str) -> str | None:
    if "/" in path:
        return path_problem(path)
    if path in ("", ".", ".."):
        return "an absolute path, or a name without /"
    return path_problem("/" + path)


def _hash_problem(value: str) -> str | None:
    return None if _HASH.fullmatch(value) else "64 hexadecimal digits in lower case"
