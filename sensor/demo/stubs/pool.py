"""A stub mining pool: the server's side of Stratum v1, enough for one stub miner.

`pool.py ADDRESS PORT TALLY`. Accepts every share, pays nobody. TALLY gets one JSON line for each
message: {"method": …, "text": …, "time_ns": CLOCK_MONOTONIC}; what came of a line without its end is of the
method `unfinished`. Input is bounded in lines and bytes.
"""

from __future__ import annotations

import json
import socketserver
import sys
import time
from typing import IO, Any, ClassVar

LINE_BYTES = 4096
LINES = 1000


class Miner(socketserver.StreamRequestHandler):
    tally: ClassVar[IO[str]]

    def handle(self) -> None:
        self.note("connected")
        for _ in range(LINES):
            line = self.line()
            if not line.endswith(b"\n"):
                if line:
                    self.note("unfinished", line)
                return
            try:
                message = json.loads(line)
                method, number = str(message["method"]), int(message["id"])
            except (ValueError, KeyError, TypeError):
                self.note("malformed", line)
                return
            self.note(method, line)
            self.answer(method, number)

    def line(self) -> bytes:
        """Byte by byte: a buffered reader forgets what it has had of a line when the connection is reset."""
        line = b""
        try:
            while len(line) < LINE_BYTES and not line.endswith(b"\n"):
                if not (byte := self.request.recv(1)):
                    break
                line += byte
        except ConnectionError:
            pass  # what came before it is what counts
        return line

    def answer(self, method: str, number: int) -> None:
        if method == "mining.subscribe":
            self.send({"id": number, "result": [[["mining.notify", "1"]], "00", 4], "error": None})
            self.send({"id": None, "method": "mining.set_difficulty", "params": [1]})
            job = ["job", "00" * 32, "", "", [], "", "", "", True]
            self.send({"id": None, "method": "mining.notify", "params": job})
        else:
            self.send({"id": number, "result": True, "error": None})

    def send(self, message: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(message).encode() + b"\n")

    def note(self, method: str, line: bytes = b"") -> None:
        said = {"method": method[:64], "text": line.decode(errors="replace"), "time_ns": time.monotonic_ns()}
        self.tally.write(json.dumps(said) + "\n")
        self.tally.flush()


class Pool(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    address, port, tally = sys.argv[1:]
    with open(tally, "a", encoding="utf-8") as file, Pool((address, int(port)), Miner) as pool:
        Miner.tally = file
        pool.serve_forever()


if __name__ == "__main__":
    main()
