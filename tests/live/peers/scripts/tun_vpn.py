"""A VPN of a few lines: IP packets of a tun device in UDP datagrams that look random.

`tun_vpn.py serve|dial ADDRESS PORT KEY OWN-ADDRESS PEER-ADDRESS`, the latter two of the tun device, which `ip` sets up.
The one that dials says hello until it is answered, and every few seconds after that.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
NONCE = 12
MTU = 1300
KEEPALIVE_S = 5.0


def mixed(data: bytes, key: bytes, nonce: bytes) -> bytes:
    """XOR with a stream of the key and nonce: enough to have no fixed bytes on the wire."""
    stream = hashlib.shake_256(key + nonce).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def sealed(packet: bytes, key: bytes) -> bytes:
    nonce = os.urandom(NONCE)
    return nonce + mixed(packet, key, nonce)


def open_tun() -> tuple[int, str]:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    answer = fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"", IFF_TUN | IFF_NO_PI))
    return tun, answer[:16].rstrip(b"\0").decode()


def set_up(name: str, own: str, peer: str) -> None:
    subprocess.run(["ip", "address", "add", own, "peer", peer, "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up", "mtu", str(MTU)], check=True)


def carry(tun: int, carrier: socket.socket, key: bytes, peer: tuple[str, int] | None) -> None:
    dials = peer is not None
    while True:
        readable = select.select([tun, carrier.fileno()], [], [], KEEPALIVE_S)[0]
        if dials and not readable and peer:
            carrier.sendto(sealed(b"", key), peer)
        if carrier.fileno() in readable:
            datagram, peer = carrier.recvfrom(65535)
            packet = mixed(datagram[NONCE:], key, datagram[:NONCE])
            if packet:
                os.write(tun, packet)
            elif not dials:
                carrier.sendto(sealed(b"", key), peer)
                print("up", flush=True)
            else:
                print("up", flush=True)
        if tun in readable:
            packet = os.read(tun, 65535)
            if peer:
                carrier.sendto(sealed(packet, key), peer)


def main() -> None:
    mode, address, port, key, own, peer = sys.argv[1:]
    tun, name = open_tun()
    set_up(name, own, peer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as carrier:
        if mode == "serve":
            carrier.bind((address, int(port)))
            carry(tun, carrier, key.encode(), None)
        else:
            carrier.sendto(sealed(b"", key.encode()), (address, int(port)))
            carry(tun, carrier, key.encode(), (address, int(port)))


if __name__ == "__main__":
    main()
