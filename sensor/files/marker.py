"""The child that makes marks, from the core's side: asked, waited for, and killed when a sandbox stalls it.

One for all sandboxes, like the one that reads hosts files (sensor/enrich/hostsfile.py), and for its reasons: a file
system of a sandbox may block whoever looks into it, for good. Nobody waits: `ask` queues, `poll` takes what has come.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections import Counter, deque
from pathlib import Path

import msgspec
from msgspec import Struct

from sensor.enrich.processes import Process
from sensor.enrich.procfs import start_ticks
from sensor.files.child import HEAD

QUEUED_MAX = 1024
ASKED_MAX = 4
ANSWER_MAX = 4 * 1024 * 1024
STUCK_MAX = 4
CHILD = str(Path(__file__).with_name("child.py"))

Mark = tuple[str, str, bool, bool]  # key in hexadecimal, path in latin-1, a directory, of the host


class Look(Struct, frozen=True, gc=False):
    """To be asked: at what a process of this sandbox sees. `since_ns`: UTC from which changes are told, or 0."""

    sandbox_id: int
    tgid: int
    start_ns: int
    whole: bool
    since_ns: int
    folder: str = ""  # a working directory, in latin-1; empty: the process's own
    cause: Process | None = None  # to whom changes are put down
    # Folders in latin-1 that are new, and whether they came with what is in them: that counts as changed, however old.
    appeared: tuple[tuple[str, bool], ...] = ()
    tries: int = 0  # by whose eyes else it was looked, who had ended


class Answer(Struct, frozen=True, gc=False):
    """`status`: done, cut (marks did not fit), partial (a file system takes none), gone, refused, or stalled; ready is
    the child's own."""

    status: str
    view: tuple[int, int, int] = (0, 0, 0)
    marks: tuple[Mark, ...] = ()
    awaited: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    why: str = ""


