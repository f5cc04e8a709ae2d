"""HTTP/1.x requests and responses (RFC 9112), and the preface of HTTP/2 (RFC 9113, 3.4).

Authorization, cookies and query strings are never looked at: first bytes hold credentials.
"""

from __future__ import annotations

import re

from sensor.enrich.protocols.memo import Memo
from sensor.enrich.protocols.printable import text
from sensor.enrich.protocols.result import TEXT_MAX, Found

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
# Most requests: method, path and minor version, with nothing to make printable. Possessive, hence linear.
_PLAIN = re.compile(
    rb"([A-Z-]{3,20}+) (/[!-\"$->@-~]*+)(?:[?#][!-~]*+)? HTTP/1\.([0-9])\r?"
    # Many go on with these two, which are the same each time.
    rb"(?=\n((?:[Hh]ost:[^\n]{0,160}+\n[Uu]ser-[Aa]gent:[^\n]{0,160}+\n)?))"
)
_VERSIONS = {b"%d" % minor: f"1.{minor}" for minor in range(10)}
# By what stands between a header's colon and the line's end.
_hosts: Memo[bytes, str] = Memo(1024, 1 << 17)
_agents: Memo[bytes, str] = Memo(1024, 1 << 18)
_firsts: Memo[bytes, tuple[str, str]] = Memo(1024, 1 << 18)  # by both headers
_statuses: Memo[bytes, str] = Memo(256, 1 << 12)  # "" is none
_targets: Memo[bytes, str] = Memo(1024, 1 << 17)  # of CONNECT
_answers: Memo[tuple[str, bytes], Found] = Memo(1024, 1 << 18)
_STATUS = 13  # "HTTP/1.1 200 "


Read = tuple[Found | None, int]  # and where the body starts, -1 if that is not there
_NONE: Read = (None, -1)


def dissect(data: bytes, udp: bool) -> Found | None:
    """`udp` makes no difference: SSDP is HTTP in datagrams."""
    return read(data)[0]


def read(data: bytes) -> Read:
    plain = _PLAIN.match(data)
    if plain is None:
        return _response(data) if data.startswith(b"HTTP/") else _any_request(data)
    method = _METHODS.get(plain[1])
    if method is None or method == "CONNECT":
        return _any_request(data)
    path, version, firsts = plain[2][:TEXT_MAX].decode(), _VERSIONS[plain[3]], plain[4]
    known = _firsts.get(firsts)
    if known is None:
        found, body = _with_headers(method, path, "", version, data, plain.end())
        if firsts and found is not None:
            _firsts.keep(firsts, (found.server_name, found.software), len(firsts))
        return found, body
    host, agent = known
    headers, lower, body = _headers(data, plain.end() + len(firsts))
    upgrade = subprotocol = ""
    if lower.find(b"\nupgrade:") >= 0:
        upgrade, subprotocol = _upgrade(headers, lower)
    said = ("http", "client", "request", version, agent, host, "", "", method, path, upgrade, subprotocol, "", "", "")
    return Found(*said), body


def _any_request(data: bytes) -> Read:
    before = len(data)
    data = data.lstrip(b"\r\n")  # servers pass over empty lines before a request (RFC 9112, 2.2)
    before -= len(data)
    space = data.find(b" ", 3, METHOD_MAX + 1)
    if before and data.startswith(b"HTTP/"):
        found, body = _response(data)
    elif space < 0:
        return _NONE
    elif (newline := data.find(b"\n")) < 0:
        method = _METHODS.get(data[:space], "")
        return (_cut_line(method, data[space + 1 :]) if method else None), -1
    else:
        found, body = _line(data, space, newline)
    return found, body + before if body >= 0 else -1


def _line(data: bytes, space: int, newline: int) -> Read:
    method = _METHODS.get(data[:space], "")
    line = data[space + 1 : newline].rstrip(b"\r")
    at = line.rfind(b" HTTP/")
    if at <= 0:
        return _simple(method, line), -1
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


def _request(method: str, asked: bytes, version: bytes, data: bytes, newline: int) -> Read:
    if method == "PRI" and version == b"2.0":
        return Found("http", "client", "request", "2", method="PRI"), -1
    if not method or len(version) != 3 or version[:2] != b"1." or not version[2:].isdigit():
        return _NONE
    if method == "CONNECT":
        if not _AUTHORITY.issuperset(asked):
            return _NONE
    elif asked[:1] not in (b"/", b"*") and b"://" not in asked:
        return _NONE
    path, target = _asked(method, asked, True)
    return _with_headers(method, path, target, text(version), data, newline)


