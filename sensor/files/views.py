"""Which paths the marks stand for, as each sandbox sees them."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from sensor.files.marker import Answer

VIEWS_MAX = 64  # roots of one sandbox
UP_MAX = 4
View = tuple[int, int, int]  # mount namespace, device and inode of its root


class At(Struct, frozen=True, gc=False):
    """Of one mark: its path in a view's root, and whether the host or others have that file too."""

    path: bytes
    host: bool


class Views:
    """Marks by key (sensor/files/fanotify.py). `len` counts them as the kernel does, once each."""

    def __init__(self) -> None:
        self._marks: dict[bytes, dict[tuple[View, bytes], At]] = {}
        self._of_view: dict[View, set[bytes]] = {}
        self._awaited: dict[View, set[bytes]] = {}
        self._of_sandbox: dict[int, dict[View, None]] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def learn(self, sandbox_id: int, answer: Answer) -> None:
        views = self._of_sandbox.setdefault(sandbox_id, {})
        views.pop(answer.view, None)
        views[answer.view] = None  # the latest last
        awaited = self._awaited.setdefault(answer.view, set())
        awaited.update(path.encode("latin-1").lower() for path in answer.awaited)
        while len(views) > VIEWS_MAX:
            del views[next(iter(views))]
        keys = self._of_view.setdefault(answer.view, set())
        for key_hex, path, folder, host in answer.marks:
            key = bytes.fromhex(key_hex)
            keys.add(key)
            if folder:  # which may be replaced, or any of those above it
                awaited.update(_up(path.encode("latin-1").lower()))
            self._marks.setdefault(key, {})[answer.view, path.encode("latin-1")] = At(path.encode("latin-1"), host)

    def find(self, sandbox_id: int, key: bytes) -> list[At]:
        """As this sandbox sees it, by each way it was looked at, which bind mounts and roots below its root make many;
        else as anybody does: it may be a process that was not looked at yet."""
        found = self._marks.get(key)
        if not found:
            return []
        views = self._of_sandbox.get(sandbox_id, {})
        return [at for (view, _), at in found.items() if view in views] or [next(iter(found.values()))]

    def awaits(self, sandbox_id: int, path: bytes) -> bool:
        """Whether something watched may be in or below it, once it is there."""
        path = path.lower()
        return any(path in self._awaited.get(view, ()) for view in self._of_sandbox.get(sandbox_id, ()))

    def forget(self, sandbox_id: int) -> None:
        gone = self._of_sandbox.pop(sandbox_id, {})
        still = {view for views in self._of_sandbox.values() for view in views}
        for view in gone.keys() - still:
            self._awaited.pop(view, None)
            for key in self._of_view.pop(view, ()):
                marks = self._marks[key]
                for at in [each for each in marks if each[0] == view]:
                    del marks[at]
                if not marks:
                    del self._marks[key]

    def clear(self) -> None:
        self._marks.clear()
        self._awaited.clear()
        self._of_view.clear()
        self._of_sandbox.clear()


def _up(path: bytes) -> Iterator[bytes]:
    """As far as what is watched is below a home. All of it would be 4 MB of a path of 4096 bytes, which a sandbox
    chooses."""
    for _ in range(UP_MAX):
        if len(path) > 1:
            yield path
            path = path[: path.rindex(b"/")]
