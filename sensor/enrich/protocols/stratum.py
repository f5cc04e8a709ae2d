"""Stratum V1 in its dialects: JSON by lines between a miner and its pool, both sides.

bitcoin: `mining.*` with lists. ethereum-stratum: the same, and says so (1.0.0 and 2.0.0). named-params:
`mining.*` with an object, as Pearl has it. alephium-stratum. eth-proxy: `eth_*`. monero: `login`, `job`,
`submit`, `keepalived`. Keys come in any order and escaped; half of the first object is often enough.
A password is never read.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sensor.enrich.protocols.jsonscan import Cut, objects, said
from sensor.enrich.protocols.result import Found

USER_MAX = 128
_WALLET_MIN = 90  # of Monero's addresses and those like them; no login of an application is as long
_WORK = 66  # "0x" and 32 bytes in hex
_STARTS = (b"{", b" ", b"\t", b"\r", b"\n", b"[")
_MINING: dict[str, tuple[str, str]] = {  # role and kind
    "mining.subscribe": ("client", "subscribe"),
    "mining.authorize": ("client", "login"),
    "mining.submit": ("client", "submit"),
    "mining.configure": ("client", "subscribe"),
    "mining.extranonce.subscribe": ("client", "subscribe"),
    "mining.suggest_difficulty": ("client", "subscribe"),
    "mining.suggest_target": ("client", "subscribe"),
    "mining.multi_version": ("client", "subscribe"),
    "mining.capabilities": ("client", "subscribe"),
    "mining.get_transactions": ("client", "subscribe"),
    "mining.hashrate": ("client", "keepalive"),
    "mining.hello": ("", "subscribe"),
    "mining.noop": ("client", "keepalive"),
    "mining.bye": ("", ""),
    "mining.notify": ("server", "notify"),
    "mining.set": ("server", "notify"),
    "mining.set_difficulty": ("server", "notify"),
    "mining.set_target": ("server", "notify"),
    "mining.set_extranonce": ("server", "notify"),
    "mining.set_version_mask": ("server", "notify"),
    "mining.set_cleanjobs": ("server", "notify"),
    "mining.ping": ("server", "keepalive"),
}
_ETH: dict[str, str] = {
    "eth_submitLogin": "login",
    "eth_getWork": "job",
    "eth_submitWork": "submit",
    "eth_submitHashrate": "keepalive",
}
_MONERO = {
    "login": "login",
    "submit": "submit",
    "job": "job",
    "getjob": "job",
    "getjobtemplate": "job",
    "keepalived": "keepalive",
}
_STRATA = (("EthereumStratum/", "ethereum-stratum"), ("AlephiumStratum/", "alephium-stratum"))
_USERS = ("wallet", "login", "user", "username", "address", "worker")


class _Dialect(Struct, frozen=True, gc=False):
    name: str
    version: str = ""


def dissect(data: bytes, udp: bool) -> Found | None:
    """Both over TCP and, as some miners offer it, in datagrams."""
    if not data.startswith(_STARTS) or b"{" not in data or not _hinted(data):
        return None
    found: Found | None = None
    for message in objects(data):
        more = _message(message)
        if more is None:
            continue
        found = more if found is None else _joined(found, more)
    return found


def _joined(found: Found, more: Found) -> Found:
    """The first message, or the first certain one, with what others say besides."""
    if more.role != found.role:
        return found
    if more.certain and not found.certain:
        found, more = more, found
    return replace(
        found,
        user=found.user or more.user,
        software=found.software or more.software,
        dialect=found.dialect or more.dialect,
        version=found.version or more.version,
    )


def _hinted(data: bytes) -> bool:
    """Most JSON is not for us; anything escaped may be."""
    return (
        b"mining" in data
        or b"eth_" in data
        or b"job" in data
        or b"login" in data
        or b'"0x' in data
        or b"keepalive" in data
        or b"Stratum/" in data
        or b"lainProof" in data
        or b"\\u" in data
        or b"pre_pow" in data
    )


def _message(message: dict[str, object]) -> Found | None:
    method = message.get("method")
    if not isinstance(method, str) or not method:
        return _reply(message.get("result"))
    params = message.get("params")
    if method.startswith("mining."):
        return _mining(method, params)
    if method.startswith("eth_"):
        return _eth_proxy(method, params, message)
    return _pearl(method, params) or _monero(method, params)


def _mining(method: str, params: object) -> Found | None:
    if type(method) is Cut:
        return Found("stratum", "", certain=any(known.startswith(method) for known in _MINING) and len(method) > 7)
    role, kind = _MINING.get(method, ("", ""))
    dialect = _dialect(params)
    user = software = ""
    if type(params) is list:
        first = said(params[0]) if params else ""
        if kind in ("login", "submit"):
            user = first[:USER_MAX]
        elif method in ("mining.subscribe", "mining.hello"):
            role, software = "client", first
    elif type(params) is dict:
        user = next((name for key in _USERS if (name := said(params.get(key), USER_MAX))), "")
        software = said(params.get("agent")) or said(params.get("user_agent"))
        if method == "mining.hello" and "proto" in params:  # EthereumStratum/2.0.0: the pool speaks first
            role = "server"
    return Found(
        "stratum",
        role,
        kind,
        dialect.version,
        software,
        method=said(method),
        dialect=dialect.name,
        user=user,
        certain=method in _MINING,
    )


def _dialect(params: object) -> _Dialect:
    values: list[object] = []
    if type(params) is list:
        values = params[:4]
    elif type(params) is dict:
        values = [params.get("proto")]
    for value in values:
        for start, name in _STRATA:
            if isinstance(value, str) and value.startswith(start):
                return _Dialect(name, said(value[len(start) :], 16) if type(value) is str else "")
    if type(params) is list:
        return _Dialect("bitcoin")
    if type(params) is not dict:
        return _Dialect("")
    # EthereumStratum/2.0.0 says where it connects to, for virtual hosts; and its `mining.set` sets epochs.
    later = ("host" in params and "port" in params) or "epoch" in params
    return _Dialect("ethereum-stratum", "2.0.0") if later else _Dialect("named-params")


def _eth_proxy(method: str, params: object, message: dict[str, object]) -> Found | None:
    """By lines: a node is asked the same over HTTP, which does not begin with a brace."""
    if type(method) is Cut:
        known = any(name.startswith(method) for name in _ETH) and len(method) > len("eth_")
        return Found("stratum", "client", dialect="eth-proxy", certain=False) if known else None
    kind = _ETH.get(method)
    if kind is None:
        return None
    first = said(params[0], USER_MAX) if type(params) is list and params else ""
    pushed = method == "eth_getWork" and first.startswith("0x")  # a pool that pushes work under this name
    user = (first or said(message.get("worker"), USER_MAX)) if kind == "login" else ""
    return Found("stratum", "server" if pushed else "client", kind, method=said(method), dialect="eth-proxy", user=user)


def _pearl(method: str, params: object) -> Found | None:
    """Pearl's gateway, a node for one's own miners."""
    if method == "submitPlainProof":
        return Found("stratum", "client", "submit", method=said(method), dialect="named-params")
    if method == "getMiningInfo" and type(params) is dict:
        return Found("stratum", "client", "job", method=said(method), dialect="named-params", certain=False)
    return None


def _monero(method: str, params: object) -> Found | None:
    named = params if type(params) is dict else {}
    kind = _MONERO.get(method, "")
    certain = _login(named) if kind == "login" else _certain(method, named)
    if certain is None or type(method) is Cut:
        return None
    return Found(
        "stratum",
        "server" if method == "job" else "client",
        kind,
        software=said(named.get("agent")),
        method=said(method),
        dialect="monero",
        user=said(named.get("login"), USER_MAX) if kind == "login" else "",
        certain=certain,
    )


def _login(params: dict[str, object]) -> bool | None:
    """An application's login has a login and a password too. It has no agent beside them, no list of
    algorithms, and no login as long as a wallet: with none of these it may be one, hence False.
    """
    if "login" not in params:
        return None
    login = said(params["login"], USER_MAX)
    wallet = len(login) >= _WALLET_MIN and login.isalnum()
    if wallet or "algo" in params or "rigid" in params or "agent" in params:
        return True
    return False if "pass" in params else None


def _certain(method: str, params: dict[str, object]) -> bool | None:
    """None if it is no miner's: other applications submit, and have jobs, as well."""
    if method == "submit" and "job_id" in params and "nonce" in params:
        return "result" in params or "pow" in params or "edge_bits" in params
    if method == "job" and ("blob" in params or "job_id" in params):
        return "blob" in params or "target" in params or "pre_pow" in params
    if method == "getjob" and "algo" in params:
        return False
    return True if method in ("keepalived", "getjobtemplate") else None


