"""From what the kernel says of a mark to an activity: who, where, what, and how often."""

from __future__ import annotations

import time
from collections import Counter, deque

from msgspec.structs import replace

from sensor.configfiles import Files as Settings
from sensor.enrich.enricher import Enricher
from sensor.enrich.fields import common
from sensor.enrich.processes import Process
from sensor.enrich.text import Raw
from sensor.events.activity import FileAccess, FileChange, FileDelete, FileEvent, FileRename
from sensor.files.fanotify import (
    ACCESS,
    ATTRIB,
    CLOSE_NOWRITE,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    MODIFY,
    ONDIR,
    RENAME,
    Event,
    Name,
)
from sensor.files.marker import Answer
from sensor.files.places import Watched
from sensor.files.repeats import AnyFile, Repeats
from sensor.files.views import At, Views
from sensor.files.whose import Batch, whose
from sensor.rules.places import READ, WRITE

RETRIED_MAX = 256
APPEARED_MAX = 64  # in one sandbox between two looks
TRIES = 2  # one look may have been under way, and behind what it is asked for
PATH_MAX = 4096
BURST_S = 4  # of a sandbox's events
_READS = ACCESS | CLOSE_NOWRITE
_WRITES = CLOSE_WRITE | MODIFY
_ITSELF = (b"", b".")  # for a name


