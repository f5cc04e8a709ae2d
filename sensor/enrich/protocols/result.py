"""What a dissector says of the first bytes of one direction of a flow."""

from __future__ import annotations

from msgspec import Struct

TEXT_MAX = 256  # characters of any member: the rest of a banner, path or name says nothing more


class Found(Struct, frozen=True, gc=False):
    """One protocol, recognised. Text is printable, at most TEXT_MAX characters; "" is "not said"."""

    # ssh, tls, quic, http, socks, dns, stratum, getblocktemplate, stratum2, wireguard, openvpn, frp, bore, chisel,
    # wstunnel, devtunnels, yamux, shell
    protocol: str
    role: str  # whose bytes these are by the protocol itself: client, server, "" where it does not tell
    # The message: banner, client_hello, server_hello, request, response, greeting, handshake, keepalive, login,
    # notify, prompt, …
    kind: str = ""
    version: str = ""
    software: str = ""  # SSH software, User-Agent, Server, miner's agent
    server_name: str = ""  # SNI, Host, the first DNS question
    alpn: str = ""  # joined by commas, in the order offered
    ja4: str = ""
    method: str = ""  # HTTP or Stratum method, SOCKS command, DNS record type
    path: str = ""  # without the query string: it may hold secrets
    upgrade: str = ""  # HTTP Upgrade, lower case
    subprotocol: str = ""  # Sec-WebSocket-Protocol; a bearer token in it is cut
    # Stratum: bitcoin, ethereum-stratum, eth-proxy, monero, named-params; TLS: tor-like
    dialect: str = ""
    user: str = ""  # Stratum login: wallet or worker. Never a password
    target: str = ""  # where a proxy or tunnel is asked to go: "host:port"
    certain: bool = True  # False: a shape that other protocols may have, such as random-looking bytes of one length
