"""The same done again and again is told once, and then counted."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sensor.events.activity import FileAccess, FileChange, FileDelete, FileEvent, FileRename

WINDOW_NS = 10_000_000_000
KEPT = 4096

AnyFile = FileEvent | FileAccess | FileRename | FileDelete | FileChange
Key = tuple[int, int, str, str, str]  # tgid, its start, category, path, old path


class _Seen(Struct, gc=False, eq=False):
    activity: AnyFile
    until_ns: int
    first_ns: int = 0
    last_ns: int = 0
    count: int = 0


class Repeats:
    """For one window after it was first told. Beyond KEPT the oldest are told at once."""

    def __init__(self) -> None:
        self._seen: dict[Key, _Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def again(self, key: Key, now_ns: int) -> bool:
        """Whether it was told already, and is counted."""
        seen = self._seen.get(key)
        if seen is None:
            return False
        seen.first_ns = seen.first_ns or now_ns
        seen.last_ns = now_ns
        seen.count += 1
        return True

    def told(self, key: Key, activity: AnyFile, now_ns: int) -> None:
        self._seen[key] = _Seen(activity, now_ns + WINDOW_NS)

    def due(self, now_ns: int) -> list[AnyFile]:
        """What was counted in windows that are over. They are in the order in which they began."""
        found = list[AnyFile]()
        while self._seen:
            key = next(iter(self._seen))
            seen = self._seen[key]
            if seen.until_ns > now_ns and len(self._seen) <= KEPT:
                break
            del self._seen[key]
            if seen.count:
                found.append(
                    replace(
                        seen.activity,
                        Count=seen.count,
                        FirstSeenNs=seen.first_ns,
                        LastSeenNs=seen.last_ns,
                        Repeat=True,
                    )
                )
        return found
