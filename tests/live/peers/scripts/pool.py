"""A stub pool, which pays nobody: `pool.py SETTINGS`, a JSON file.

{"address", "port", "dialect", "certificate", "split", "spaced", "job_s", "tally"}: a job is pushed every "job_s"; each
method that it hears becomes a line of the file "tally".
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import ssl
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from tests.live.peers.scripts.dialects import DIALECTS, Dialect, Message
from tests.live.peers.scripts.wire import Wire

HELLO_S = 10.0
NOISE_HELLO, NOISE_ANSWER, NOISE_FRAME = 64, 170, 142


class Miner(socketserver.BaseRequestHandler):
    chosen: ClassVar[dict[str, Any]]

    def handle(self) -> None:
        connection: socket.socket = self.request
        if self.chosen["certificate"]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.chosen["certificate"])
            connection = context.wrap_socket(connection, server_side=True)
        self.wire = Wire(connection, self.chosen["split"])
        try:
            self.talk()
        except (EOFError, OSError):
            self.note("left")

    def talk(self) -> None:
        name = self.chosen["dialect"]
        if name == "getblocktemplate":
            self.http()
        elif name == "stratum2":
            self.noise()
        else:
            self.lines(DIALECTS[name])

    def lines(self, dialect: Dialect) -> None:
        jobs, next_job = count(1), time.monotonic() + self.chosen["job_s"]
        while True:
            line = self.wire.line(next_job)
            if line is None:
                next_job = time.monotonic() + self.chosen["job_s"]
                self.say(dialect.job(next(jobs)))
            else:
                message = json.loads(line)
                self.note(message["method"])
                self.say(dialect.answer(message))

    def http(self) -> None:
        while True:
            length = 0
            while (line := self.wire.line(time.monotonic() + HELLO_S)) and line != b"\r":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            message = json.loads(self.wire.exactly(length, time.monotonic() + HELLO_S) or b"{}")
            self.note(message["method"])
            result = {"blocktemplate_blob": "00" * 200, "difficulty": 1, "height": 2, "status": "OK"}
            body = json.dumps({"id": message["id"], "jsonrpc": "2.0", "result": result}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wire.send(head.encode() + body)

    def noise(self) -> None:
        if self.wire.exactly(NOISE_HELLO, time.monotonic() + HELLO_S) is None:
            return
        self.note("handshake")
        self.wire.send(os.urandom(NOISE_ANSWER))
        while True:
            if self.wire.exactly(NOISE_FRAME, time.monotonic() + self.chosen["job_s"]) is None:
                self.wire.send(os.urandom(NOISE_FRAME))
            else:
                self.note("frame")

    def say(self, message: Message) -> None:
        self.wire.say(message, spaced=self.chosen["spaced"])

    def note(self, method: str) -> None:
        with open(self.chosen["tally"], "a", encoding="utf-8") as tally:
            tally.write(method + "\n")


class Pool(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Miner.chosen = json.loads(Path(sys.argv[1]).read_text())
    with Pool((Miner.chosen["address"], Miner.chosen["port"]), Miner) as pool:
        pool.serve_forever()
