"""Destroying sockets of a sandbox, whoever holds them: the peer gets a reset (TCP), the holder ECONNABORTED.

SOCK_DESTROY acts in the network namespace of the one who asks, and the core never leaves its own: a child does
it, see sockets_child.py. The kernel waits for the socket's lock, which its user may hold as long as it likes
(in a send from memory that a FUSE file system serves), and no signal ends that wait: the child's time is bounded
for the asker, it itself stays until the lock is free, one for a sandbox at most.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from typing import Literal

import msgspec
from msgspec import Struct

from sensor.respond.procfs import ticks

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sockets_child.py")
PATIENCE_NS = 1_000_000_000
MOST_SOCKETS = 64  # of one request
MOST_PROCESSES = 64
MOST_WAITING = 1024  # requests
MOST_WAITING_OF_SANDBOX = 64
WAIT_NS = 5_000_000_000  # for the sandbox's child before
MOST_CHILDREN = 32  # those that cannot be killed yet among them
_ANSWER_BYTES = 64 * 1024
_NO_COOKIES = {0, 0xFFFFFFFFFFFFFFFF}  # INET_DIAG_NOCOOKIE: whatever socket has the addresses

Outcome = Literal["destroyed", "gone", "unsupported", "failed"]


class Socket(Struct, frozen=True):
    """Exactly one: another that has its addresses since has another cookie. A socket that is not connected has
    0.0.0.0 or :: and port 0 for its remote end."""

    protocol: int  # IPPROTO_TCP or IPPROTO_UDP
    local: str
    local_port: int
    remote: str
    remote_port: int
    cookie: int


class Request(Struct, frozen=True):
    """`processes`: (tgid, start time in CLOCK_BOOTTIME ns) by which the namespace is found, the first that is in
    it. A process may have left the one in which it made a socket: `net_namespace` is the inode of the right one."""

    sandbox_id: int
    processes: tuple[tuple[int, int], ...]
    sockets: tuple[Socket, ...]
    net_namespace: int = 0  # 0: whichever the first living process is in
    made_in: int = 0  # cgroup id: what was made there, whoever of `processes` holds it, is destroyed too


class Result(Struct, frozen=True):
    outcome: Outcome
    reason: str = ""  # of unsupported and failed
    late: bool = False  # nothing was found out: asked again, it may be


class Response(Struct, frozen=True):
    request: Request
    results: tuple[Result, ...]  # by socket
    swept: tuple[Result, ...] = ()  # of `made_in`


_NEITHER = Result("failed", "neither TCP nor UDP")
_NO_COOKIE = Result("failed", "no cookie, and without one it may be any socket")
_NO_ANSWER = Result("failed", "not done in time: its user keeps it locked, or the child could not work", late=True)
_NOT_STARTED = Result("failed", "not done in time: others of its sandbox are not done either", late=True)
_result = msgspec.json.Decoder(Result)


class _Child:
    def __init__(self, request: Request, command: tuple[str, ...], now_ns: int) -> None:
        self.request = request
        self.until_ns = now_ns + PATIENCE_NS
        self.answered = False
        self._answer = os.memfd_create("pinfold-answer", os.MFD_CLOEXEC)
        try:
            self.pid = spawn(command, _encoded(request), self._answer)
        except OSError:
            os.close(self._answer)
            raise

    def ended(self) -> bool:
        """Reaps it."""
        try:
            pid, _ = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return True
        return pid != 0

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def take_answer(self) -> Response:
        lines = os.pread(self._answer, _ANSWER_BYTES, 0).split(b"\n")[:-1]
        os.close(self._answer)
        self.answered = True
        told = iter([_decoded(line) for line in lines])
        asked = tuple((_refusal(each) or next(told, _NO_ANSWER)) for each in self.request.sockets)
        return Response(self.request, asked, tuple(told))


class Destroyer:
    """Never blocks: `start`, then `poll` now and then. For one thread."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-I", "-S", PROGRAM)) -> None:
        self._command = command
        self._waiting: deque[tuple[int, Request]] = deque()  # until when, oldest first
        self._children: dict[int, _Child] = {}  # by sandbox
        self._answered: list[Response] = []  # without a child

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._children and not self._answered

    def start(self, request: Request, now_ns: int) -> bool:
        """`now_ns`: CLOCK_MONOTONIC. False where too much is asked already, or in one request."""
        own = sum(waiting.sandbox_id == request.sandbox_id for _, waiting in self._waiting)
        if (
            len(request.sockets) > MOST_SOCKETS
            or len(request.processes) > MOST_PROCESSES
            or len(self._waiting) >= MOST_WAITING
            or own >= MOST_WAITING_OF_SANDBOX
        ):
            return False
        self._waiting.append((now_ns + WAIT_NS, request))
        self._start_some(now_ns)
        return True

    def poll(self, now_ns: int) -> list[Response]:
        """What was answered since, in time or not."""
        for sandbox_id, child in list(self._children.items()):
            ended, late = child.ended(), now_ns >= child.until_ns
            if (ended or late) and not child.answered:
                if not ended:
                    child.kill()
                self._answered.append(child.take_answer())
            if ended:
                del self._children[sandbox_id]
        self._start_some(now_ns)
        answered, self._answered = self._answered, []
        return answered

    def close(self) -> None:
        """Kills what still runs, without waiting for it."""
        self._waiting.clear()
        for child in self._children.values():
            if not child.ended():
                child.kill()
            if not child.answered:
                child.take_answer()
        self._children.clear()

    def _start_some(self, now_ns: int) -> None:
        """Requests in their order, passing over sandboxes that have a child: one whose child hangs waits alone."""
        for _ in range(len(self._waiting)):
            until_ns, request = self._waiting.popleft()
            if now_ns >= until_ns:
                self._answer_all(request, _NOT_STARTED)
            elif request.sandbox_id in self._children or len(self._children) >= MOST_CHILDREN:
                self._waiting.append((until_ns, request))
            else:
                try:
                    self._children[request.sandbox_id] = _Child(request, self._command, now_ns)
                except OSError as why:
                    self._answer_all(request, Result("failed", f"no child: {why.strerror}"))

    def _answer_all(self, request: Request, result: Result) -> None:
        self._answered.append(Response(request, (result,) * len(request.sockets)))


def _refusal(wanted: Socket) -> Result | None:
    if wanted.protocol not in {6, 17}:
        return _NEITHER
    return _NO_COOKIE if wanted.cookie in _NO_COOKIES else None


def _encoded(request: Request) -> bytes:
    return msgspec.json.encode(
        {
            "processes": [(tgid, ticks(start_ns)) for tgid, start_ns in request.processes],
            "net_namespace": request.net_namespace,
            "made_in": request.made_in,
            "sockets": [each for each in request.sockets if _refusal(each) is None],
        }
    )


def _decoded(line: bytes) -> Result:
    try:
        return _result.decode(line)
    except msgspec.MsgspecError:
        return _NO_ANSWER


def spawn(command: tuple[str, ...], question: bytes, answer: int) -> int:
    """A child's pid. Files in memory and not pipes: neither side can be made to wait for the other."""
    asked = os.memfd_create("pinfold-question", os.MFD_CLOEXEC)
    try:
        os.write(asked, question)
        os.lseek(asked, 0, os.SEEK_SET)
        return os.posix_spawn(
            command[0],
            command,
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, asked, 0),
                (os.POSIX_SPAWN_DUP2, answer, 1),
                (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            ],
            setsigmask=[],  # the core may block signals, to read them from a descriptor
            setsigdef=[signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2],
        )
    finally:
        os.close(asked)
