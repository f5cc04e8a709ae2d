"""The sandbox's end of a reverse relay over TLS: `relay_tls.py ADDRESS PORT TARGET-PORT`.

Waits for bytes, then dials 127.0.0.1:TARGET-PORT and copies both ways; dials out again when either end closes. The
certificate is not looked at, as such a script would not.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
import time


def relay(outer: ssl.SSLSocket, target_port: int) -> None:
    first = outer.recv(16384)
    with socket.create_connection(("127.0.0.1", target_port)) as inner:
        inner.sendall(first)
        ways: dict[socket.socket, socket.socket] = {outer: inner, inner: outer}
        while True:
            # What TLS has decrypted already does not make its socket readable.
            readable = [outer] if outer.pending() else select.select([outer, inner], [], [])[0]
            for source in readable:
                data = source.recv(16384)
                if not data:
                    return
                ways[source].sendall(data)


def main() -> None:
    address, port, target_port = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((address, int(port))) as connection,
            context.wrap_socket(connection) as outer,
        ):
            relay(outer, int(target_port))
        time.sleep(0.02)


if __name__ == "__main__":
    main()
