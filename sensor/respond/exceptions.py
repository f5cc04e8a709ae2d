"""What a policy excepts: a program, by the inode that its path has on the host, about a destination.

The inode is bound when the policy is loaded. A file that is put in its place later is another program, and is not
excepted before the next reload. Where st_dev is not the superblock's (overlayfs with layers on several file systems,
btrfs subvolumes), it never matches, which is the safe side.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from sensor.confignetwork import ADDRESS_BITS, Prefix, packed_address, truncated
from sensor.configrespond import ResponseException, parse_destination
from sensor.events.activity import Activity

FileId = tuple[int, int]  # device as the kernel has it (major << 20 | minor), inode


def file_id(path: str) -> FileId | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return os.major(status.st_dev) << 20 | os.minor(status.st_dev), status.st_ino


class Exceptions:
    """Of one class."""

    def __init__(self, exceptions: Sequence[ResponseException], bind: Callable[[str], FileId | None]) -> None:
        self.unbound: list[str] = []
        self._bound: dict[FileId, list[tuple[Prefix, int, str]]] = {}
        for exception in exceptions:
            destination = parse_destination(exception.destination)
            file = bind(exception.executable)
            if file is None or destination is None:
                self.unbound.append(exception.executable)
                continue
            name = f"{exception.executable} to {exception.destination}: {exception.reason}"
            self._bound.setdefault(file, []).append((*destination, name))

    def find(self, activity: Activity, image: FileId | None) -> str:
        """Its name; "" where none fits."""
        listed = self._bound.get(image) if image is not None else None
        address = packed_address(getattr(activity, "DestinationIp", "")) if listed else None
        if listed is None or address is None:
            return ""
        port = getattr(activity, "DestinationPort", 0)
        for prefix, wanted, name in listed:
            if wanted in (0, port) and _within(address, prefix):
                return name
        return ""


def _within(address: int, prefix: Prefix) -> bool:
    same_family = Prefix(address, ADDRESS_BITS).four == prefix.four
    return same_family and truncated(address, prefix.bits) == prefix.value