def _reply(result: object) -> Found | None:
    if type(result) is dict:
        job = result.get("job")
        work = job if type(job) is dict else result
        if "incomplete_header_bytes" in work:
            return Found("stratum", "server", "job", dialect="named-params")
        if "pre_pow" in work or ("blob" in work and ("job_id" in work or "target" in work)):
            return Found("stratum", "server", "job", dialect="monero")
        # The blob is long: the object may be cut before its other members.
        return Found("stratum", "server", "job", dialect="monero", certain=False) if _job(job) else None
    return _subscribed(result) if type(result) is list else None


def _job(job: object) -> bool:
    return type(job) is dict and ("blob" in job or "job_id" in job)


def _subscribed(result: list[object]) -> Found | None:
    """[[["mining.notify", id], …], extranonce, size], ["AlephiumStratum/1.0.0", …], or work by eth-proxy."""
    works = [part for part in result[:3] if isinstance(part, str) and len(part) == _WORK and part[:2] == "0x"]
    if len(works) == 3:
        return Found("stratum", "server", "job", dialect="eth-proxy", certain=False)
    texts = [text for text in _texts(result, 3) if text.startswith(("mining.", *(start for start, _ in _STRATA)))]
    if not texts:
        return None
    dialect = _dialect(texts)
    return Found("stratum", "server", "subscribe", dialect.version, dialect=dialect.name)


def _texts(values: list[object], depth: int) -> list[str]:
    found: list[str] = []
    for value in values[:4]:
        if isinstance(value, str):
            found.append(value)
        elif type(value) is list and depth > 1:
            found += _texts(value, depth - 1)
    return found
