"""WireGuard in user space at both ends, since not every kernel has the module."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from tests.live.names import unique
from tests.live.peers.network import SERVER
from tests.live.peers.programs import find, until
from tests.live.peers.tunnel import Stage, Tunnel, output_of

SERVER_INNER, CLIENT_INNER = "10.97.0.1", "10.97.0.2"
SOCKETS = Path("/run/wireguard")  # one folder for all namespaces, hence the names of the devices


def wireguard_go(stage: Stage) -> Tunnel:
    network, wg = stage.network, find("wg")
    device, peer_device = (f"wg{unique()}" for _ in range(2))
    private, public = keys(stage, device)
    peer_private, peer_public = keys(stage, peer_device)
    for name in (device, peer_device):
        stage.finally_do(partial((SOCKETS / f"{name}.sock").unlink, missing_ok=True))
    quiet = {"LOG_LEVEL": "error"}
    ends = (
        stage.outside(find("wireguard-go"), "-f", peer_device, env=quiet),
        stage.inside(stage.program("wireguard-go"), "-f", device, env=quiet),
    )
    for name, end in zip((peer_device, device), ends, strict=True):
        until((SOCKETS / f"{name}.sock").exists, f"the device {name}", (end,))
    stage.outside(
        wg, "set", peer_device, "listen-port", str(stage.port), "private-key", str(peer_private),
        "peer", public, "allowed-ips", f"{CLIENT_INNER}/32",
    ).finish()  # fmt: skip
    network.outside.ip(f"address add {SERVER_INNER}/24 dev {peer_device}\nlink set {peer_device} up")
    stage.inside(
        stage.program("wg"), "set", device, "private-key", str(private),
        "peer", peer_public, "endpoint", f"{SERVER}:{stage.port}", "allowed-ips", f"{SERVER_INNER}/32",
        "persistent-keepalive", "25",
    ).finish()  # fmt: skip
    ip = find("ip")
    stage.inside(ip, "address", "add", f"{CLIENT_INNER}/24", "dev", device).finish()
    stage.inside(ip, "link", "set", device, "up").finish()
    return stage.tunnel(ends[1], entry=(CLIENT_INNER, stage.service))


def keys(stage: Stage, name: str) -> tuple[Path, str]:
    """The private key's file, and the public key."""
    private = stage.folder / f"{name}.key"
    private.write_text(output_of(find("wg"), "genkey"))
    with private.open("rb") as file:
        public = subprocess.run([find("wg"), "pubkey"], stdin=file, check=True, capture_output=True, text=True)
    return private, public.stdout.strip()
