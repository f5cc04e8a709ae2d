"""Egress lists by address, and a client that tries what it is told to."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.live.peers.network import ALLOWED, OTHER, SANDBOX, SERVER, Network
from tests.live.running import Sandbox

ALLOWED6, OTHER6 = "2001:db8::30", "2001:db8::20"
LISTED, UNLISTED = "198.51.100.5", "198.51.100.200"
TCP, UDP, ICMP, GRE, RAW = 6, 17, 1, 47, 255
LIVING = "      - {{to: 203.0.113.10, ports: [7999]}}\n"
LIST = (
    """
    egress:
      default: deny
      allow:
      - {{to: 203.0.113.30, ports: ["8000-8010"], protocol: tcp}}
      - {{to: 203.0.113.30, ports: [9000], protocol: udp}}
      - {{to: 203.0.113.20, protocol: icmp}}
      - {{to: 198.51.100.0/25, ports: ["7000-7009"]}}
      - {{to: "2001:db8::30"}}
"""
    + LIVING
)
SETTINGS = (
    """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
flows: {{full_per_peer: 65536, idle_seconds: 3600}}
sandboxes:
  - {{path: "{instance}/walled-*", class: walled}}
  - {{path: "{instance}/sealed-*", class: sealed}}
  - {{path: "{instance}/told-*", class: told}}
classes:
  sealed: {{mode: enforce, egress: {{default: deny, loopback: deny}}}}
  told:
    mode: monitor"""
    + LIST
    + """
  walled:
    mode: enforce"""
    + LIST
)
PYTHON = ("/usr/bin/python3", "-I", "-S")

# [kind, address, port] each, of a ping whether an answer is waited for; what became of it, "ok" or the errno.
CLIENT = """
import errno, json, socket, struct, sys
PAYLOAD = b"\\x08\\0\\0\\0\\0\\1\\0\\1" + b"pinfold"  # with its checksum to come: an echo request, and anything else
def checked(data):
    total = sum(struct.unpack("!%dH" % ((len(data) + 1) // 2), data + b"\\0" * (len(data) % 2)))
    total = (total & 0xffff) + (total >> 16)
    return data[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + data[4:]
def attempt(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    six = family == socket.AF_INET6
    if kind == "tcp":
        with socket.socket(family) as s:
            s.settimeout(20)
            s.connect((address, port))
    elif kind in ("udp", "udplite", "mptcp"):
        protocol = {"udp": 0, "udplite": 136, "mptcp": 262}[kind]
        with socket.socket(family, socket.SOCK_STREAM if kind == "mptcp" else socket.SOCK_DGRAM, protocol) as s:
            s.connect((address, port)) if kind == "mptcp" else s.sendto(PAYLOAD, (address, port))
    elif kind == "connected":
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((address, port))
            s.send(PAYLOAD)
    elif kind == "ping":
        with socket.socket(family, socket.SOCK_DGRAM, 58 if six else 1) as s:
            s.settimeout(20)
            s.sendto((b"\\x80" if six else b"\\x08") + PAYLOAD[1:], (address, 0))
            if port:
                s.recv(64)
    elif kind == "echo":
        with socket.socket(family, socket.SOCK_RAW, 58 if six else 1) as s:
            s.sendto(b"\\x80" + PAYLOAD[1:] if six else checked(PAYLOAD), (address, 0))
    elif kind == "made":  # every header by hand: UDP within
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
            udp = struct.pack("!HHHH", 4000, port, 8 + len(PAYLOAD), 0) + PAYLOAD
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                               socket.inet_aton("203.0.113.2"), socket.inet_aton(address))
            s.sendto(head + udp, (address, 0))
    else:
        with socket.socket(family, socket.SOCK_RAW, int(kind)) as s:
            s.sendto(PAYLOAD, (address, 0))
told = []
for each in json.loads(sys.argv[1]):
    try:
        attempt(*each)
        told.append("ok")
    except OSError as error:
        told.append(errno.errorcode.get(error.errno, "timeout"))
print(json.dumps(told))
"""
Attempt = tuple[str, str, int]


def attempt(network: Network, box: Sandbox, attempts: Sequence[Attempt]) -> list[str]:
    client = network.start_inside(box, [*PYTHON, "-c", CLIENT, json.dumps(attempts)])
    found: list[str] = json.loads(client.finish())
    return found


ALLOWED_ATTEMPTS: tuple[Attempt, ...] = (
    ("tcp", ALLOWED, 8000),
    ("tcp", ALLOWED, 8010),
    ("tcp", f"::ffff:{ALLOWED}", 8000),
    ("tcp", LISTED, 7000),
    ("tcp", ALLOWED6, 8011),
    ("udp", ALLOWED, 9000),
    ("connected", ALLOWED, 9000),
    ("udp", LISTED, 7009),
    ("udp", ALLOWED6, 4000),
)
DENIED_ATTEMPTS: tuple[Attempt, ...] = (
    ("tcp", ALLOWED, 8011),
    ("tcp", SERVER, 8000),
    ("tcp", f"::ffff:{SERVER}", 8000),
    ("tcp", LISTED, 7010),
    ("tcp", UNLISTED, 7000),
    ("tcp", OTHER6, 8000),
    ("tcp", OTHER, 8000),
    ("tcp", SANDBOX, 8000),
    ("udp", ALLOWED, 9001),
    ("udp", ALLOWED, 8000),
    ("udp", SERVER, 9000),
    ("udp", f"::ffff:{SERVER}", 9000),
    ("connected", SERVER, 9000),
    ("connected", OTHER6, 9000),
)


def four(address: str) -> str:
    return address.removeprefix("::ffff:")
