"""A stub name server: `dns_server.py ADDRESS ZONE-FILE`.

The file is JSON: {"names": {name: [address, …]}, "delegated": {suffix: [address, port]}}. Queries below a delegated
suffix are passed on as a recursive resolver would; any other name that is not there does not exist (RFC 1035).
"""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
import threading
from pathlib import Path

A, AAAA = 1, 28
TTL_S = 60
NXDOMAIN, RECURSIVE_ANSWER = 3, 0x8180
UPSTREAM_S = 10.0


def question(query: bytes) -> tuple[str, int, int]:
    """The first one's name in lower case, its type, and where it ends."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    return ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big"), at + 5


def answer(query: bytes, names: dict[str, list[str]]) -> bytes:
    name, kind, end = question(query)
    addresses = [ipaddress.ip_address(address) for address in names.get(name, ())]
    found = [address.packed for address in addresses if kind == (A if address.version == 4 else AAAA)]
    flags = RECURSIVE_ANSWER | (0 if name in names else NXDOMAIN)
    counts = (1, len(found), 0, 0)
    # 0xc00c points at the question's name.
    records = [
        b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\x01" + TTL_S.to_bytes(4, "big")
        + len(packed).to_bytes(2, "big") + packed
        for packed in found
    ]  # fmt: skip
    head = query[:2] + flags.to_bytes(2, "big") + b"".join(count.to_bytes(2, "big") for count in counts)
    return head + query[12:end] + b"".join(records)


def pass_on(query: bytes, upstream: tuple[str, int], server: socket.socket, client: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.settimeout(UPSTREAM_S)
        ours.connect(upstream)
        ours.send(query)
        try:
            server.sendto(ours.recv(65535), client)
        except OSError:  # no answer in time: the client asks again
            return


def main() -> None:
    zone = json.loads(Path(sys.argv[2]).read_text())
    delegated = {suffix: (address, port) for suffix, (address, port) in zone.get("delegated", {}).items()}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((sys.argv[1], 53))
        while True:
            query, client = server.recvfrom(65535)
            try:
                name = question(query)[0]
            except IndexError:
                continue
            upstream = next((to for suffix, to in delegated.items() if name.endswith(suffix)), None)
            if upstream is None:
                server.sendto(answer(query, zone.get("names", {})), client)
            else:
                threading.Thread(target=pass_on, args=(query, upstream, server, client), daemon=True).start()


if __name__ == "__main__":
    main()
