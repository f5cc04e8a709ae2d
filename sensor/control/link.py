"""The core's end: starts the api process, answers its questions, starts it again when it dies.

The api parses what anybody on the host sends, so the core trusts it with nothing: requests are
bounded, answers are reused for a moment, and a reply is one packet that is sent at once or dropped.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from sensor.configcontrol import Control
from sensor.control import arguments, peers, wire
from sensor.control.admissions import Admissions, Call
from sensor.control.caller import ConflictError, code_of
from sensor.control.listeners import Listener, group_of
from sensor.control.logs import following
from sensor.errors import PinfoldError
from sensor.metrics import Metrics

REUSE_S = 0.2  # how long an answer serves further requests
AT_ONCE = 8  # requests per call of on_readable
BACKOFF_S = (0.1, 30.0)  # first and longest pause before the next start
STEADY_S = 60.0  # after this long alive, the next death is a first one again
STOP_S = 1.0

Provider = Callable[[], bytes]


def nothing(_name: str, _body: bytes, _caller: object) -> bytes:
    """Of a core that has only providers."""
    raise ConflictError("the core has no operations yet")


def nowhere(_path: str) -> bool:
    return False


class Desk(Struct, frozen=True):
    """Who may do what, and what there is to do."""

    control: Control = Control()
    call: Call = nothing  # carries out an operation for a caller, quickly; JSON on both sides
    log: str = ""  # path of the event log, whose descriptor an api that serves somebody is given
    within: Callable[[str], bool] = nowhere  # whether a cgroup is a sandbox or lies in one


NOTHING = Desk()


class CoreLink:
    """:param providers: by name (metrics, status, sandboxes, rules); each gives its answer as bytes, quickly.
    :param sandboxed: whether a peer is of a sandbox, by tgid and cgroup path.
    :param say: one line for the operator.
    :param desk: what is behind the control socket beside the providers.

    `fileno()` is readable when `on_readable` has something to do, and stays the same over restarts.
    """

    def __init__(
        self,
        listeners: list[Listener],
        providers: Mapping[str, Provider],
        *,
        sandboxed: peers.Sandboxed,
        metrics: Metrics,
        say: Callable[[str], None],
        desk: Desk = NOTHING,
    ) -> None:
        self.ready = False  # the api serves
        self.pid = 0  # of the api; 0 while there is none
        self._listeners = listeners
        self._providers = providers
        self.admissions = Admissions(desk.control, group_of(desk.control.group), sandboxed, desk.within)
        self._desk = desk
        self._metrics = metrics
        self._say = say
        self._epoll = select.epoll()
        self._socket: socket.socket | None = None
        self._pidfd = -1
        self._answers: dict[str, tuple[float, bytes]] = {}
        self._started_s = 0.0
        self._pause_s = BACKOFF_S[0]
        self._due_s: float | None = None

    @classmethod
    def spawn(
        cls,
        listeners: list[Listener],
        providers: Mapping[str, Provider],
        *,
        sandboxed: peers.Sandboxed,
        metrics: Metrics,
        say: Callable[[str], None],
        desk: Desk = NOTHING,
    ) -> CoreLink:
        """:raises OSError: the api process cannot be started."""
        link = cls(listeners, providers, sandboxed=sandboxed, metrics=metrics, say=say, desk=desk)
        try:
            link._start()
        except OSError:
            link._epoll.close()
            raise
        return link

    def fileno(self) -> int:
        return self._epoll.fileno()

    def alive(self) -> bool:
        return self.pid != 0

    def on_readable(self) -> None:
        """Never blocks. Answers a bounded number of requests; notices the api's death."""
        for fd, _ in self._epoll.poll(0):
            if fd == self._pidfd:
                self._died()
                return
        for _ in range(AT_ONCE):
            if self._socket is None or not self._answer_one(self._socket):
                return

    def tick(self) -> None:
        """To be called about once a second: starts the api again when its pause is over, and replaces one that was
        stopped. It has its user from the host: a sandbox's process of the same one may send it SIGSTOP, after
        which nothing would be served and nothing would have died."""
        if self._stopped():
            self._say("the api process was stopped by a signal; it is ended, and started again")
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if self._due_s is None or time.monotonic() < self._due_s:
            return
        self._due_s = None
        self._metrics.count("pinfold_api_restarts_total")
        try:
            self._start()
        except OSError as error:
            self._say(f"the api process cannot be started: {error.strerror}")
            self._wait()

    def _stopped(self) -> bool:
        try:
            return bool(self.pid) and os.waitid(os.P_PIDFD, self._pidfd, os.WSTOPPED | os.WNOHANG) is not None
        except ChildProcessError:  # it ended, which its pidfd tells
            return False

    def close(self) -> None:
        """Ends the api and closes all listeners."""
        if self.pid:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            if not ended.poll(STOP_S * 1000):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._reap()
        self._due_s = None
        self._epoll.close()
        for listener in self._listeners:
            listener.close()

    def _start(self) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            # The least the kernel gives: a few small packets, so that unread answers pin little memory.
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            mine.setblocking(False)
            try:
                self.pid = _spawn(its, self._listeners)
            except OSError:
                mine.close()
                raise
        self._socket = mine
        self._pidfd = os.pidfd_open(self.pid)
        self._epoll.register(mine, select.EPOLLIN)
        self._epoll.register(self._pidfd, select.EPOLLIN)
        self._started_s = time.monotonic()

    def _died(self) -> None:
        status = self._reap()
        if time.monotonic() - self._started_s >= STEADY_S:
            self._pause_s = BACKOFF_S[0]
        self._say(f"the api process ended ({status}); it is started again in {self._pause_s:g} s")
        self._wait()

    def _wait(self) -> None:
        self._due_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, BACKOFF_S[1])

    def _reap(self) -> str:
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._epoll.unregister(self._pidfd)
        os.close(self._pidfd)
        self._hang_up()
        self.admissions.clear()
        self.pid, self._pidfd, self.ready = 0, -1, False
        return f"signal {-code}" if code < 0 else f"status {code}"

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._epoll.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _answer_one(self, link: socket.socket) -> bool:
        """False when nothing is left to answer."""
        try:
            packet, fds, _, _ = socket.recv_fds(link, wire.MOST_REQUEST, 1)
        except BlockingIOError:
            return False
        except OSError:
            packet, fds = b"", []
        try:
            if len(packet) < wire.REQUEST.size:
                # It hung up, or talks nonsense. Its exit is seen by the pidfd; one that lives on is ended.
                self._hang_up()
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                return False
            (request,) = wire.REQUEST.unpack_from(packet)
            self._dispatch(link, request, packet[wire.REQUEST.size :], fds)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _dispatch(self, link: socket.socket, request: int, word: bytes, fds: list[int]) -> None:
        if request == wire.READY_ID:
            self.ready = True
        elif word.startswith(wire.ADMIT_WORD):
            self._admit(link, request, word[len(wire.ADMIT_WORD) :], fds)
        elif word.startswith(wire.LEAVE_WORD) and len(word) == len(wire.LEAVE_WORD) + wire.ADMISSION.size:
            self.admissions.leave(*wire.ADMISSION.unpack_from(word, len(wire.LEAVE_WORD)))
        elif word.startswith(wire.CALL_WORD) and len(word) >= len(wire.CALL_WORD) + wire.CALL.size:
            self._operate(link, request, word[len(wire.CALL_WORD) :])
        elif word.startswith(wire.LOG_WORD) and len(word) == len(wire.LOG_WORD) + wire.LOG.size:
            self._show_log(link, request, *wire.LOG.unpack_from(word, len(wire.LOG_WORD)))
        else:
            self._provide(link, request, word[:64].decode("ascii", "replace"))

    def _admit(self, link: socket.socket, request: int, kind: bytes, fds: list[int]) -> None:
        text = self.admissions.admit(fds[0], kind == b"control") if fds else peers.UNVERIFIED
        self._reply(link, request, wire.OK if text[0].isdigit() else wire.REFUSED, text)

    def _operate(self, link: socket.socket, request: int, packet: bytes) -> None:
        number, padded = wire.CALL.unpack_from(packet)
        name = padded.rstrip(b"\0").decode("ascii", "replace")
        status = wire.OK
        try:
            caller = self.admissions.caller(number, arguments.changes(name))
            answer = self._desk.call(name, packet[wire.CALL.size :], caller)
            if arguments.changes(name):
                self._answers.clear()
        except PinfoldError as error:
            status = wire.FIRST_CODE + wire.CODES.index(code_of(error))
            answer = msgspec.json.encode({"error": str(error).encode("utf-8", "replace").decode()})
        except Exception as error:
            status = wire.FIRST_CODE + wire.CODES.index("failed")
            answer = msgspec.json.encode({"error": "the core failed to answer"})
            self._failed(name, error)
        self._answer_with(link, request, status, answer)

    def _show_log(self, link: socket.socket, request: int, device: int, inode: int) -> None:
        """To an api that serves somebody; whoever may connect may read."""
        if not self._desk.log or not len(self.admissions):
            self._reply(link, request, wire.FAILED, "nobody asked for the log")
            return
        try:
            fd = following(self._desk.log, device, inode)
        except OSError as error:
            self._reply(link, request, wire.FAILED, f"the log cannot be read: {error.strerror}")
            return
        self._reply(link, request, wire.OK, "", fd)
        if fd is not None:
            os.close(fd)

    def _provide(self, link: socket.socket, request: int, name: str) -> None:
        provider = self._providers.get(name)
        if provider is None:
            self._reply(link, request, wire.FAILED, "the core has no such thing")
            return
        try:
            answer = self._answer(name, provider)
        except Exception as error:
            # An answer that cannot be made must not end detection: counted, said, and told to the asker.
            self._failed(name, error)
            self._reply(link, request, wire.FAILED, "the core failed to answer")
            return
        self._answer_with(link, request, wire.OK, answer)

    def _failed(self, name: str, error: Exception) -> None:
        self._metrics.count("pinfold_events_lost_total", ("api", "unanswered"))
        self._say(f"no answer to {name}: {type(error).__name__}: {error}")

    def _answer_with(self, link: socket.socket, request: int, status: int, answer: bytes) -> None:
        memory = os.memfd_create("pinfold-answer", os.MFD_CLOEXEC)
        try:
            _write_all(memory, answer)
            self._reply(link, request, status, "", memory)
        finally:
            os.close(memory)

    def _answer(self, name: str, provider: Provider) -> bytes:
        now = time.monotonic()
        made_s, answer = self._answers.get(name, (0.0, b""))
        if not answer or now - made_s >= REUSE_S:
            answer = provider()
            self._answers[name] = (now, answer)
        return answer

    def _reply(self, link: socket.socket, request: int, status: int, text: str, fd: int | None = None) -> None:
        packet = wire.REPLY.pack(request, status) + text.encode()[: wire.MOST_REPLY - wire.REPLY.size]
        ancillary = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            link.sendmsg([packet], ancillary)
        except OSError:  # EAGAIN: it asks and does not read; EPIPE: it is gone, as the pidfd will say
            self._metrics.count("pinfold_events_lost_total", ("api", "not_read"))


def _spawn(link: socket.socket, listeners: list[Listener]) -> int:
    """Starts the api with exactly these descriptors and an environment of our own making."""
    inherited = [link.fileno(), *(listener.socket.fileno() for listener in listeners)]
    served = [f"{listener.kind}:{listener.socket.fileno()}" for listener in listeners]
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    command = [
        sys.executable,
        "-P",  # the working directory is not ours: nothing is imported from it
        "-s",
        "-m",
        "sensor.control.api",
        str(os.getpid()),
        str(link.fileno()),
        *served,
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": package}
    for fd in inherited:
        os.set_inheritable(fd, True)
    try:
        return os.posix_spawn(
            sys.executable,
            command,
            environment,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
            setsigmask=[],  # the core may block signals, to read them from a descriptor
            setsigdef=[signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2],
        )
    finally:
        for fd in inherited:
            os.set_inheritable(fd, False)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
