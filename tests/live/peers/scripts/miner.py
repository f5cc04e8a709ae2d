"""A stub miner, which mines nothing: `miner.py SETTINGS`, a JSON file, so that the command line tells no rule anything.

{"address", "port", "dialect", "tls", "split", "spaced", "keepalive_s", "burn"}; "burn" has it use one CPU. It goes on
until it is ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import sys
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

from tests.live.peers.scripts.dialects import DIALECTS, WALLET, Dialect
from tests.live.peers.scripts.wire import Wire

HTTP_WAIT_S = 10.0
NOISE_HELLO, NOISE_ANSWER, NOISE_HEADER, NOISE_PAYLOAD = 64, 170, 22, 120


def burn() -> None:
    """hashlib lets other threads run while it hashes much."""
    data = bytes(1 << 20)
    while True:
        hashlib.sha256(data).digest()


def lines(wire: Wire, dialect: Dialect, keepalive_s: float, spaced: bool) -> None:
    for message in dialect.hello:
        wire.say(message, spaced=spaced)
    shares = count()
    alive = time.monotonic() + keepalive_s
    while True:
        line = wire.line(alive)
        if line is None:
            alive = time.monotonic() + keepalive_s
            if dialect.alive:
                wire.say(dialect.alive, spaced=spaced)
        elif dialect.is_job(json.loads(line)):
            wire.say(dialect.share(next(shares)), spaced=spaced)


def http(wire: Wire, keepalive_s: float) -> None:
    """Solo: it asks the node for a block's template, again and again, and now and then has a block."""
    for number in count(1):
        method, params = "getblocktemplate", {"wallet_address": WALLET, "reserve_size": 60}
        if number % 2 == 0:
            method, params = "submitblock", {"block": "00" * 100}
        body = json.dumps({"jsonrpc": "2.0", "id": str(number), "method": method, "params": params}).encode()
        head = f"POST /json_rpc HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n\r\n"
        wire.send(head.encode() + body)
        while (line := wire.line(time.monotonic() + HTTP_WAIT_S)) and line != b"\r":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        wire.exactly(length, time.monotonic() + HTTP_WAIT_S)
        time.sleep(keepalive_s)


def noise(wire: Wire, keepalive_s: float) -> None:
    """The sizes of Stratum v2's Noise handshake, with random bytes: ElligatorSwift's keys look no different."""
    wire.send(os.urandom(NOISE_HELLO))
    wire.exactly(NOISE_ANSWER, time.monotonic() + HTTP_WAIT_S)
    while True:
        wire.send(os.urandom(NOISE_HEADER + NOISE_PAYLOAD))
        wire.exactly(NOISE_HEADER + NOISE_PAYLOAD, time.monotonic() + keepalive_s)


def main() -> None:
    chosen: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    if chosen["burn"]:
        threading.Thread(target=burn, daemon=True).start()
    connection = socket.create_connection((chosen["address"], chosen["port"]))
    if chosen["tls"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    wire = Wire(connection, chosen["split"])
    if chosen["dialect"] == "getblocktemplate":
        http(wire, chosen["keepalive_s"])
    elif chosen["dialect"] == "stratum2":
        noise(wire, chosen["keepalive_s"])
    else:
        lines(wire, DIALECTS[chosen["dialect"]], chosen["keepalive_s"], chosen["spaced"])


if __name__ == "__main__":
    main()
