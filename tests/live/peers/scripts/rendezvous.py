"""Ranks that find each other as torch.distributed's do: `rendezvous.py ADDRESS PORT`.

The first rank has a store of keys on ADDRESS:PORT, the sandbox's own address. Each rank leaves there where it listens,
waits for the others, connects to each of them, and exchanges sums round after round. Prints the sum.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import socketserver
import sys
import threading
from functools import partial

RANKS, ROUNDS, BYTES = 4, 5, 64 << 10
ARRIVE_S = 10.0


class Store(socketserver.StreamRequestHandler):
    """One line a request: ["set", key, value], or ["get", key], which waits for it."""

    def handle(self) -> None:
        assert isinstance(self.server, Server)
        for line in self.rfile:
            what, key, *value = json.loads(line)
            with self.server.changed:
                if what == "set":
                    self.server.values[key] = value[0]
                    self.server.changed.notify_all()
                self.server.changed.wait_for(partial(self.server.values.__contains__, key), ARRIVE_S)
                answer = self.server.values[key]
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = RANKS

    def __init__(self, place: tuple[str, int]) -> None:
        super().__init__(place, Store)
        self.values: dict[str, int] = {}
        self.changed = threading.Condition()


def exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += connection.recv(length - len(data))
    return data


def exchange(connection: socket.socket, rank: int) -> int:
    """The other's rank, out of the bytes that it sends; both send at once."""
    sender = threading.Thread(target=connection.sendall, args=(bytes([rank]) * BYTES,))
    sender.start()
    data = exactly(connection, BYTES)
    sender.join()
    return data[0]


def work(rank: int, address: str, port: int, sums: multiprocessing.Queue[int]) -> None:
    with socket.create_connection((address, port)) as connection, connection.makefile("rb") as answers:

        def call(*request: object) -> int:
            connection.sendall(json.dumps(request).encode() + b"\n")
            return int(json.loads(next(answers)))

        own = socket.create_server((address, 0), backlog=RANKS)
        call("set", f"rank{rank}", own.getsockname()[1])
        peers = [socket.create_connection((address, call("get", f"rank{other}"))) for other in range(rank)]
        peers += [own.accept()[0] for _ in range(RANKS - 1 - rank)]
        total = sum(exchange(peer, rank) for _ in range(ROUNDS) for peer in peers)
        call("set", f"done{rank}", 1)
        for other in range(RANKS):
            call("get", f"done{other}")
    sums.put(total + ROUNDS * rank)


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    sums: multiprocessing.Queue[int] = multiprocessing.Queue()
    with Server((address, port)) as server:
        ranks = [multiprocessing.Process(target=work, args=(rank, address, port, sums)) for rank in range(RANKS)]
        for process in ranks:
            process.start()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = {sums.get(timeout=ARRIVE_S) for _ in ranks}
        for process in ranks:
            process.join()
        server.shutdown()
    print(*found)


if __name__ == "__main__":
    main()
