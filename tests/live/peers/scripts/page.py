"""A small HTTP service: `page.py ADDRESS PORT FILE` serves the file's bytes to every request."""

from __future__ import annotations

import socketserver
import sys
from pathlib import Path
from typing import ClassVar


class Page(socketserver.StreamRequestHandler):
    body: ClassVar[bytes]

    def handle(self) -> None:
        while self.rfile.readline(4096).strip():
            continue
        head = f"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(self.body)}\r\n\r\n"
        self.wfile.write(head.encode() + self.body)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Page.body = Path(sys.argv[3]).read_bytes()
    with Server((sys.argv[1], int(sys.argv[2])), Page) as server:
        server.serve_forever()
