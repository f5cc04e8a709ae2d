"""A server like ROCK's in its sandboxes: `rock_server.py ADDRESS PORT`, over WebSockets that come from outside.

/portforward?port=N bridges to 127.0.0.1:N; /session runs each message in one bash.
"""

from __future__ import annotations

import socket
import sys
import threading
from urllib.parse import parse_qs, urlsplit

from websockets.sync.server import ServerConnection, serve

from tests.live.peers.scripts.bash_session import BashSession


def data_of(message: str | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.encode()


def bridge(outer: ServerConnection, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as inner:

        def outwards() -> None:
            while data := inner.recv(16384):
                outer.send(data)
            outer.close()

        copier = threading.Thread(target=outwards, daemon=True)
        copier.start()
        for message in outer:
            inner.sendall(data_of(message))
        copier.join()


def each(outer: ServerConnection) -> None:
    asked = urlsplit(outer.request.path if outer.request else "")
    if asked.path == "/portforward":
        bridge(outer, int(parse_qs(asked.query)["port"][0]))
        return
    session = BashSession()
    for message in outer:
        outer.send(session.run(data_of(message).decode()))


if __name__ == "__main__":
    with serve(each, sys.argv[1], int(sys.argv[2])) as server:
        server.serve_forever()
