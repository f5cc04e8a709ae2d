"""ssh -R by paramiko: `paramiko_forward.py HOST PORT USER KEY ENTRY-HOST ENTRY-PORT TARGET-PORT`."""

from __future__ import annotations

import contextlib
import select
import socket
import sys

import paramiko  # type: ignore[import-untyped]


def relay(channel: paramiko.Channel, target_port: int) -> None:
    with contextlib.closing(channel), socket.create_connection(("127.0.0.1", target_port)) as target:
        ways = {channel: target, target: channel}
        while True:
            for source in select.select([channel, target], [], [])[0]:
                data = source.recv(32768)
                if not data:
                    return
                ways[source].sendall(data)


def main() -> None:
    host, port, user, key, entry_host, entry_port, target_port = sys.argv[1:]
    transport = paramiko.Transport((host, int(port)))
    transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))
    transport.request_port_forward(entry_host, int(entry_port))
    # Before this paramiko refuses what comes by it, though sshd listens already.
    print("forwarding", flush=True)
    while transport.is_active():
        channel = transport.accept(1)
        if channel is not None:
            relay(channel, int(target_port))


if __name__ == "__main__":
    main()
