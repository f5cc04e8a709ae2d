"""Tunnels that name themselves in the subprotocol of a WebSocket: chisel, wstunnel, Microsoft's dev tunnels.

chisel: `chisel-v3`, SSH inside. wstunnel: the token of its authorization as a subprotocol, which holds
where to go. Dev tunnels (`code tunnel`): `tunnel-relay-host` and `tunnel-relay-host-v2-dev`, SSH inside.
"""

from __future__ import annotations

from msgspec.structs import replace

from sensor.enrich.protocols import http
from sensor.enrich.protocols.result import Found

_TUNNELS = (
    ("chisel-v", "chisel"),
    ("authorization.bearer.", "wstunnel"),
    ("tunnel-relay-host", "devtunnels"),
    ("tunnel-relay-client", "devtunnels"),
)


def dissect(data: bytes, udp: bool) -> Found | None:
    if b"ec-websocket-protocol:" not in data and b"ec-websocket-protocol:" not in data.lower():
        return None
    found = http.dissect(data, udp)
    return None if found is None else named(found)


def named(found: Found) -> Found | None:
    """The tunnel that an HTTP upgrade tells of, None for any other WebSocket."""
    if not found.subprotocol:
        return None
    for item in found.subprotocol.lower().split(", "):
        for start, protocol in _TUNNELS:
            if item.startswith(start):
                version = item[len(start) :] if protocol == "chisel" else ""
                return replace(found, protocol=protocol, software=item, version=version)
    return None
