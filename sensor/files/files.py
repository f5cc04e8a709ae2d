"""File events from end to end: whose root is looked at, what the kernel tells, and which activity that is."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable

from msgspec.structs import replace

from sensor.configfiles import Files as Settings
from sensor.enrich import procfs
from sensor.enrich.enricher import Enricher
from sensor.enrich.processes import Process
from sensor.errors import HostError
from sensor.events.activity import Activity, AnyActivity, ProcessCreation, SandboxChange
from sensor.files import fanotify
from sensor.files.marker import Answer, Look, Marker
from sensor.files.places import PLACES_MAX, Watched
from sensor.files.repeats import AnyFile
from sensor.files.telling import Telling
from sensor.files.views import Views
from sensor.files.whose import Batch
from sensor.metrics import Metrics
from sensor.rules.ruleset import Ruleset

READ_AT_ONCE = 16  # reads between two drains of the ring: some 200 events each
FOLDERS_MAX = 256  # working directories of one sandbox that are remembered; beyond them looks are rationed
FOLDER_EVERY_NS = 50_000_000
FIRST_AT_ONCE = 32  # each second, of sandboxes that were not looked at yet
AGAIN_AT_ONCE = 4  # of others, and of those in which something appeared: at some 10 ms each, 4 % of a core
SOONEST_NS = 200_000_000  # between two looks for what appeared in a sandbox
ANEW_NS = 60_000_000_000  # marks are not made anew more often: where they do not fit, they do not
UNSEEN_MAX = 3  # whole looks in turn that found nobody: by then it is a sandbox's doing
AGAIN_S = (1, 5, 30)  # whole looks after the first, then every `look_seconds`
CHANGED_LATE_NS = 10_000_000_000  # a look later than this says nothing of who changed a file
LATE_NS = 300_000_000  # from a deed to its event's reading, at most, as a rule
_NS = 1_000_000_000
TICK_NS = 10_000_000  # file times are those of the last tick, which a busy hypervisor delays


class _Sandbox:
    def __init__(self) -> None:
        self.asked: dict[tuple[int, str], None] = {}  # mount namespace and working directory, oldest first
        self.asked_ns = 0
        self.looks = 0
        self.next_ns = self.looked_ns = 0
        self.waits = False  # for a whole look
        self.since: tuple[Process, int] | None = None  # who made a folder that is to be looked into, and when
        self.shares = False  # our mount namespace, with one of its processes at least
        self.unseen = 0  # whole looks, one after another, for which nobody was there


class Files:
    """`collect` before the ring is drained, so that whoever did something is known by then; `take` after it. `told`
    writes a notice into the log."""

    def __init__(
        self,
        settings: Settings,
        enricher: Enricher,
        metrics: Metrics,
        told: Callable[..., None],
        rules: Ruleset,
    ) -> None:
        self._settings = settings
        self._enricher = enricher
        self._metrics = metrics
        self._notice = told
        self._watched = Watched(rules.places, settings.places, settings.marks_per_look)
        self._notice_gaps(rules)
        self._views = Views()
        self._telling = Telling(settings, enricher, self._watched, self._views)
        self._sandboxes: dict[int, _Sandbox] = {}
        self._waiting: deque[Batch] = deque()
        self._empty_ns = 0  # CLOCK_BOOTTIME: the kernel's queue had nothing then
        self._own_namespace = os.stat("/proc/self/ns/mnt").st_ino
        own = procfs.read_stat(os.getpid())
        self._own = (os.getpid(), own.start_ns if own is not None else 0)
        self.lost: dict[int, Counter[str]] = {}
        self._full = False
        self._anew_ns = 0
        self.group = -1
        self._marker: Marker | None = None
        if settings.enabled:
            try:
                self.group = fanotify.group()
            except HostError as error:
                told(f"no file events: {error}")
                return
            self._marker = Marker(self.group, self._watched.line, settings.patience_ms)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._telling.found or self._telling.look_again) or (
            self._marker is not None and self._marker.busy
        )

    @property
    def descriptors(self) -> tuple[int, ...]:
        """To be polled for input."""
        return (self.group,) if self.group >= 0 else ()

    def reload(self, settings: Settings, rules: Ruleset) -> None:
        """Whether it is on at all is decided at the start."""
        self._settings = settings
        watched = Watched(rules.places, settings.places, settings.marks_per_look)
        if watched.line != self._watched.line:
            self._watched = self._telling.watched = watched
            self._notice_gaps(rules)
            if self._marker is not None:
                self._marker.restart(watched.line)
                self._anew(time.monotonic_ns())
        self._telling.settings = settings

    def _notice_gaps(self, rules: Ruleset) -> None:
        if rules.beyond:
            many, first = len(rules.beyond), rules.beyond[0]
            self._notice(
                f"{many} rules about files may match where nothing is watched, as {first}: name a folder in each"
            )
        if self._watched.cut:
            self._notice(f"{self._watched.cut} places that rules name are not watched: {PLACES_MAX} fit")

    # From the kernel.

    def collect(self) -> None:
        if self.group < 0:
            return
        for _ in range(READ_AT_ONCE):
            if len(self._waiting) >= READ_AT_ONCE:
                break
            before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            events = fanotify.read(self.group)
            if not events:
                self._empty_ns = before_ns
                break
            self._waiting.append(Batch(events, self._empty_ns, time.clock_gettime_ns(time.CLOCK_BOOTTIME)))

    def take(self) -> list[AnyFile]:
        """What was done, by processes of sandboxes alone; with ids that are no ring's."""
        telling = self._telling
        telling.now_ns = time.monotonic_ns()
        while self._waiting:
            batch = self._waiting.popleft()
            for event in batch.events:
                if event.mask & fanotify.OVERFLOW:
                    self._overflow()
                    continue
                telling.event(event, batch)
        self._settle(telling.now_ns)
        found, telling.found = telling.found, []
        return found

    def _settle(self, now_ns: int) -> None:
        telling = self._telling
        for sandbox_id, process in telling.look_again.items():
            sandbox = self._sandboxes.setdefault(sandbox_id, _Sandbox())
            if process is not None:
                sandbox.since = sandbox.since or (process, _earliest(process))
            self._look_whole(sandbox_id, now_ns)
        telling.look_again.clear()
        for (sandbox_id, reason), count in telling.lost.items():
            self._lose(sandbox_id, reason, count)
        telling.lost.clear()
        if telling.outside:
            self._metrics.count("pinfold_file_events_outside_total", (), telling.outside)
            telling.outside = 0

    def _overflow(self) -> None:
        """Whose events they were nobody knows."""
        for sandbox_id in self._sandboxes:
            self._lose(sandbox_id, "overflow", 1)

    def _lose(self, sandbox_id: int, reason: str, count: int) -> None:
        self.lost.setdefault(sandbox_id, Counter())[f"files_{reason}"] += count
        self._metrics.count("pinfold_events_lost_total", ("files", reason), count)

    # Who is looked at.

    def observe(self, activity: AnyActivity | SandboxChange) -> None:
        if self._marker is None:
            return
        if type(activity) is ProcessCreation:
            self._executed(activity)
        elif type(activity) is SandboxChange and activity.change == "ended":
            self._ended(activity.SandboxId)

    def _executed(self, made: ProcessCreation) -> None:
        sandbox = self._sandboxes.get(made.SandboxId)
        if sandbox is None:
            sandbox = self._sandboxes[made.SandboxId] = _Sandbox()
        key = (made.MountNamespace, made.CurrentDirectory)
        if key in sandbox.asked:
            return
        if len(sandbox.asked) >= FOLDERS_MAX:
            # Who fills the memory first must not go unwatched afterwards, nor take the child from other sandboxes.
            if made.monotonic_ns - sandbox.asked_ns < FOLDER_EVERY_NS:
                self._metrics.count("pinfold_file_looks_total", ("passed_over",))
                self._lose(made.SandboxId, "unwatched", 1)
                return
            del sandbox.asked[next(iter(sandbox.asked))]
        sandbox.asked[key] = None
        sandbox.asked_ns = made.monotonic_ns
        process = self._enricher.processes.current.get(made.ProcessId)
        if process is None:
            return
        folder = _bytes_of(made, "CurrentDirectory").decode("latin-1")
        since = time.time_ns() - max(0, time.monotonic_ns() - made.monotonic_ns) - TICK_NS
        self._ask(Look(made.SandboxId, process.tgid, process.start_ns, False, since, folder, process))
        if made.MountNamespace == self._own_namespace:  # gone or not, what it saw is what we see
            sandbox.shares = True
            self._ask(Look(made.SandboxId, *self._own, False, since, folder, process))

    def _look_whole(self, sandbox_id: int, now_ns: int) -> None:
        sandbox = self._sandboxes.setdefault(sandbox_id, _Sandbox())
        if sandbox.waits:
            return
        if now_ns - sandbox.looked_ns < SOONEST_NS:
            sandbox.next_ns = now_ns
            return
        living = self._enricher.processes.in_sandbox(sandbox_id)
        if living:
            viewer = (living[-1].tgid, living[-1].start_ns)  # the newest knows its latest root
        elif sandbox.shares and sandbox.since is not None:
            viewer = self._own
        else:
            sandbox.next_ns = now_ns + _NS
            return
        sandbox.looked_ns = now_ns
        (cause, since_ns), sandbox.since = sandbox.since or (None, 0), None
        new = self._telling.appeared.pop(sandbox_id, {})
        appeared = tuple((path.decode("latin-1"), moved) for path, moved in new.items())
        sandbox.waits = self._ask(Look(sandbox_id, *viewer, True, since_ns, cause=cause, appeared=appeared, tries=1))
        again_s = AGAIN_S[sandbox.looks] if sandbox.looks < len(AGAIN_S) else self._settings.look_seconds
        sandbox.looks += 1
        sandbox.next_ns = now_ns + int(again_s * _NS)

    def _ask(self, look: Look) -> bool:
        assert self._marker is not None
        asked = not self._full and self._marker.ask(look)
        if not asked:
            self._lose(look.sandbox_id, "unwatched", 1)
        return asked

    def each_second(self, now_ns: int) -> None:
        if self._marker is None:
            return
        if self._full and now_ns - self._anew_ns > ANEW_NS:
            self._anew(now_ns)
        first: list[tuple[int, int]] = []
        again: list[tuple[int, int]] = []
        appeared: list[tuple[int, int]] = []
        for sandbox in self._enricher.sandboxes.live():
            known = self._sandboxes.get(sandbox.id) or _Sandbox()
            if known.next_ns <= now_ns:
                which = first if not known.looks else again if known.since is None else appeared
                which.append((known.next_ns, sandbox.id))
        # None of them may keep the others from it.
        turns = first[:FIRST_AT_ONCE] + sorted(appeared)[:AGAIN_AT_ONCE] + sorted(again)[:AGAIN_AT_ONCE]
        for _, sandbox_id in turns:
            self._look_whole(sandbox_id, now_ns)
        self._telling.now_ns = now_ns
        self._telling.repeats()
        self._metrics.gauge("pinfold_file_marks", (), len(self._views))

    def tick(self, now_ns: int) -> None:
        """Often while `busy`."""
        if self._marker is None:
            return
        self._telling.now_ns = now_ns
        for look, answer in self._marker.poll(now_ns):
            self._metrics.count("pinfold_file_looks_total", (answer.status,))
            self._answered(look, answer)

    def _answered(self, look: Look, answer: Answer) -> None:
        sandbox = self._sandboxes.get(look.sandbox_id)
        if sandbox is None:  # it ended meanwhile
            return
        if answer.status == "gone" and self._look_for(look):
            return
        if look.whole:
            sandbox.waits = False
            self._seen(sandbox, look, answer.status != "gone")
            if sandbox.since is not None:  # something appeared meanwhile, perhaps behind the child's back
                self._look_whole(look.sandbox_id, self._telling.now_ns)
        if answer.status in {"stalled", "refused"}:
            self._lose(look.sandbox_id, "unwatched", 1)
        if answer.status not in {"done", "cut", "partial"}:
            return
        if answer.status == "cut":
            self._lose(look.sandbox_id, "unwatched", 1)
        self._views.learn(look.sandbox_id, answer)
        if len(self._views) >= self._settings.marks and not self._full:
            self._full = True
            self._notice(f"{len(self._views)} files are marked, as many as files.marks: further ones are not watched")
        if answer.changed and look.cause is not None:
            if time.time_ns() - look.since_ns > CHANGED_LATE_NS:
                self._lose(look.sandbox_id, "unattributed", len(answer.changed))
            else:
                for path in answer.changed:
                    self._telling.changed(path.encode("latin-1"), look.cause, answer)
        self._telling.retry(look.sandbox_id, look.whole)

    def _look_for(self, gone: Look) -> bool:
        """By other eyes: whoever was to be looked at has ended, as `mkdir` does soon, or as a sandbox may see to. By
        its newest process, then by those further and further back, at last by our own where it shares our root."""
        living = self._enricher.processes.in_sandbox(gone.sandbox_id)
        if gone.tries:
            living = [process for process in living if process.start_ns < gone.start_ns]
        if living:
            process = living[-min(1 << gone.tries // 2, len(living))]
            viewer = (process.tgid, process.start_ns)
        elif gone.whole and self._sandboxes[gone.sandbox_id].shares:  # a folder was asked for so at the exec
            viewer = self._own
        else:
            return False
        return self._ask(replace(gone, tgid=viewer[0], start_ns=viewer[1], tries=gone.tries + 1))

    def _seen(self, sandbox: _Sandbox, look: Look, seen: bool) -> None:
        """Where nobody was there to see by, the next look is to find what this one was to find."""
        sandbox.unseen = 0 if seen else sandbox.unseen + 1
        if not seen and look.cause is not None:
            sandbox.since = (look.cause, look.since_ns)
            again = {path.encode("latin-1"): moved for path, moved in look.appeared}
            self._telling.appeared[look.sandbox_id] = again | self._telling.appeared.get(look.sandbox_id, {})
        if sandbox.unseen >= UNSEEN_MAX and self._enricher.processes.in_sandbox(look.sandbox_id):
            self._lose(look.sandbox_id, "unwatched", 1)

    def _ended(self, sandbox_id: int) -> None:
        """Marks go with their file systems; those of shared ones when no sandbox is left."""
        self._sandboxes.pop(sandbox_id, None)
        self.lost.pop(sandbox_id, None)
        self._views.forget(sandbox_id)
        self._telling.forget(sandbox_id)
        if not self._sandboxes and self.group >= 0:
            self._anew(time.monotonic_ns())

    def _anew(self, now_ns: int) -> None:
        """All marks away; whoever is there is looked at again."""
        self._full, self._anew_ns = False, now_ns
        fanotify.flush(self.group)
        if self._marker is not None:
            self._marker.forget()
        self._views.clear()
        for sandbox in self._sandboxes.values():
            sandbox.asked.clear()
            sandbox.looks = sandbox.next_ns = sandbox.looked_ns = 0
            sandbox.waits = False

    def close(self) -> None:
        if self._marker is not None:
            self._marker.close()
            os.close(self.group)
            self._marker, self.group = None, -1


def _earliest(process: Process) -> int:
    """UTC of what it may have done just now; nothing from before its birth."""
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - process.start_ns
    return time.time_ns() - min(LATE_NS, age_ns + TICK_NS)


def _bytes_of(activity: Activity, name: str) -> bytes:
    raw = activity.raw or {}
    return raw.get(name) or str(getattr(activity, name)).encode("utf-8", "replace")
