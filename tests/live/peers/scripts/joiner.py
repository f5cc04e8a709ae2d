"""The outside end of a reverse relay: `joiner.py MODE ADDRESS PORT ENTRY-PORT [CERTIFICATE]`.

What the sandbox dials comes to PORT and waits there, idle; a client that comes to ENTRY-PORT is joined with one of
those. MODE is how the sandbox's end is spoken to: plain, tls, or websocket (over TLS), of whom the latter two take a
file with certificate and key.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from typing import Protocol

PIECE = 16384


class Link(Protocol):
    """A connection from the sandbox; recv gives b"" at its end."""

    def recv(self) -> bytes: ...
    def send(self, data: bytes) -> None: ...
    def close(self) -> None: ...


class Stream:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def recv(self) -> bytes:
        try:
            return self._connection.recv(PIECE)
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def join(client: socket.socket, link: Link) -> None:
    def outwards() -> None:
        while data := link.recv():
            client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    copier = threading.Thread(target=outwards, daemon=True)
    copier.start()
    with client, contextlib.suppress(OSError):
        while data := client.recv(PIECE):
            link.send(data)
    link.close()


def take(address: str, port: int, each: Callable[[socket.socket], None]) -> None:
    with socket.create_server((address, port)) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=each, args=(connection,), daemon=True).start()


def websockets(address: str, port: int, context: ssl.SSLContext, waiting: queue.Queue[Link]) -> None:
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - the other modes do without
    from websockets.sync.server import ServerConnection, serve  # noqa: PLC0415

    class Frames:
        def __init__(self, connection: ServerConnection) -> None:
            self._connection, self.closed = connection, threading.Event()

        def recv(self) -> bytes:
            try:
                message = self._connection.recv()
            except ConnectionClosed:
                return b""
            return message.encode() if isinstance(message, str) else message

        def send(self, data: bytes) -> None:
            self._connection.send(data)

        def close(self) -> None:
            self._connection.close()
            self.closed.set()

    def each(connection: ServerConnection) -> None:
        frames = Frames(connection)
        waiting.put(frames)
        frames.closed.wait()

    with serve(each, address, port, ssl=context, compression=None) as server:
        server.serve_forever()


def main() -> None:
    mode, address, port, entry_port, *certificate = sys.argv[1:]
    waiting: queue.Queue[Link] = queue.Queue()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A ticket that comes while the other end writes takes what is written into the handshake, where it stays: OpenSSL
    # is not for two threads at once, and websockets.sync reads in one and writes in another.
    context.num_tickets = 0
    if certificate:
        context.load_cert_chain(certificate[0])

    def plain(connection: socket.socket) -> None:
        waiting.put(Stream(connection))

    def tls(connection: socket.socket) -> None:
        waiting.put(Stream(context.wrap_socket(connection, server_side=True)))

    def client(connection: socket.socket) -> None:
        join(connection, waiting.get())

    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: take(address, int(port), plain),
        "tls": lambda: take(address, int(port), tls),
        "websocket": lambda: websockets(address, int(port), context, waiting),
    }
    threading.Thread(target=ways[mode], daemon=True).start()
    take(address, int(entry_port), client)


if __name__ == "__main__":
    main()
