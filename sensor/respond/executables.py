"""Denied programs of each class as data, for whoever refuses them: the probes by path, others by what records tell."""

from __future__ import annotations

from msgspec import Struct

from sensor.config import Config
from sensor.respond.policy import class_index


class Executables(Struct, frozen=True):
    """Paths as the probes walk them, leaf first and each component ended by a NUL: `ls\\0bin\\0usr\\0`."""

    class_id: int  # the class map's key
    paths: tuple[bytes, ...]
    names: tuple[bytes, ...]  # leaves alone, `nc\\0`: in whatever folder
    sha256: frozenset[str]
    memfd: bool
    deleted: bool
    written_inside: bool
    shells_on_sockets: bool  # denied

    @property
    def any(self) -> bool:
        return bool(
            self.paths or self.names or self.sha256 or self.memfd or self.deleted or self.written_inside
        ) or self.shells_on_sockets  # fmt: skip


def leaf_first(path: str) -> bytes:
    return b"".join(part.encode("utf-8", "replace") + b"\0" for part in reversed(path.strip("/").split("/")))


def executables(config: Config) -> dict[str, Executables]:
    """By class; also of classes that deny nothing, so that what a reload took away goes."""
    found = {}
    for name, class_id in class_index(config).items():
        settings = config.classes.get(name)
        if settings is None:
            found[name] = Executables(class_id, (), (), frozenset(), False, False, False, False)
            continue
        denied = settings.denied_executables
        found[name] = Executables(
            class_id,
            tuple(leaf_first(path) for path in denied.paths if path.startswith("/")),
            tuple(leaf_first(path) for path in denied.paths if not path.startswith("/")),
            frozenset(denied.sha256),
            denied.memfd,
            denied.deleted,
            denied.written_inside,
            settings.shells_on_sockets == "deny",
        )
    return found
