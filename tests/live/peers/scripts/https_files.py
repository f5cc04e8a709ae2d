"""Files over TLS, as an index, a registry, a git server has them: `https_files.py ADDRESS PORT CERTIFICATE FOLDER`."""

from __future__ import annotations

import functools
import http.server
import ssl
import sys


def main() -> None:
    address, port, certificate, folder = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer((address, int(port)), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.serve_forever()


if __name__ == "__main__":
    main()
