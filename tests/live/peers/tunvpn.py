"""A VPN of our own over UDP, of which nothing is known but that it has a tun device."""

from __future__ import annotations

import secrets

from tests.live.peers.network import SERVER
from tests.live.peers.programs import until
from tests.live.peers.tunnel import SCRIPTS, Stage, Tunnel

SERVER_INNER, CLIENT_INNER = "10.96.0.1", "10.96.0.2"


def tun_vpn(stage: Stage) -> Tunnel:
    carrier, inner = (SERVER, str(stage.port), secrets.token_hex(16)), (SERVER_INNER, CLIENT_INNER)
    server = stage.outside("/usr/bin/python3", "-I", "-S", str(SCRIPTS / "tun_vpn.py"), "serve", *carrier, *inner)
    stage.network.listens(stage.network.outside, stage.port, server, protocol="udp")
    client = stage.inside(*stage.python("tun_vpn.py"), "dial", *carrier, *reversed(inner))
    until(lambda: "up" in client.said(), "the tunnel", (server, client))
    return stage.tunnel(client, entry=(CLIENT_INNER, stage.service))
