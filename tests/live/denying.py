"""What is said in denied protocols and in harmless ones, and a client that says it in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.live.names import unique
from tests.live.peers.network import Network
from tests.live.peers.programs import Program
from tests.live.running import Sandbox

PYTHON = ("/usr/bin/python3", "-I", "-S")
PAUSE_S = "0.003"  # between two writes, so that each is a segment of its own
BATCH = 60  # connections at a time

SETTINGS = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
flows: {{full_per_peer: 65536, idle_seconds: 3600}}
sandboxes:
  - {{path: "{instance}/all-*", class: all}}
  - {{path: "{instance}/pools-*", class: pools}}
  - {{path: "{instance}/told-*", class: told}}
classes:
  all: {{mode: enforce, denied_protocols: [ssh, stratum, socks, wireguard, bore, http-connect]}}
  pools: {{mode: enforce, denied_protocols: [stratum]}}
  told: {{mode: monitor, denied_protocols: [ssh, stratum, socks, wireguard, bore, http-connect]}}
"""
CUT = {"ECONNABORTED", "ECONNRESET", "EPIPE"}

# Batches of messages, each message in pieces: what the end of each is for who wrote it.
CLIENT = """
import errno, json, socket, sys, time
address, port, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
told = []
for batch in json.load(open(sys.argv[4])):
    ends = [[socket.create_connection((address, port)), "", b""] for _ in batch]
    for end, _, _ in ends:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for step in range(max(map(len, batch))):
        for entry, pieces in zip(ends, batch):
            if step < len(pieces) and not entry[1]:
                try:
                    entry[0].sendall(bytes.fromhex(pieces[step]))
                except OSError as error:
                    entry[1] = errno.errorcode[error.errno]
        time.sleep(pause)
    for entry in ends:
        source = entry[0].getsockname()[1]
        entry[0].settimeout(20)
        try:
            entry[2] = entry[0].recv(64)
        except OSError as error:
            entry[1] = entry[1] or errno.errorcode.get(error.errno, "timeout")
        told.append([source, entry[1], entry[2].decode()])
    for end, _, _ in ends:
        end.close()
print(json.dumps(told))
"""


class Message(NamedTuple):
    protocol: str  # as network_protocol tells it
    prefix: bytes  # with its last byte the protocol is certain
    rest: bytes

    @property
    def whole(self) -> bytes:
        return self.prefix + self.rest


MESSAGES = {
    "ssh": [Message("ssh", b"SSH-", b"2.0-OpenSSH_9.2p1 Debian-2\r\n")],
    "bore": [Message("bore", b'{"Hello"', b":0}\0")],
    "http-connect": [Message("http", b"CONNECT ", b"relay.test:443 HTTP/1.1\r\nHost: relay.test\r\n\r\n")],
    "socks": [
        Message("socks", b"\5\1\0", b""),
        Message("socks", b"\5\3\0\1\2", b""),
        Message("socks", b"\4\1\0\x50\xcb\0\x71\x0au", b"ser\0"),
    ],
    "bitcoin": [
        Message("stratum", b'{"id":1,"method":"mining.', b'subscribe","params":["worker/1.0"]}\n'),
        Message("stratum", b'\n {"params": [], "id": 1, "method": "mining.', b'subscribe"}\n'),
    ],
    "ethereum": [
        Message("stratum", b'{"worker":"rig","jsonrpc":"2.0","method":"eth_submit', b'Login","id":1}\n'),
        Message("stratum", b'{"id":1,"params":["rig/1.0","EthereumStratum/', b'1.0.0"],"method":"mining.subscribe"}\n'),
    ],
    "monero": [
        Message("stratum", b'{"id":1,"jsonrpc":"2.0","method":"login"', b',"params":{"login":"4A","pass":"x"}}\n'),
        Message("stratum", b'{"params":{"login"', b':"4A","pass":"x"},"method":"login","id":1}\n'),
    ],
}  # fmt: skip
HARMLESS = [
    b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: SSH-2.0\r\n\r\n",
    b"POST /login HTTP/1.1\r\nContent-Length: 44\r\n\r\n" + b'{"id":1,"method":"mining.subscribe"}' + b" " * 8,
    b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(range(256)) * 2,
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"mine","arguments":{"log":"in"}}}\n',
    b'{"Hell":"o","SSH-":"2.0","CONNECT ":1}\n',
    b"SSH 2.0 is a protocol\r\n",
    b"CONNECTED 1.2\n",
    b"\5\0\0\1",
    b"\4\3\0\x50\xcb\0\x71\x0au",
    b"S",
    b"{",
]


def start(network: Network, box: Sandbox, to: tuple[str, int], messages: Sequence[Sequence[bytes]]) -> Program:
    """A client in the sandbox that says these, each in its pieces."""
    batches = [messages[at : at + BATCH] for at in range(0, len(messages), BATCH)]
    said = network.folder / f"said-{unique()}"
    said.write_text(json.dumps([[[piece.hex() for piece in one] for one in batch] for batch in batches]))
    return network.start_inside(box, [*PYTHON, "-c", CLIENT, to[0], str(to[1]), PAUSE_S, str(said)])


def say(network: Network, box: Sandbox, to: tuple[str, int], messages: Sequence[Sequence[bytes]]) -> list[Any]:
    """Of each, in their order: source port, error, what was answered."""
    found: list[Any] = json.loads(start(network, box, to, messages).finish(240.0))
    assert len(found) == len(messages)
    return found
