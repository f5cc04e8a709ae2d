"""Connections that say what a test wants said, out of a sandbox and back, in pieces and with pauses, and stay open."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.live.peers.network import Network
from tests.live.running import Sandbox

PYTHON = ("/usr/bin/python3", "-I", "-S")

# Says what each line of its file says, over a connection each, and holds them all until it is ended.
SPEAK = """
import json, socket, sys, time
address, port, mapped = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "mapped"
held = []
for line in open(sys.argv[1]):
    pause, pieces = json.loads(line)
    if mapped:
        s = socket.socket(socket.AF_INET6)
        s.connect(("::ffff:" + address, port))
    else:
        s = socket.create_connection((address, port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held.append(s)
    for piece in pieces:
        s.sendall(bytes.fromhex(piece))
        time.sleep(pause)
time.sleep(3600)
"""


@dataclass(frozen=True)
class Saying:
    """Pieces that go out of the sandbox, each a write of its own, and what the peer answers at once."""

    out: Sequence[bytes]
    answer: Sequence[bytes] = ()
    pause: float = 0.0  # seconds after each piece

    @property
    def directions(self) -> dict[bool, bytes]:
        """By whether the sandbox said it, the whole stream."""
        return {own: b"".join(pieces) for own, pieces in ((True, self.out), (False, self.answer)) if pieces}


class Peer:
    """Accepts, answers each connection in the order in which they come, and reads whatever is said; all stay open
    until the end."""

    def __init__(self, network: Network, address: str, sayings: Sequence[Saying]) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._server = network.outside.call(lambda: socket.create_server((address, 0), family=family, backlog=1024))
        self.port = int(self._server.getsockname()[1])
        self.sources: list[int] = []  # the sandbox's port of each saying
        self._sayings = sayings
        self._selector = selectors.DefaultSelector()
        self._wakes, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Peer:
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wakes.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                if key.fileobj is self._server:
                    self._accept()
                elif not _read(key.fileobj):  # type: ignore[arg-type]
                    self._selector.unregister(key.fileobj).fileobj.close()  # type: ignore[union-attr]

    def _accept(self) -> None:
        connection, source = self._server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in self._sayings[len(self.sources)].answer:
            connection.sendall(piece)
        self._selector.register(connection, selectors.EVENT_READ)
        self.sources.append(source[1])


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except OSError:
        return b""


@contextlib.contextmanager
def speaking(
    network: Network, sandbox: Sandbox, address: str, sayings: Sequence[Saying], mapped: bool = False
) -> Iterator[Peer]:
    file = network.folder / "sayings"
    file.write_text("".join(json.dumps([s.pause, [piece.hex() for piece in s.out]]) + "\n" for s in sayings))
    with Peer(network, address, sayings) as peer:
        arguments = [str(file), address, str(peer.port), "mapped" if mapped else "plain"]
        program = network.start_inside(sandbox, [*PYTHON, "-c", SPEAK, *arguments])
        try:
            yield peer
        finally:
            program.stop()