class _Child:
    def __init__(self, command: list[str], group: int, watched: bytes, now_ns: int) -> None:
        self.asked: deque[Look] = deque()
        self.ready = False
        self.moved_ns = now_ns  # when it last answered, or got something to do
        self._received = bytearray()
        requests, self._requests = os.pipe2(os.O_CLOEXEC)
        self._answers, answers = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._unwritten = watched
        try:
            os.set_blocking(answers, True)
            os.set_blocking(self._requests, False)
            self.pid = os.posix_spawn(
                command[0],
                command,
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, requests, 0),
                    (os.POSIX_SPAWN_DUP2, answers, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, group, 3),  # last: a pipe's end may have this number
                ],
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
        except OSError:
            self.close()
            raise
        finally:
            os.close(requests)
            os.close(answers)

    def ask(self, look: Look, now_ns: int) -> None:
        asked = [look.tgid, start_ticks(look.start_ns), look.whole, look.since_ns, look.folder, look.appeared]
        self._unwritten += msgspec.json.encode(asked) + b"\n"
        if not self.asked:
            self.moved_ns = now_ns
        self.asked.append(look)

    def forget(self) -> None:
        self._unwritten += b"null\n"

    def write(self) -> None:
        """OSError where the child has ended."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._requests, self._unwritten) :]
        except BlockingIOError:
            pass

    def receive(self) -> tuple[list[Answer], bool]:
        """Answers that are whole, and whether it lives."""
        alive = True
        try:
            while chunk := os.read(self._answers, 256 * 1024):
                self._received += chunk
            alive = False
        except BlockingIOError:
            pass
        answers: list[Answer] = []
        while len(self._received) >= HEAD.size:
            size = HEAD.unpack_from(self._received)[0]
            if size > ANSWER_MAX:
                return answers, False
            if HEAD.size + size > len(self._received):
                break
            try:
                answers.append(msgspec.json.decode(self._received[HEAD.size : HEAD.size + size], type=Answer))
            except msgspec.DecodeError:  # whoever made the child write so shall not make us fail
                return answers, False
            del self._received[: HEAD.size + size]
        return answers, alive

    def close(self) -> None:
        os.close(self._requests)
        os.close(self._answers)


class Marker:
    """`watched` is the child's first line; a change of it, as at a reload, needs `restart`."""

    def __init__(
        self, group: int, watched: bytes, patience_ms: int, command: list[str] | None = None, start_ms: int = 5000
    ) -> None:
        self._group = group
        self._watched = watched
        self._patience_ms, self._start_ms = patience_ms, start_ms
        self._command = command or [sys.executable, "-I", "-S", CHILD]
        self._queue: deque[Look] = deque()
        self._child: _Child | None = None
        self._leaving: list[int] = []
        self.counters: Counter[str] = Counter()

    @property
    def busy(self) -> bool:
        return bool(self._queue or (self._child is not None and self._child.asked))

    def ask(self, look: Look) -> bool:
        if len(self._queue) >= QUEUED_MAX:
            self.counters["not_queued"] += 1
            return False
        self._queue.append(look)
        return True

    def poll(self, now_ns: int) -> list[tuple[Look, Answer]]:
        """Often while `busy`; it never waits."""
        self._leaving = [pid for pid in self._leaving if not _reaped(pid)]
        answered: list[tuple[Look, Answer]] = []
        if self._child is not None:
            self._collect(self._child, answered, now_ns)
        if self._queue and self._child is None:
            self._start(now_ns, answered)
        child = self._child
        if child is not None:
            while child.ready and self._queue and len(child.asked) < ASKED_MAX:
                child.ask(self._queue.popleft(), now_ns)
            with contextlib.suppress(OSError):  # EPIPE: the next poll sees that it has ended
                child.write()
        return answered

    def forget(self) -> None:
        """All marks were taken away: what was seen is to be marked again."""
        if self._child is not None:
            self._child.forget()

    def restart(self, watched: bytes) -> None:
        self._watched = watched
        self.close()

    def close(self) -> None:
        if self._child is not None:
            self._kill(self._child)
        self._queue.clear()

    def _start(self, now_ns: int, answered: list[tuple[Look, Answer]]) -> None:
        try:
            if len(self._leaving) >= STUCK_MAX:
                raise OSError(errno.EAGAIN, "too many children are stuck")
            self._child = _Child(self._command, self._group, self._watched + b"\n", now_ns)
        except OSError as error:
            self.counters["no_child"] += len(self._queue)
            answered += [(look, Answer("stalled", why=error.strerror or "")) for look in self._queue]
            self._queue.clear()

    def _collect(self, child: _Child, answered: list[tuple[Look, Answer]], now_ns: int) -> None:
        answers, alive = child.receive()
        for answer in answers:
            child.moved_ns = now_ns
            if answer.status == "ready":
                child.ready = True
            elif child.asked:
                self.counters[answer.status] += 1
                answered.append((child.asked.popleft(), answer))
        patience_ms = self._patience_ms if child.ready else self._start_ms
        late = (bool(child.asked) or not child.ready) and now_ns - child.moved_ns > patience_ms * 1_000_000
        if not late and alive:
            return
        self._kill(child)
        if child.asked:  # whoever it was at stalls it, or made it end; the others are asked again
            first = child.asked.popleft()
            self._queue.extendleft(reversed(child.asked))
            self.counters["stalled"] += 1
            answered.append((first, Answer("stalled")))
        elif not child.ready:
            self.counters["no_child"] += len(self._queue)
            answered += [(look, Answer("stalled")) for look in self._queue]
            self._queue.clear()

    def _kill(self, child: _Child) -> None:
        os.kill(child.pid, signal.SIGKILL)  # its child still, until it is reaped: nobody else has this pid
        child.close()
        self._child = None
        if not _reaped(child.pid):
            self._leaving.append(child.pid)


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except OSError as error:
        return error.errno == errno.ECHILD
