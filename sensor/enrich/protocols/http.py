"""HTTP/1.x requests and responses (RFC 9112), and the preface of HTTP/2 (RFC 9113, 3.4).

Authorization, cookies and query strings are never looked at: first bytes hold credentials.
"""

from __future__ import annotations

from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.result import Found

METHOD_MAX = 20
SUBPROTOCOL_LINES = 4
_NAMES = """GET POST HEAD PUT DELETE OPTIONS PATCH CONNECT TRACE PRI PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK
REPORT SEARCH M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR ACL LINK UNLINK REBIND BIND UNBIND QUERY"""
_METHODS = {name.encode(): name for name in _NAMES.split()}
_SCHEMES = {b"http": b":80", b"https": b":443", b"ws": b":80", b"wss": b":443"}
_AUTHORITY = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]%@")
_BEARER = b"bearer."
_TELLS_NEXT = (b"bearer", b"token", b"authorization", b"auth")  # subprotocol lists as "bearer, <token>"
_ITEM_MAX = 64  # no subprotocol is longer; tokens are
_CUT = "…"


def dissect(data: bytes, udp: bool) -> Found | None:
    """`udp` makes no difference: SSDP is HTTP in datagrams."""
    if data[:1] in (b"\r", b"\n"):  # servers pass over empty lines before a request (RFC 9112, 2.2)
        data = data.lstrip(b"\r\n")
    if data.startswith(b"HTTP/"):
        return _response(data)
    space = data.find(b" ", 3, METHOD_MAX + 1)
    if space < 0:
        return None
    newline = data.find(b"\n")
    method = _METHODS.get(data[:space], "")
    if newline < 0:
        return _cut_line(method, data[space + 1 :]) if method else None
    line = data[space + 1 : newline].rstrip(b"\r")
    at = line.rfind(b" HTTP/")
    if at <= 0:
        return _simple(method, line)
    return _request(method or _other_method(data[:space]), line[:at].strip(b" "), line[at + 6 :], data, newline)


def _other_method(name: bytes) -> str:
    return text(name) if name.isupper() and name.replace(b"-", b"").isalpha() else ""


def _cut_line(method: str, rest: bytes) -> Found | None:
    """A request line without its end: http as soon as a path, an authority or a scheme follows the method."""
    asked, space, _ = rest.partition(b" ")
    if not asked:
        return None
    if method == "CONNECT":
        if not _AUTHORITY.issuperset(asked):
            return None
    elif asked[0] not in b"/*" and not any(_begins(asked, scheme + b"://") for scheme in _SCHEMES):
        return None
    path, target = _asked(method, asked, bool(space))
    return Found("http", "client", "request", method=method, path=path, target=target)


def _begins(target: bytes, prefix: bytes) -> bool:
    return prefix.startswith(target[: len(prefix)].lower())


def _simple(method: str, line: bytes) -> Found | None:
    """HTTP/0.9, `GET /path` and no more. Gopher and inline Redis come close."""
    if method != "GET" or line[:1] != b"/" or b" " in line:
        return None
    return Found("http", "client", "request", "0.9", method="GET", path=_path(line), certain=False)


def _request(method: str, asked: bytes, version: bytes, data: bytes, newline: int) -> Found | None:
    if method == "PRI" and version == b"2.0":
        return Found("http", "client", "request", "2", method="PRI")
    if not method or len(version) != 3 or version[:2] != b"1." or not version[2:].isdigit():
        return None
    if method == "CONNECT":
        if not _AUTHORITY.issuperset(asked):
            return None
    elif asked[:1] not in (b"/", b"*") and b"://" not in asked:
        return None
    path, target = _asked(method, asked, True)
    headers, lower = _headers(data, newline)
    upgrade = _value(headers, lower, b"\nupgrade:", True)
    return Found(
        "http",
        "client",
        "request",
        text(version),
        text(_value(headers, lower, b"\nuser-agent:", False)),
        _host(_value(headers, lower, b"\nhost:", True)),
        method=method,
        path=path,
        upgrade=text(upgrade.lower()) if upgrade else "",
        subprotocol=_subprotocol(headers, lower) if upgrade else "",
        target=target,
    )


