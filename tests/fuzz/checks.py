"""What must hold of every answer of every dissector."""

from __future__ import annotations

from sensor.enrich.protocols.result import Found
from tests.enrich.protocols.checks import sound

PROTOCOLS = (
    *("ssh", "tls", "quic", "http", "socks", "dns", "stratum", "getblocktemplate", "stratum2", "wireguard"),
    *("openvpn", "frp", "bore", "chisel", "wstunnel", "devtunnels", "yamux", "shell"),
)


def checked(found: Found | None) -> Found | None:
    """The answer itself, if it is a good one: typed, of a known protocol, bounded, and fit for a terminal."""
    sound(found, *PROTOCOLS)
    return found
