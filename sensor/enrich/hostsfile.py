"""Names in the sandboxes' own /etc/hosts, read by a child (`hostschild.py`) that is killed when a sandbox stalls it.

One child for all, started when there is something to read and ended when there has been nothing for a while: a
fork of the core for each read would copy its page tables (some ms) and leave its descriptors, locks
and maps with a child that may not even be killable (FUSE waits for its server without signals once the
request is sent), and a child kept for good costs 5 MB. The pipeline never waits: `request` queues, `poll` takes
what has come.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from sensor.enrich.hostschild import GONE, HEAD, NAMES, READ, READY
from sensor.enrich.names import NAME_MAX, Names, address_of
from sensor.enrich.procfs import start_ticks

LINES_MAX = 1024
NAMES_PER_LINE = 8
NAMES_PER_FILE = 1024  # of a file that was written to cost: 5 ms of the core for each time it is read
QUEUED_MAX = 1024
ASKED_MAX = 4  # requests that the child has at once; what it answers waits in a pipe of 64 KiB
SANDBOXES_MAX = 16384
STUCK_MAX = 4  # children that were killed and have not gone: beyond these nothing more is read
CHILD = str(Path(__file__).with_name("hostschild.py"))

_NS = 1_000_000_000


class HostsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    every_s: float = 30  # one sandbox's file is read this often at most
    patience_ms: int = 200  # for one file; from a disk it takes 1
    start_ms: int = 5000  # for the child's start, on a host that swaps
    gone_s: float = 1  # after nobody was there any more to read it of
    stalled_s: float = 3600  # a sandbox that stalled the child is not read again for this long
    idle_s: float = 10
    shown_s: int = 3600


class _Request(Struct, frozen=True, gc=False):
    sandbox_id: int
    tgid: int
    start_ns: int
    again: bool = False  # the child ended when it was asked this first
    others: tuple[tuple[int, int], ...] = ()  # tgid and start of whoever has the same file, as a rule


class _Child:
    """`asked` are its requests without an answer, the first is the one that it works on."""

    def __init__(self, command: list[str], now_ns: int) -> None:
        self.asked: deque[_Request] = deque()
        self.ready = False
        self.moved_ns = now_ns  # when it last answered, or got something to do
        self._received = bytearray()
        requests, self._requests = os.pipe2(os.O_CLOEXEC)
        self._answers, answers = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(answers, True)
            # Not `subprocess`, whose import is 10 ms of the core's start. Other descriptors close on exec.
            self.pid = os.posix_spawn(
                command[0],
                command,
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, requests, 0),
                    (os.POSIX_SPAWN_DUP2, answers, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
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

    def ask(self, request: _Request, now_ns: int) -> None:
        """Cannot block: ASKED_MAX lines are far from filling the pipe. OSError where the child has ended."""
        os.write(self._requests, b"%d %d\n" % (request.tgid, start_ticks(request.start_ns)))
        if not self.asked:
            self.moved_ns = now_ns
        self.asked.append(request)

    def receive(self) -> tuple[list[tuple[int, bytes]], bool]:
        """Answers that are whole, and whether it lives."""
        alive = True
        try:
            while chunk := os.read(self._answers, 256 * 1024):
                self._received += chunk
            alive = False
        except BlockingIOError:
            pass
        answers = []
        at = 0
        while at + HEAD.size <= len(self._received):
            status, size = HEAD.unpack_from(self._received, at)
            if at + HEAD.size + size > len(self._received):
                break
            answers.append((status, bytes(self._received[at + HEAD.size : at + HEAD.size + size])))
            at += HEAD.size + size
        del self._received[:at]
        return answers, alive

    def close(self) -> None:
        """Without a standard input it ends by itself, unless something holds it."""
        os.close(self._requests)
        os.close(self._answers)


class HostsFiles:
    """`clock` is CLOCK_MONOTONIC in nanoseconds; `command` what is run for the child."""

    def __init__(
        self,
        names: Names,
        settings: HostsSettings | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        command: list[str] | None = None,
    ) -> None:
        self._names = names
        self._settings = settings or HostsSettings()
        self._clock = clock
        self._command = command or [sys.executable, "-I", "-S", CHILD]
        self._queue: deque[_Request] = deque()
        self._next_ns: dict[int, int] = {}  # sandbox → when it may be read again
        self._child: _Child | None = None
        self._leaving: list[int] = []  # children that were told to go, or killed, and are not gone
        self._used_ns = 0
        self.counters: Counter[str] = Counter()

    @property
    def busy(self) -> bool:
        """Something is to come: poll again soon."""
        return bool(self._queue or (self._child is not None and self._child.asked))

    def request(self, sandbox_id: int, tgid: int, start_ns: int, others: tuple[tuple[int, int], ...] = ()) -> bool:
        """Whether it will be read. `start_ns`: CLOCK_BOOTTIME, of this process of the sandbox. `others`: tgid and
        start of processes to ask about when it is gone, as short ones are by the time that a child is ready."""
        now_ns = self._clock()
        if now_ns < self._next_ns.get(sandbox_id, 0):
            return False
        if len(self._queue) >= QUEUED_MAX:
            self.counters["hosts_not_queued"] += 1
            return False
        if len(self._next_ns) >= SANDBOXES_MAX:
            del self._next_ns[next(iter(self._next_ns))]
        self._next_ns[sandbox_id] = now_ns + int(self._settings.every_s * _NS)
        self._queue.append(_Request(sandbox_id, tgid, start_ns, others=others))
        return True

    def poll(self) -> list[int]:
        """Sandboxes whose names were read now. Call it from a timer, often while `busy`; it never waits."""
        now_ns = self._clock()
        self._leaving = [pid for pid in self._leaving if not _reaped(pid)]
        read = self._collect(now_ns) if self._child is not None else []
        if self._queue and self._child is None:
            self._start(now_ns)
        child = self._child
        if child is not None:
            while child.ready and self._queue and len(child.asked) < ASKED_MAX:
                self._used_ns = now_ns
                try:
                    child.ask(self._queue[0], now_ns)
                except OSError:  # EPIPE: the next poll sees that it has ended
                    break
                self._queue.popleft()
            if not child.asked and not self._queue and now_ns - self._used_ns > self._settings.idle_s * _NS:
                self._leave(child)
        return read

    def forget(self, sandbox_id: int) -> None:
        self._next_ns.pop(sandbox_id, None)
        if self._queue:
            self._queue = deque(request for request in self._queue if request.sandbox_id != sandbox_id)

    def close(self) -> None:
        if self._child is not None:
            self._kill(self._child)
        self._leaving = [pid for pid in self._leaving if not _reaped(pid)]

    def _start(self, now_ns: int) -> None:
        if len(self._leaving) >= STUCK_MAX:
            self.counters["hosts_children_stuck"] += len(self._queue)
            self._queue.clear()
            return
        try:
            self._child = _Child(self._command, now_ns)
        except OSError:
            self.counters["hosts_no_child"] += len(self._queue)
            self._queue.clear()
        self._used_ns = now_ns

    def _collect(self, now_ns: int) -> list[int]:
        child = self._child
        assert child is not None
        answers, alive = child.receive()
        read = []
        for status, content in answers:
            child.moved_ns = now_ns
            if status == READY:
                child.ready = True
            elif child.asked:
                request = child.asked.popleft()
                self.counters[f"hosts_{NAMES[status]}" if status < len(NAMES) else "hosts_not_understood"] += 1
                if request.sandbox_id not in self._next_ns:
                    continue  # forgotten meanwhile: nobody would forget it again
                if status == READ:
                    self._learn(request.sandbox_id, content, now_ns)
                    read.append(request.sandbox_id)
                elif status == GONE:
                    self._ask_another(request, now_ns)
        patience_ms = self._settings.patience_ms if child.ready else self._settings.start_ms
        waits = bool(child.asked) or not child.ready
        if waits and now_ns - child.moved_ns > patience_ms * 1_000_000:
            self._give_up(child, now_ns, blamed=True)
        elif not alive:
            self._give_up(child, now_ns, blamed=bool(child.asked) and child.asked[0].again)
        return read

    def _ask_another(self, request: _Request, now_ns: int) -> None:
        if request.others:
            (tgid, start_ns), *others = request.others
            self._queue.append(_Request(request.sandbox_id, tgid, start_ns, others=tuple(others)))
        else:
            self._next_ns[request.sandbox_id] = now_ns + int(self._settings.gone_s * _NS)

    def _give_up(self, child: _Child, now_ns: int, blamed: bool) -> None:
        """The child stalls on the first of its requests, or has ended: others are asked again, that one only where
        somebody else may have killed it."""
        self._kill(child)
        if child.asked:
            first = child.asked.popleft()
            self._queue.extendleft(reversed(child.asked))
            if not blamed:
                self._queue.appendleft(replace(first, again=True))
                return
            if first.sandbox_id in self._next_ns:
                self._next_ns[first.sandbox_id] = now_ns + int(self._settings.stalled_s * _NS)
            self.counters["hosts_stalled"] += 1
        elif not child.ready:  # it cannot start: what waits for it would wait for the next one alike
            self.counters["hosts_no_child"] += len(self._queue)
            self._queue.clear()

    def _kill(self, child: _Child) -> None:
        os.kill(child.pid, signal.SIGKILL)  # its child still, until it is reaped: nobody else has this pid
        self._leave(child)

    def _leave(self, child: _Child) -> None:
        child.close()
        self._child = None
        if not _reaped(child.pid):
            self._leaving.append(child.pid)

    def _learn(self, sandbox_id: int, content: bytes, now_ns: int) -> None:
        until_ns = now_ns + self._settings.shown_s * _NS
        for address, names in parse(content):
            # The first name is the canonical one (hosts(5)); the last learned is the one that is shown.
            for name in reversed(names):
                self._names.learn(sandbox_id, name, address, until_ns, "hosts")


def parse(content: bytes) -> list[tuple[str, list[str]]]:
    """(address, names) of each line that is well formed, as hosts(5) has them; the rest is passed over."""
    found: list[tuple[str, list[str]]] = []
    room = NAMES_PER_FILE
    for line in content.split(b"\n", LINES_MAX)[:LINES_MAX]:
        fields = line.partition(b"#")[0].split(None, NAMES_PER_LINE + 1)[: NAMES_PER_LINE + 1]
        try:
            texts = [field.decode("ascii").lower().removesuffix(".") for field in fields if len(field) <= NAME_MAX + 1]
        except UnicodeDecodeError:
            continue
        address = address_of(texts[0].partition("%")[0]) if len(texts) > 1 else None
        if address is not None:
            names = [name for name in texts[1:] if name and name.isprintable()][:room]
            found.append((address.text, names))
            room -= len(names)
            if not room:
                break
    return found


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except OSError as error:
        return error.errno == errno.ECHILD
