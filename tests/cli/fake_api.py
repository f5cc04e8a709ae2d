"""Plays the api on a control socket: answers by method and path, streams lines, remembers what it was asked."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from sensor.control.listeners import CONTROL_SOCKET

_REASONS = {200: b"OK", 202: b"Accepted", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 409: b"Conflict"}


class FakeApi:
    """`answers`: by "METHOD /path", escapes undone: (status, JSON), or a list of bytes to be streamed. What is not
    there is a 404. `asked`: (method, path with its query as it came, body)."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Any]] = []

    def answer(self, method: str, target: str, body: bytes) -> bytes:
        self.asked.append((method, target, orjson.loads(body) if body else None))
        found = self.answers.get(
            f"{method} {unquote(urlsplit(target).path)}", (404, {"error": "there is no such thing"})
        )
        if isinstance(found, list):
            return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"".join(found)
        status, value = found
        text = value if isinstance(value, bytes) else orjson.dumps(value)
        head = b"HTTP/1.1 %d %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        return head % (status, _REASONS[status], len(text)) + text


@contextmanager
def serving(folder: Path) -> Iterator[FakeApi]:
    api = FakeApi()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words = self.rfile.readline().split()
            length = 0
            while (line := self.rfile.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = self.rfile.read(length)
            self.wfile.write(api.answer(words[0].decode(), words[1].decode(), body))

    with socketserver.ThreadingUnixStreamServer(str(folder / CONTROL_SOCKET), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join(10)
