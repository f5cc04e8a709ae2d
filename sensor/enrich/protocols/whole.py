"""Whether more bytes would say more of a protocol that was recognised already."""

from __future__ import annotations

from sensor.enrich.protocols.result import Found

BODY = 128  # bytes that name a JSON-RPC call
ENOUGH = 1024  # PF_FIRST_BYTES in probes/packet.bpf.c: no more will come
_LINES = frozenset({"ssh", "stratum", "bore"})
_HEADS = frozenset({"http", "chisel", "wstunnel", "devtunnels", "getblocktemplate"})


def is_whole(found: Found, data: bytes) -> bool:
    if found.protocol == "tls":
        return found.kind != "client_hello" or bool(found.ja4) or len(data) >= ENOUGH * 4
    if len(data) >= ENOUGH:
        return True
    if found.protocol in _LINES:
        return b"\n" in data or b"\0" in data
    if found.protocol in _HEADS:
        head, _, body = data.partition(b"\r\n\r\n" if b"\r\n\r\n" in data else b"\n\n")
        # What a POST asks for stands in its body: calls to a mining node look like any other until then.
        return len(head) < len(data) and (found.method != "POST" or found.protocol != "http" or len(body) >= BODY)
    return True
