#!/usr/bin/python3 -I
"""A stub miner: the client's side of Stratum v1, and a little hashing so that it has a share to submit.

It takes the arguments that miners take: `-o stratum+tcp://HOST:PORT -u WALLET -p PASSWORD`, or
`-c FILE` with the pool in a JSON file. It ends after one accepted share; it mines nothing.
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


def call(pool: socket.socket, answers: IO[bytes], number: int, method: str, parameters: list[str]) -> Any:
    """Send one request, read up to its answer; what the pool pushes between is ignored."""
    pool.sendall(json.dumps({"id": number, "method": method, "params": parameters}).encode() + b"\n")
    for line in answers:
        message = json.loads(line)
        if message.get("id") == number:
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
    url = chosen.url or json.loads(chosen.config.read_text())["pools"][0]["url"]
    place = urlsplit(url)
    address = (place.hostname or "", place.port or 3333)
    with socket.create_connection(address, TIMEOUT_SECONDS) as pool, pool.makefile("rb") as answers:
        call(pool, answers, 1, "mining.subscribe", ["stub/1.0"])
        call(pool, answers, 2, "mining.authorize", [chosen.user, chosen.password])
        accepted = call(pool, answers, 3, "mining.submit", [chosen.user, "job", share()])
    print("share accepted" if accepted is True else f"share refused: {accepted}", flush=True)
    return 0 if accepted is True else 1


if __name__ == "__main__":
    sys.exit(main())