class Telling:
    """`look_again`: sandboxes in which something appeared that is to be marked, with who made it, or nobody knows what
    is marked already; `appeared`: what that was, and whether it came with what is in it. `lost` by
    sandbox and reason; `outside`: events of processes in no sandbox, which are dropped. `found` is what is to be told;
    `now_ns`, CLOCK_MONOTONIC, is to be set before anything else."""

    def __init__(self, settings: Settings, enricher: Enricher, watched: Watched, views: Views) -> None:
        self.settings = settings
        self.watched = watched
        self.look_again: dict[int, Process | None] = {}
        self.appeared: dict[int, dict[bytes, bool]] = {}
        self.lost: Counter[tuple[int, str]] = Counter()
        self.outside = 0
        self.found: list[AnyFile] = []
        self.now_ns = 0
        self._enricher = enricher
        self._views = views
        self._repeats = Repeats()
        self._budgets: dict[int, tuple[float, int]] = {}  # what is left, and when that was
        self._unknown: deque[tuple[Process, Event, int]] = deque()  # with the whole looks that it may wait for
        self._position = 0

    def event(self, event: Event, batch: Batch) -> None:
        process, doubted = whose(self._enricher.processes, event, batch)
        if process is None:
            self.outside += not doubted
            for sandbox_id in doubted:
                self.lost[sandbox_id, "unattributed"] += 1
            return
        if not self._tell(event, process):
            if len(self._unknown) >= RETRIED_MAX:
                self.lost[process.sandbox_id, "unresolved"] += 1
                return
            self._unknown.append((process, event, TRIES))
            self.look_again.setdefault(process.sandbox_id, None)

    def retry(self, sandbox_id: int, whole: bool) -> None:
        """Now that it was looked at: keys that were not known, as of a folder that was marked a moment ago, or that an
        overlay has copied up."""
        waiting, self._unknown = self._unknown, deque()
        for process, event, tries in waiting:
            if process.sandbox_id != sandbox_id:
                self._unknown.append((process, event, tries))
            elif self._tell(event, process):
                continue
            elif tries > whole:
                self._unknown.append((process, event, tries - whole))
                self.look_again.setdefault(sandbox_id, None)
            elif not _of_a_folder_itself(event):
                self.lost[sandbox_id, "unresolved"] += 1

    def changed(self, path: bytes, process: Process, answer: Answer) -> None:
        """Found when a place was first looked at, made or written since the process began."""
        shown = path.decode("latin-1")
        folder = shown.rpartition("/")[0] or "/"
        host = any(mark[3] for mark in answer.marks if mark[1] in (shown, folder))
        if self._wants(path) & WRITE:
            self._add(FileEvent, "written", At(path, host), b"", False, process, "proc")

    def repeats(self) -> None:
        """What was counted, with ids of their own."""
        self.found += [self._placed(activity) for activity in self._repeats.due(self.now_ns)]

    def forget(self, sandbox_id: int) -> None:
        self._unknown = deque(one for one in self._unknown if one[0].sandbox_id != sandbox_id)
        self._budgets.pop(sandbox_id, None)
        self.appeared.pop(sandbox_id, None)

    # One event.

    def _tell(self, event: Event, process: Process) -> bool:
        """False where nobody knows which place it is about."""
        sandbox_id, mask = process.sandbox_id, event.mask
        folder = bool(mask & ONDIR)
        if mask & RENAME:
            new, old = self._at(sandbox_id, event.new), self._at(sandbox_id, event.old)
            if new is None and old is None:
                return False
            self._renamed(new, old, folder, process)
        if not mask & ~(RENAME | ONDIR):
            return True
        # A file that is marked itself is known by that, whatever name was used; but its own names come first.
        at = self._at(sandbox_id, event.at)
        if at is None or not self._wants(at.path):
            at = self._best(sandbox_id, self._views.find(sandbox_id, event.key)) or at
        if at is None:
            return False
        bits = self._wants(at.path)
        if mask & CREATE:
            self._appeared(at, process, bits, folder)
        if bits & WRITE:
            if mask & (CREATE | _WRITES) and not (folder and not mask & CREATE):
                action = "created" if mask & CREATE else "written"
                self._add(FileEvent, action, at, b"", folder, process)
            if mask & ATTRIB and not mask & (CREATE | DELETE):
                self._add(FileChange, "attributes", at, b"", folder, process)
            if mask & DELETE:
                self._add(FileDelete, "deleted", at, b"", folder, process)
        if bits & READ and mask & _READS and not folder:
            self._add(FileAccess, "read", at, b"", False, process)
        return True

    def _renamed(self, new: At | None, old: At | None, folder: bool, process: Process) -> None:
        """What is moved into place is there as if it was written there."""
        source = old.path if old is not None else b""
        if new is not None:
            bits = self._wants(new.path)
            self._appeared(new, process, bits, empty=False)
            if bits & WRITE:
                self._add(FileRename, "renamed", new, source, folder, process)
                self._add(FileEvent, "created", new, source, folder, process)
                return
        if old is not None and self._wants(old.path) & WRITE:
            target = At(new.path if new is not None else b"", old.host)
            self._add(FileRename, "renamed", target, source, folder, process)

    def _appeared(self, at: At, process: Process, bits: int, empty: bool) -> None:
        """A new file has no mark of its own, and a new folder hides what is made in it; one that is moved or linked
        into place has that already."""
        sandbox_id = process.sandbox_id
        awaited = self._views.awaits(sandbox_id, at.path)
        if not bits and not awaited:
            return
        self.look_again[sandbox_id] = self.look_again.get(sandbox_id) or process
        appeared = self.appeared.setdefault(sandbox_id, {})
        if awaited and len(appeared) < APPEARED_MAX:
            appeared[at.path] = appeared.get(at.path, False) or not empty
        elif awaited and at.path not in appeared:  # what it has is found by its time alone
            self.lost[sandbox_id, "unwatched"] += 1

    def _at(self, sandbox_id: int, name: Name | None) -> At | None:
        if name is None:
            return None
        folders = self._views.find(sandbox_id, name[0])
        if name[1] in _ITSELF:
            return self._best(sandbox_id, folders)
        paths = (folder.path.rstrip(b"/") + b"/" + name[1] for folder in folders)
        return self._best(sandbox_id, [At(path, folder.host) for path, folder in zip(paths, folders, strict=True)])

    def _best(self, sandbox_id: int, places: list[At]) -> At | None:
        """What matters by one of its paths is told by that: whoever mounts a folder elsewhere too hides nothing."""
        if len(places) < 2:
            return places[0] if places else None
        wanted = next((at for at in places if self._wants(at.path)), None)
        return wanted or next((at for at in places if self._views.awaits(sandbox_id, at.path)), places[0])

    def _wants(self, path: bytes) -> int:
        return self.watched.wants(path.decode("utf-8", "replace"))

    def _add(  # noqa: PLR0917 - what an event says
        self,
        kind: type[AnyFile],
        action: str,
        at: At,
        source: bytes,
        folder: bool,
        process: Process,
        mechanism: str = "fanotify",
    ) -> None:
        raw: Raw = None
        target, raw = _text(at.path, "TargetFilename", raw)
        old, raw = _text(source, "SourceFilename", raw)
        key = (process.tgid, process.start_ns, kind.category, target, old)
        if self._repeats.again(key, self.now_ns):
            return
        if not self._affords(process.sandbox_id):
            self.lost[process.sandbox_id, "budget"] += 1
            return
        sandbox, now_ns = self._enricher.sandboxes.get(process.sandbox_id), self.now_ns
        where = (
            0, self._next(), self._enricher.utc(now_ns), now_ns, sandbox.id, sandbox.name, sandbox.class_,
            process.cgroup_id, process.tgid,
        )  # fmt: skip
        activity = kind(
            *common(where, process, process.user, added=raw),
            action, target, old, folder, "host" if at.host else "sandbox", mechanism, 1, now_ns, now_ns, False,
        )  # fmt: skip
        self._repeats.told(key, activity, now_ns)
        self.found.append(activity)

    def _placed(self, activity: AnyFile) -> AnyFile:
        now_ns = self.now_ns
        return replace(activity, position=self._next(), monotonic_ns=now_ns, time_ns=self._enricher.utc(now_ns))

    def _next(self) -> int:
        """Generation 0 is no ring's, and its positions count on by time."""
        self._position = max(time.time_ns(), self._position + 1)
        return self._position

    def _affords(self, sandbox_id: int) -> bool:
        rate, now_ns = self.settings.events_a_second, self.now_ns
        left, at_ns = self._budgets.get(sandbox_id, (rate * BURST_S, now_ns))
        left = min(rate * BURST_S, left + rate * (now_ns - at_ns) / 1e9)
        self._budgets[sandbox_id] = (left - 1 if left >= 1 else left, now_ns)
        return left >= 1


def _of_a_folder_itself(event: Event) -> bool:
    """The folder's parent is marked, but it is not: the kernel tells of such a one by its own key, and it is none that
    is watched."""
    return bool(event.mask & ONDIR) and event.at is not None and event.at[1] in _ITSELF


def _text(path: bytes, field: str, raw: Raw) -> tuple[str, Raw]:
    path = path[:PATH_MAX]
    try:
        return path.decode(), raw
    except UnicodeDecodeError:
        return path.decode("utf-8", "replace"), {**(raw or {}), field: path}