def _with_headers(  # noqa: PLR0917 - all that the first line says
    method: str, path: str, target: str, version: str, data: bytes, newline: int
) -> Read:
    headers, lower, body = _headers(data, newline)
    host = agent = upgrade = subprotocol = ""
    at = lower.find(b"\nhost:")
    if at >= 0 and (end := lower.find(b"\n", at + 6)) >= 0:  # cut, it would be another name
        line = headers[at + 6 : end]
        known = _hosts.get(line)
        if known is None:
            known = _host(line.strip())
            _hosts.keep(line, known, len(line))
        host = known
    at = lower.find(b"\nuser-agent:")
    if at >= 0:
        end = lower.find(b"\n", at + 12)
        line = headers[at + 12 : end] if end >= 0 else headers[at + 12 :]
        known = _agents.get(line)
        if known is None:
            known = text(line.strip())
            _agents.keep(line, known, len(line))
        agent = known
    if lower.find(b"\nupgrade:") >= 0:
        upgrade, subprotocol = _upgrade(headers, lower)
    said = (
        "http",
        "client",
        "request",
        version,
        agent,
        host,
        "",
        "",
        method,
        path,
        upgrade,
        subprotocol,
        "",
        "",
        target,
    )
    return Found(*said), body


def _response(data: bytes) -> Read:
    start = data[:_STATUS]
    version = _statuses.get(start)
    if version is None:
        version = _status(start)
        _statuses.keep(start, version, _STATUS)
    if not version:
        return _NONE
    newline = data.find(b"\n")
    if newline < 0:
        return Found("http", "server", "response", version), -1
    headers, lower, body = _headers(data, newline)
    server = b""
    at = lower.find(b"\nserver:")
    if at >= 0:
        end = lower.find(b"\n", at + 8)
        server = headers[at + 8 : end] if end >= 0 else headers[at + 8 :]
    if lower.find(b"\nupgrade:") < 0:
        answer = _answers.get((version, server))
        if answer is None:
            answer = Found("http", "server", "response", version, text(server.strip()))
            _answers.keep((version, server), answer, len(server))
        return answer, body
    upgrade, subprotocol = _upgrade(headers, lower)
    software = text(server.strip())
    return Found("http", "server", "response", version, software, upgrade=upgrade, subprotocol=subprotocol), body


def _status(start: bytes) -> str:
    """The version, "" where this is no status line."""
    # "HTTP/1.1 2": with less it may yet be a text about HTTP.
    if len(start) < 10 or start[5:7] != b"1." or not start[7:8].isdigit() or start[8:9] != b" ":
        return ""
    if not start[9:12].isdigit() or start[12:13] not in (b" ", b"\r", b"\n", b""):
        return ""
    return text(start[5:8])


def _asked(method: str, asked: bytes, whole: bool) -> tuple[str, str]:
    """Path and target. `whole`: the end of `asked` is there."""
    if method == "CONNECT":
        if not whole:
            return "", ""
        target = _targets.get(asked)
        if target is None:
            target = _authority(asked, b"")
            _targets.keep(asked, target, len(asked))
        return "", target
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


def _headers(data: bytes, newline: int) -> tuple[bytes, bytes, int]:
    """The header lines with a newline before each, as they are and in lower case, and where the body starts."""
    end = data.find(b"\n\r\n", newline)
    bare = data.find(b"\n\n", newline, end if end >= 0 else len(data))
    body = end + 3
    if bare >= 0:
        end, body = bare, bare + 2
    elif end < 0:
        headers = data[newline:]
        return headers, headers.lower(), -1
    headers = data[newline : end + 1]
    return headers, headers.lower(), body


def _upgrade(headers: bytes, lower: bytes) -> tuple[str, str]:
    """To what, and the subprotocols; nothing while the line's end is not there."""
    start = lower.find(b"\nupgrade:") + 9
    end = lower.find(b"\n", start)
    upgrade = text(lower[start:end].strip()) if end >= 0 else ""
    return upgrade, _subprotocol(headers, lower) if upgrade else ""


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
