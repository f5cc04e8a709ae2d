"""Attributes that launchers registered for sandboxes, kept over restarts of the sensor: a class that hangs on them must
not change because it was updated. One small file a sandbox, so that a launcher of thousands costs one write each.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Mapping

import msgspec

from sensor.enrich.text import NAME_MAX
from sensor.errors import UsageError

ATTRIBUTES_MAX = 32
_FILE_BYTES = 2 * 6 * 4 * ATTRIBUTES_MAX * NAME_MAX  # keys and values, as JSON may escape them
_FILES_MAX = 65536
_NAME = re.compile(r"([0-9a-f]{8})-([0-9]{1,20})\.json")


def checked(attributes: Mapping[str, str]) -> dict[str, str]:
    """:raises UsageError: too many, too long, or unprintable."""
    if len(attributes) > ATTRIBUTES_MAX:
        raise UsageError(f"at most {ATTRIBUTES_MAX} attributes, not {len(attributes)}")
    for key, value in attributes.items():
        for text in (key, value):
            if not isinstance(text, str) or len(text) > NAME_MAX or not text.isprintable():
                raise UsageError(f"keys and values of attributes are at most {NAME_MAX} printable characters")
        if not key:
            raise UsageError("an attribute has no name")
    return dict(attributes)


class AttributeStore:
    """`state`: the folder paths.state. Cgroup ids are used once a boot, so what another boot left is removed."""

    def __init__(self, state: str, boot: str | None = None) -> None:
        self._folder = os.path.join(state, "attributes")
        self._boot = (_boot_id() if boot is None else boot)[:8]
        self._known: set[int] = set()
        try:
            names = os.listdir(self._folder)[:_FILES_MAX]
        except OSError:
            names = []
        for name in names:
            match = _NAME.fullmatch(name)
            if match is not None and match[1] == self._boot:
                self._known.add(int(match[2]))
            elif match is not None:
                self._unlink(name)

    def get(self, sandbox_id: int) -> dict[str, str]:
        """What was kept; nothing where there is nothing, or what is there is damaged."""
        if sandbox_id not in self._known:
            return {}
        try:
            fd = os.open(self._path(sandbox_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                content = file.read(_FILE_BYTES + 1)
            return checked(msgspec.json.decode(content, type=dict[str, str]))
        except (OSError, ValueError, msgspec.MsgspecError, UsageError):
            return {}

    def put(self, sandbox_id: int, attributes: Mapping[str, str]) -> None:
        """:raises OSError: they cannot be kept."""
        if os.path.islink(self._folder):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._folder)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = self._path(sandbox_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path + ".new", flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(dict(attributes)))
        os.replace(path + ".new", path)
        self._known.add(sandbox_id)

    def drop(self, sandbox_id: int) -> None:
        if sandbox_id in self._known:
            self._known.discard(sandbox_id)
            self._unlink(os.path.basename(self._path(sandbox_id)))

    def prune(self, alive: Container[int]) -> None:
        """Of sandboxes that ended while nobody looked."""
        for sandbox_id in [each for each in self._known if each not in alive]:
            self.drop(sandbox_id)

    def _path(self, sandbox_id: int) -> str:
        return os.path.join(self._folder, f"{self._boot}-{sandbox_id}.json")

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(os.path.join(self._folder, name))
        except OSError:
            return  # it is never read again: the next boot's start tries once more


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(36)
    except OSError:
        return "00000000"
