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
_CHUNK = b" \t\r\n0123456789abcdefABCDEF"  # of a body in chunks: its size
_STARTS = frozenset(bytes((byte,)) for byte in b"{[," + _CHUNK)  # of objects, perhaps in a batch
_OBJECT = ord("{")
_BITCOIN = (b'"previousblockhash"', b'"vbavailable"')


def dissect(data: bytes, udp: bool) -> Found | None:
    if udp:
        return None
    found, body = http.read(data)
    return None if found is None else carried(found, data, body)


def carried(found: Found, data: bytes, body: int) -> Found | None:
    """The same for what is known to be HTTP: None if it carries no work. `body`: where that starts, -1 if nowhere."""
    if data[body : body + 1] not in _STARTS or body < 0:
        return None
    if found.method == "POST":
        return _asked(found, data, body)
    return _answered(found, data, body) if found.kind == "response" else None


def _asked(found: Found, data: bytes, body: int) -> Found | None:
    # Members and names may be escaped.
    if not (b"\\u" in data or (b'"method"' in data and (b"lock" in data or b"ork" in data or b"eth_" in data))):
        return None
    for call in objects(data, body):
        method = said(call.get("method"))
        if method in _METHODS:
            return replace(found, protocol="getblocktemplate", method=method)
    return None


def _answered(found: Found, data: bytes, body: int) -> Found | None:
    if data[body] != _OBJECT and data[body : body + 64].lstrip(_CHUNK)[:1] != b"{":
        return None
    if _MONERO in data or (_BITCOIN[0] in data and _BITCOIN[1] in data):
        return replace(found, protocol="getblocktemplate")
    return None
