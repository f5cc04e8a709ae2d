"""iodine: IP over DNS queries to the sandbox's own resolver, which passes them on to iodined."""

from __future__ import annotations

from tests.live.peers.network import RESOLVER, SERVER
from tests.live.peers.programs import find, until
from tests.live.peers.resolver import start_resolver
from tests.live.peers.tunnel import Stage, Tunnel

DOMAIN = "t.tunnel.test"
SERVER_INNER, CLIENT_INNER = "10.53.0.1", "10.53.0.2"


def iodine(stage: Stage) -> Tunnel:
    network = stage.network
    server = stage.outside(find("iodined"), "-f", "-c", "-P", "secret", "-l", SERVER, f"{SERVER_INNER}/27", DOMAIN)
    network.listens(network.outside, 53, server, protocol="udp")
    stage.finally_do(start_resolver(network, {}, {DOMAIN: (SERVER, 53)}).stop)
    # -r: not by plain UDP to the server, where it can reach it.
    client = stage.inside(stage.program("iodine"), "-f", "-r", "-P", "secret", RESOLVER, DOMAIN)
    until(lambda: "Connection setup complete" in client.said(), "the tunnel", (server, client))
    return stage.tunnel(client, entry=(CLIENT_INNER, stage.service), peer=(RESOLVER, 53))
