"""The resolver that the sandboxes' resolv.conf names: a stub of our own, outside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tests.live.peers.network import RESOLVER, Network
from tests.live.peers.programs import Program
from tests.live.peers.tunnel import SCRIPTS


def start_resolver(
    network: Network, names: Mapping[str, Sequence[str]], delegated: Mapping[str, tuple[str, int]] | None = None
) -> Program:
    """Ready when this returns. `delegated`: by suffix, where queries below it are passed on to."""
    zone = network.folder / "zone.json"
    zone.write_text(json.dumps({"names": dict(names), "delegated": dict(delegated or {})}))
    program = network.start_outside(
        ["/usr/bin/python3", "-I", "-S", str(SCRIPTS / "dns_server.py"), RESOLVER, str(zone)]
    )
    network.listens(network.outside, 53, program, protocol="udp")
    return program
