#!/usr/bin/python3 -I
"""A stub miner: the client's side of Stratum v1, and a little hashing so that it has a share to submit.

It takes the arguments that miners take: `-o stratum+tcp://HOST:PORT -u WALLET -p PASSWORD`, or
`-c FILE` with the pool in a JSON file, and how many bytes it may send at a time ("piece"). It ends
after one accepted share, or where its connection does; it mines nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import sys
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

ROUNDS = 600_000  # half a second, as an easy share would take
TIMEOUT_SECONDS = 10.0


class Session:
    """Requests and their answers over one connection. `piece`: bytes sent at a time, each piece a segment; 0: all."""

    def __init__(self, pool: socket.socket, answers: IO[bytes], piece: int) -> None:
        self._pool, self._answers, self._piece = pool, answers, piece
        self._number = 0
        pool.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, method: str, parameters: list[str]) -> Any:
        """Send one request, read up to its answer; what the pool pushes between is ignored."""
        self._number += 1
        said = json.dumps({"id": self._number, "method": method, "params": parameters}).encode() + b"\n"
        piece = self._piece or len(said)
        for at in range(0, len(said), piece):
            self._pool.sendall(said[at : at + piece])
        for line in self._answers:
            message = json.loads(line)
            if message.get("id") == self._number:
                return message["result"]
        raise ConnectionError("the pool hung up")


def share() -> str:
    digest = b"pinfold demo"
    for _ in range(ROUNDS):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--url", default="")
    parser.add_argument("-u", "--user", default="wallet")
    parser.add_argument("-p", "--pass", dest="password", default="x")
    parser.add_argument("-c", "--config", type=Path)
    chosen = parser.parse_args()
    settings: dict[str, Any] = (
        json.loads(chosen.config.read_text()) if chosen.config else {"pools": [{"url": chosen.url}]}
    )
    place = urlsplit(settings["pools"][0]["url"])
    address = (place.hostname or "", place.port or 3333)
    try:
        with socket.create_connection(address, TIMEOUT_SECONDS) as pool, pool.makefile("rb") as answers:
            session = Session(pool, answers, settings.get("piece", 0))
            session.call("mining.subscribe", ["stub/1.0"])
            session.call("mining.authorize", [chosen.user, chosen.password])
            accepted = session.call("mining.submit", [chosen.user, "job", share()])
    except OSError as error:
        print(f"no share: {error}", flush=True)
        return 1
    print("share accepted" if accepted is True else f"share refused: {accepted}", flush=True)
    return 0 if accepted is True else 1


if __name__ == "__main__":
    sys.exit(main())