def _response(data: bytes) -> Found | None:
    # "HTTP/1.1 2": with less it may yet be a text about HTTP.
    if len(data) < 10 or data[5:7] != b"1." or not data[7:8].isdigit() or data[8:9] != b" ":
        return None
    if not data[9:12].isdigit() or data[12:13] not in (b" ", b"\r", b"\n", b""):
        return None
    version = text(data[5:8])
    newline = data.find(b"\n")
    if newline < 0:
        return Found("http", "server", "response", version)
    headers, lower = _headers(data, newline)
    upgrade = _value(headers, lower, b"\nupgrade:", True)
    return Found(
        "http",
        "server",
        "response",
        version,
        text(_value(headers, lower, b"\nserver:", False)),
        upgrade=text(upgrade.lower()) if upgrade else "",
        subprotocol=_subprotocol(headers, lower) if upgrade else "",
    )


def _asked(method: str, asked: bytes, whole: bool) -> tuple[str, str]:
    """Path and target. `whole`: the end of `asked` is there."""
    if method == "CONNECT":
        return "", _authority(asked, b"") if whole else ""
    scheme, mark, rest = asked.partition(b"://")
    if not mark or asked[:1] == b"/":
        return _path(asked), ""
    authority, slash, path = rest.partition(b"/")
    target = _authority(authority, _SCHEMES.get(scheme.lower(), b"")) if slash or whole else ""
    return _path(slash + path), target


def _authority(said: bytes, default: bytes) -> str:
    place = said.partition(b"?")[0].rpartition(b"@")[2].lower()  # before the "@" may be a password
    return text(place if place.rpartition(b":")[2].isdigit() else place + default)


def _path(asked: bytes) -> str:
    return text(asked.partition(b"?")[0].partition(b"#")[0])


def _headers(data: bytes, newline: int) -> tuple[bytes, bytes]:
    """The header lines with a newline before each, as they are and in lower case."""
    end = data.find(b"\n\r\n", newline)
    bare = data.find(b"\n\n", newline, end if end >= 0 else len(data))
    if bare >= 0:
        end = bare
    headers = data[newline : end + 1] if end >= 0 else data[newline:]
    return headers, headers.lower()


def _value(headers: bytes, lower: bytes, name: bytes, whole: bool) -> bytes:
    """The first header of that name. `whole`: not if its end is not there, which would be another name."""
    at = lower.find(name)
    if at < 0:
        return b""
    start = at + len(name)
    end = lower.find(b"\n", start)
    if end < 0:
        return b"" if whole else headers[start:].strip()
    return headers[start:end].strip()


def _host(value: bytes) -> str:
    """Without its port, as TLS and DNS say the same name."""
    name, colon, port = value.rpartition(b":")
    bare = name if colon and port.isdigit() and (b":" not in name or name[-1:] == b"]") else value
    return text(bare.lower())


def _subprotocol(headers: bytes, lower: bytes) -> str:
    """Sec-WebSocket-Protocol, of all its lines. Clients that cannot set Authorization carry a token in it."""
    name = b"\nsec-websocket-protocol:"
    items: list[str] = []
    start = lower.find(name)
    secret = False
    for _ in range(SUBPROTOCOL_LINES):
        if start < 0:
            break
        end = lower.find(b"\n", start + 1)
        line = headers[start + len(name) : end if end >= 0 else len(headers)]
        for raw in line.split(b",")[:16]:
            item = raw.strip()
            items.append(_CUT if secret else _without_token(item))
            secret = item.lower().endswith(_TELLS_NEXT)
        start = lower.find(name, end) if end >= 0 else -1
    return ", ".join(items)[:256]


def _without_token(item: bytes) -> str:
    at = item.lower().find(_BEARER)
    if at >= 0:
        return text(item[: at + len(_BEARER)]) + _CUT
    if len(item) > _ITEM_MAX or item.startswith(b"eyJ"):  # a JWT begins so
        return text(item[:3]) + _CUT
    return text(item)
