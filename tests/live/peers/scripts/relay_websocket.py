"""The sandbox's end of a reverse relay over WebSockets over TLS: `relay_websocket.py ADDRESS PORT TARGET-PORT`.

Waits for a message, then dials 127.0.0.1:TARGET-PORT and copies both ways; dials out again when either end closes.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import time

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect


def relay(outer: ClientConnection, target_port: int) -> None:
    first = outer.recv()
    with socket.create_connection(("127.0.0.1", target_port)) as inner:

        def outwards() -> None:
            while data := inner.recv(16384):
                outer.send(data)
            outer.close()

        copier = threading.Thread(target=outwards, daemon=True)
        copier.start()
        inner.sendall(first if isinstance(first, bytes) else first.encode())
        for message in outer:
            inner.sendall(message if isinstance(message, bytes) else message.encode())
        copier.join()


def main() -> None:
    address, port, target_port = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while True:
        with (
            contextlib.suppress(OSError, ConnectionClosed, InvalidHandshake),
            connect(f"wss://{address}:{port}/live", ssl=context, compression=None, proxy=None) as outer,
        ):
            relay(outer, int(target_port))
        time.sleep(0.02)


if __name__ == "__main__":
    main()
