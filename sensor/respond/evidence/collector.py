"""Evidence of quarantined sandboxes, collected by a child each: the core's side, which never waits.

Reading a process's memory or files can be made to hang by the process, sometimes so that no signal ends it. The child
keeps hanging reads apart and ends by itself; one that does not is killed when its time is over, another child makes
an archive of what it left, and what cannot be killed is left and reported.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
from collections import deque

import msgspec
from msgspec import Struct

from sensor import __version__
from sensor.respond.evidence.bounded import LIMITS

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py")
MOST_AT_WORK = 4  # on one disk and few cores
MOST_WAITING = 256
MOST_LEFT = 32  # children that cannot be killed: beyond these no evidence is collected
MOST_PROCESSES = 4096  # of those outside the cgroup
WAIT_NS = 60_000_000_000  # for a place
FINISH_NS = 5_000_000_000
_TAIL_BYTES = 4096
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Wanted(Struct, frozen=True):
    """`processes`: (tgid, start ticks) of those that left its cgroup. `facts`: JSON, kept as it is."""

    quarantine_id: str
    sandbox_id: int
    path: str  # of the cgroup, below the mount: "/a/b"
    processes: tuple[tuple[int, int], ...] = ()
    facts: bytes = b"{}"


class Collected(Struct, frozen=True):
    quarantine_id: str
    archive: str  # its path; "" if there is none
    ok: bool  # nothing is missing but what the limits cut
    detail: str  # one line: what is in it, what is missing; without a byte of the sandbox
    bytes: int


class _End(Struct, frozen=True):
    """The last line of a child."""

    archive: str = ""
    bytes: int = 0
    ok: bool = False
    detail: str = ""
    failed: str = ""


_end = msgspec.json.Decoder(_End)


class _Child:
    """At first it collects; if it is killed, or fails, a second one finishes what it left."""

    def __init__(self, wanted: Wanted, command: tuple[str, ...], question: bytes, progress: int, until_ns: int) -> None:
        self.wanted = wanted
        self.progress = progress
        self.until_ns = until_ns
        self.finishing = False
        self.hung = 0  # the first one's pid, where it was killed
        self.temporary = ""
        self.answer = os.memfd_create("pinfold-evidence", os.MFD_CLOEXEC)
        try:
            self.pid = _spawn(command, question, self.answer, progress)
        except OSError:
            os.close(self.answer)
            raise

    def end(self) -> _End | None:
        """What it said last, if that was its end: it may hang after that."""
        size = os.fstat(self.answer).st_size
        tail = os.pread(self.answer, _TAIL_BYTES, max(size - _TAIL_BYTES, 0))
        lines = tail.split(b"\n")
        if len(lines) < 2:
            return None
        try:
            found = _end.decode(lines[-2])
        except msgspec.MsgspecError:  # the beginning of a long line is missing
            return None
        return found if found.archive or found.failed else None


class Collector:
    """`start`, then `poll` now and then. For one thread. `mount`: of cgroup2. `seconds`: of one collection; its end
    may take FINISH_NS more. `total_bytes`: of all archives of a sandbox; beyond it no files are copied any more."""

    def __init__(
        self,
        folder: str,
        mount: str,
        total_bytes: int,
        file_bytes: int,
        seconds: int,
        *,
        command: tuple[str, ...] = (sys.executable, "-I", "-S", PROGRAM),
    ) -> None:
        self._folder = folder
        self._fixed = {"folder": folder, "mount": mount, "total_bytes": total_bytes, "file_bytes": file_bytes}
        self._fixed |= {"seconds": seconds, "pinfold": __version__}
        self._seconds_ns = seconds * 1_000_000_000
        self._command = command
        self._waiting: deque[tuple[int, Wanted]] = deque()  # until when, oldest first
        self._children: dict[str, _Child] = {}  # by quarantine
        self._left: list[int] = []  # killed, or done, and not gone
        self._collected: list[Collected] = []

    @property
    def idle(self) -> bool:
        """Nothing is to come. A child that cannot be killed is nothing to wait for."""
        return not self._waiting and not self._children and not self._collected

    @property
    def left(self) -> int:
        """Children that hang where no signal reaches them."""
        return len(self._left)

    def start(self, wanted: Wanted, now_ns: int) -> bool:
        """`now_ns`: CLOCK_MONOTONIC. False where it cannot be begun: too much is asked, or it is being done."""
        waits = any(waiting.quarantine_id == wanted.quarantine_id for _, waiting in self._waiting)
        if waits or wanted.quarantine_id in self._children or not _ID.fullmatch(wanted.quarantine_id):
            return False
        if len(self._waiting) >= MOST_WAITING or len(self._left) >= MOST_LEFT:
            return False
        self._waiting.append((now_ns + WAIT_NS, wanted))
        self._start_some(now_ns)
        return True

    def poll(self, now_ns: int) -> list[Collected]:
        """What has ended since, in time or not."""
        self._left = [pid for pid in self._left if not _reaped(pid)]
        for child in list(self._children.values()):
            self._look(child, now_ns)
        self._start_some(now_ns)
        collected, self._collected = self._collected, []
        return collected

    def close(self) -> None:
        """Kills what still runs, without waiting for it. What they were at is swept by the next of the quarantine."""
        self._waiting.clear()
        for child in self._children.values():
            self._leave(child)
            _close(child)
        self._children.clear()

    def _look(self, child: _Child, now_ns: int) -> None:
        gone = _reaped(child.pid)
        end = child.end()
        late = now_ns >= child.until_ns
        if end is None and not gone and not late:
            return
        if not gone:
            self._leave(child, kill=end is None)
        if end is not None and end.archive:
            self._answer(child, end)
            return
        why = end.failed if end is not None else "its time was over" if late else "the child ended"
        if child.finishing:
            self._answer(child, _End(failed=why))
        else:
            self._finish(child, why, now_ns)

    def _finish(self, child: _Child, why: str, now_ns: int) -> None:
        wanted = child.wanted
        temporary = _temporary(wanted)
        question = self._question(wanted, temporary, left=child.temporary)
        command = (*self._command, "finish", str(os.getpid()), why)
        try:
            second = _Child(wanted, command, question, child.answer, now_ns + FINISH_NS)
        except OSError as error:
            self._answer(child, _End(failed=f"{why}; no child: {error.strerror}"))
            return
        second.finishing = True
        second.hung = child.pid
        second.temporary = temporary
        self._children[wanted.quarantine_id] = second

    def _answer(self, child: _Child, end: _End) -> None:
        del self._children[child.wanted.quarantine_id]
        _close(child)
        archive = os.path.join(self._folder, end.archive) if end.archive else ""
        detail = end.detail or f"no archive: {end.failed}"
        if child.hung in self._left:
            detail += "; a read hangs where no signal ends it"
        self._collected.append(Collected(child.wanted.quarantine_id, archive, end.ok, detail, end.bytes))

    def _leave(self, child: _Child, kill: bool = True) -> None:
        if kill:
            os.kill(child.pid, signal.SIGKILL)  # its child still, until it is reaped: nobody else has this pid
        if not _reaped(child.pid):
            self._left.append(child.pid)

    def _start_some(self, now_ns: int) -> None:
        while self._waiting and (len(self._children) < MOST_AT_WORK or now_ns >= self._waiting[0][0]):
            until_ns, wanted = self._waiting.popleft()
            if now_ns >= until_ns:
                self._collected.append(_none(wanted, "others were collected all the time"))
                continue
            temporary = _temporary(wanted)
            try:
                question = self._question(wanted, temporary)
                command = (*self._command, "collect", str(os.getpid()))
                child = _Child(wanted, command, question, -1, now_ns + self._seconds_ns)
            except OSError as why:
                self._collected.append(_none(wanted, f"no child: {why.strerror}"))
            except UnicodeEncodeError:
                self._collected.append(_none(wanted, "the cgroup's path is no path"))
            else:
                child.temporary = temporary
                self._children[wanted.quarantine_id] = child

    def _question(self, wanted: Wanted, temporary: str, left: str = "") -> bytes:
        line = (
            self._fixed
            | {
                "quarantine_id": wanted.quarantine_id,
                "sandbox_id": wanted.sandbox_id,
                "path": os.fsencode(wanted.path),  # base64 in JSON
                "processes": wanted.processes[:MOST_PROCESSES],
                "facts_bytes": len(wanted.facts),
                "temporary": temporary,
                "left": left,
            }
        )
        return msgspec.json.encode(line) + b"\n" + wanted.facts[: LIMITS["facts_bytes"]]


def _temporary(wanted: Wanted) -> str:
    return f".{wanted.quarantine_id}.tar.gz.{secrets.token_hex(4)}.part"


def _none(wanted: Wanted, why: str) -> Collected:
    return Collected(wanted.quarantine_id, "", False, f"no archive: {why}", 0)


def _close(child: _Child) -> None:
    os.close(child.answer)
    if child.progress >= 0:
        os.close(child.progress)


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _spawn(command: tuple[str, ...], question: bytes, answer: int, progress: int) -> int:
    """Files in memory and not pipes: neither side can be made to wait for the other."""
    asked = os.memfd_create("pinfold-question", os.MFD_CLOEXEC)
    actions = [
        (os.POSIX_SPAWN_DUP2, asked, 0),
        (os.POSIX_SPAWN_DUP2, answer, 1),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    if progress >= 0:
        actions.append((os.POSIX_SPAWN_DUP2, progress, 3))
    try:
        os.write(asked, question)
        return os.posix_spawn(
            command[0],
            command,
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            file_actions=actions,
            setsigmask=[],  # the core may block signals, to read them from a descriptor
            setsigdef=[signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2],
        )
    finally:
        os.close(asked)
