"""Mining without a pool: JSON-RPC over HTTP to a node, for block templates and found blocks.

Methods and not paths: `/json_rpc`, `/getheight` and `/getinfo` are what any wallet asks a node.
"""

from __future__ import annotations

from msgspec.structs import replace

from sensor.enrich.protocols import http
from sensor.enrich.protocols.jsonscan import objects, said
from sensor.enrich.protocols.result import Found

_METHODS = frozenset(
    (
        *("getblocktemplate", "get_block_template", "submitblock", "submit_block", "getwork"),
        *("eth_getWork", "eth_submitWork", "eth_submitHashrate"),
    )
)
# In the node's answer: Monero's, and BIP 22 with BIP 9, of which nothing else has both.
_MONERO = b'"blocktemplate_blob"'
_BITCOIN = (b'"previousblockhash"', b'"vbavailable"')


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp:
        return None
    if data[:1] in (b"\r", b"\n"):  # as for `http`
        data = data.lstrip(b"\r\n")
    if data.startswith(b"POST "):
        return _request(data) if b"lock" in data or b"ork" in data or b"\\u" in data or b"eth_" in data else None
    if data.startswith(b"HTTP/1."):
        return _response(data)
    return None


def _request(data: bytes) -> Found | None:
    found = http.dissect(data, False)
    body = _body(data)
    if found is None or body < 0:
        return None
    for call in objects(data, body):
        method = said(call.get("method"))
        if method in _METHODS:
            return replace(found, protocol="getblocktemplate", method=method)
    return None


def _response(data: bytes) -> Found | None:
    if _MONERO not in data and not all(member in data for member in _BITCOIN):
        return None
    body = _body(data)
    if body < 0 or data[body : body + 64].lstrip(b" \t\r\n0123456789abcdefABCDEF")[:1] != b"{":  # perhaps chunked
        return None
    found = http.dissect(data, False)
    return None if found is None else replace(found, protocol="getblocktemplate")


def _body(data: bytes) -> int:
    ends = [at + len(end) for end in (b"\n\r\n", b"\n\n") if (at := data.find(end)) >= 0]
    return min(ends) if ends else -1
