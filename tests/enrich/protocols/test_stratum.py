from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols.result import Found
from sensor.enrich.protocols.stratum import USER_MAX, dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound

XMR = "48edfHu7V9Z84YzzMa6fUueoELZ9ZRXq9VetWzYGzKt52XU5xvqgzYnDK9URnRoJMk1j8nLwEVsaSWJ4fhdUyZijBGUicoD"
ETH = "0x00d8c82Eb65124Ea3452CaC59B64aCC230AA3482"
WORK = [f"0x{byte * 32}" for byte in ("12", "ab", "00")]


def line(**members: object) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


SUBSCRIBE = line(id=1, method="mining.subscribe", params=["cgminer/4.10.0"])
AUTHORIZE = line(id=2, method="mining.authorize", params=["bc1qwallet.rig", "geheim"])
NICEHASH = line(id=1, method="mining.subscribe", params=["NiceHash/1.0.0", "EthereumStratum/1.0.0"])
HELLO = (
    b'{"jsonrpc":"2.0","method":"mining.hello","params":{"proto":"EthereumStratum/2.0.0","resume":true,'
    b'"timeout":180,"maxerrors":5,"node":"Geth/v1.8.18"}}\n'
)
SECOND = line(
    id=1,
    jsonrpc="2.0",
    method="mining.subscribe",
    params={"agent": "ethminer-0.17", "host": "pool.example", "port": 1234, "session": None},
)
ALEPHIUM = line(id=0, method="mining.hello", params=["alph-miner/0.1", "AlephiumStratum/1.0.0"])
PROXY = line(worker="eth1.0", jsonrpc="2.0", params=[ETH + ".rig", "geheim"], id=2, method="eth_submitLogin")
LOGIN = line(
    id=1,
    jsonrpc="2.0",
    method="login",
    params={
        "login": XMR,
        "pass": "geheim",
        "agent": "XMRig/6.21.0 (Linux x86_64)",
        "rigid": "r",
        "algo": ["rx/0", "cn/r"],
    },
)
JOB = {"blob": "1010" + "ab" * 72, "job_id": "q7PLUPL", "target": "b88d0600", "height": 3045000}
JOBBED = line(jsonrpc="2.0", method="job", params=JOB)
WELCOME = line(id=1, jsonrpc="2.0", error=None, result={"id": "6afe", "job": JOB, "status": "OK"})
SHARE = line(
    id=3, jsonrpc="2.0", method="submit", params={"id": "6", "job_id": "q", "nonce": "d0030040", "result": "ab"}
)
PEARL = line(
    id=1,
    method="mining.authorize",
    params={"wallet": "prl1qwallet", "worker": "rig", "pass": "geheim", "agent": "pearl-miner/1.0"},
)
PEARL_NOTIFY = line(id=None, method="mining.notify", params={"job_id": "0_2097152", "header": "00" * 76, "target": "f"})
PEARL_SHARE = line(id=4, method="mining.submit", params={"job_id": "0_1", "plain_proof": "cHJvb2Y=" * 10000})
NOTIFY = line(
    id=None, method="mining.notify", params=["bf", "4d16b6f85af6e219", "01", "02", [], "2", "1c2ac4af", "5", True]
)
SUBSCRIBED = line(
    id=1,
    result=[[["mining.set_difficulty", "b4b6693b72a50c7116db18d6497cac52"], ["mining.notify", "ae68"]], "08000002", 4],
    error=None,
)
SAMPLES = (
    *(SUBSCRIBE, AUTHORIZE, SUBSCRIBE + AUTHORIZE, NICEHASH, HELLO, SECOND, ALEPHIUM, PROXY, LOGIN, JOBBED, WELCOME),
    *(SHARE, PEARL, PEARL_NOTIFY, PEARL_SHARE[:1024], NOTIFY, SUBSCRIBED),
)


def found(data: bytes) -> Found:
    result = dissect(data, False)
    assert result is not None and result.protocol == "stratum"
    return result


@pytest.mark.parametrize(
    ("data", "role", "kind", "dialect"),
    [
        (SUBSCRIBE, "client", "subscribe", "bitcoin"),
        (AUTHORIZE, "client", "login", "bitcoin"),
        (line(id=1, method="mining.configure", params=[["version-rolling"], {}]), "client", "subscribe", "bitcoin"),
        (line(id=3, method="mining.extranonce.subscribe", params=[]), "client", "subscribe", "bitcoin"),
        (line(id=3, method="mining.suggest_difficulty", params=[8]), "client", "subscribe", "bitcoin"),
        (line(id=4, method="mining.submit", params=["w", "bf", "01", "50", "b2"]), "client", "submit", "bitcoin"),
        (NOTIFY, "server", "notify", "bitcoin"),
        (line(id=None, method="mining.set_difficulty", params=[8]), "server", "notify", "bitcoin"),
        (line(id=None, method="mining.set_target", params=["00ff"]), "server", "notify", "bitcoin"),
        (SUBSCRIBED, "server", "subscribe", "bitcoin"),
        (
            line(id=1, result=[["mining.notify", "ae", "EthereumStratum/1.0.0"], "08"]),
            "server",
            "subscribe",
            "ethereum-stratum",
        ),
        (NICEHASH, "client", "subscribe", "ethereum-stratum"),
        (HELLO, "server", "subscribe", "ethereum-stratum"),
        (SECOND, "client", "subscribe", "ethereum-stratum"),
        (line(jsonrpc="2.0", method="mining.set", params={"epoch": "dc"}), "server", "notify", "ethereum-stratum"),
        (ALEPHIUM, "client", "subscribe", "alephium-stratum"),
        (line(id=0, result=["AlephiumStratum/1.0.0", False, "1e", "5"]), "server", "subscribe", "alephium-stratum"),
        (PROXY, "client", "login", "eth-proxy"),
        (line(id=2, method="eth_getWork", params=[]), "client", "job", "eth-proxy"),
        (line(id=3, method="eth_submitWork", params=WORK), "client", "submit", "eth-proxy"),
        (line(id=6, method="eth_submitHashrate", params=["0x500000", "0x59"]), "client", "keepalive", "eth-proxy"),
        (line(id=0, method="eth_getWork", params=WORK), "server", "job", "eth-proxy"),
        (LOGIN, "client", "login", "monero"),
        (JOBBED, "server", "job", "monero"),
        (WELCOME, "server", "job", "monero"),
        (SHARE, "client", "submit", "monero"),
        (line(id=2, jsonrpc="2.0", method="keepalived", params={"id": "6afe"}), "client", "keepalive", "monero"),
        (PEARL, "client", "login", "named-params"),
        (PEARL_NOTIFY, "server", "notify", "named-params"),
        (PEARL_SHARE[:1024], "client", "submit", "named-params"),
        (line(id=1, method="submitPlainProof", params={"plain_proof": "cHJv"}), "client", "submit", "named-params"),
    ],
)
def test_dialects(data: bytes, role: str, kind: str, dialect: str) -> None:
    result = found(data)
    assert (result.role, result.kind, result.dialect, result.certain) == (role, kind, dialect, True)
    assert dissect(data.rstrip(b"\n"), False) == result


@pytest.mark.parametrize(
    ("data", "method", "user", "software"),
    [
        (SUBSCRIBE, "mining.subscribe", "", "cgminer/4.10.0"),
        (AUTHORIZE, "mining.authorize", "bc1qwallet.rig", ""),
        (SUBSCRIBE + AUTHORIZE, "mining.subscribe", "bc1qwallet.rig", "cgminer/4.10.0"),
        (SECOND, "mining.subscribe", "", "ethminer-0.17"),
        (ALEPHIUM, "mining.hello", "", "alph-miner/0.1"),
        (PROXY, "eth_submitLogin", ETH + ".rig", ""),
        (LOGIN, "login", XMR, "XMRig/6.21.0 (Linux x86_64)"),
        (PEARL, "mining.authorize", "prl1qwallet", "pearl-miner/1.0"),
    ],
)
def test_who_and_with_what(data: bytes, method: str, user: str, software: str) -> None:
    result = found(data)
    assert (result.method, result.user, result.software) == (method, user, software)


def test_versions() -> None:
    assert [found(data).version for data in (NICEHASH, HELLO, SECOND, ALEPHIUM, SUBSCRIBE)] == [
        "1.0.0",
        "2.0.0",
        "2.0.0",
        "1.0.0",
        "",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b'{"params":["cgminer/4.10.0"],"id":1,"method":"mining.subscribe"}\n',
        b' \t{ "params" : [ "cgminer/4.10.0" ] ,\t"method" : "mining.subscribe" }\r\n',
        b'{\n  "method":\n "mining.subscribe",\n "params": ["cgminer/4.10.0"]\n}\n',
        rb'{"\u006dethod":"\u006d\u0069ning.subscribe","params":["cgminer\/4.10.0"]}',
        b'{"x":{"y":[{"method":"login"}]},"method":"mining.subscribe","params":["cgminer/4.10.0"]}',
        b'{"id":1,"result":true}\n{"method":"mining.subscribe","params":["cgminer/4.10.0"]}',
        b'{"method":"mining.subscribe","params":["cgminer/4.10.0"],"more":"' + b"x" * 5000,
        b'{"method":"mining.subscribe","params":["cgminer/4.10.0"],"bad":"\xff\xfe"}\n',
    ],
)
def test_order_space_and_escapes_do_not_matter(data: bytes) -> None:
    result = found(data)
    assert (result.method, result.software) == ("mining.subscribe", "cgminer/4.10.0")


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    whole = dissect(sample, False)
    assert whole is not None
    for result in at_every_length(dissect, sample, False, "stratum"):
        if result is not None:
            assert "geheim" not in repr(result)
            assert result.user in ("", whole.user) and result.software in ("", whole.software)
            assert result.role in ("", whole.role)


def test_half_a_method_suffices() -> None:
    assert found(b'{"id":1,"method":"mining.sub').certain
    assert not found(b'{"id":1,"method":"mining.').certain
    assert not found(b'{"id":1,"method":"eth_submitL').certain
    assert dissect(b'{"id":1,"method":"min', False) is None
    assert dissect(b'{"id":1,"method":"eth_', False) is None


def test_a_login_that_any_application_may_have_is_not_certain() -> None:
    """A login and a password, without agent, algorithms or a wallet: kept, since pools take it, and marked."""
    result = found(line(id=1, method="login", params={"login": "alice", "pass": "geheim"}))
    assert not result.certain and "geheim" not in repr(result)
    assert found(line(id=1, method="login", params={"login": XMR, "pass": ""})).certain


def test_work_alone_is_not_certain() -> None:
    result = found(line(id=0, jsonrpc="2.0", result=WORK))
    assert (result.role, result.dialect, result.certain) == ("server", "eth-proxy", False)


def test_a_method_that_no_pool_has_is_not_certain() -> None:
    assert not found(line(id=1, method="mining.gold", params=[])).certain


def test_long_users_are_cut() -> None:
    assert len(found(line(id=1, method="mining.authorize", params=["w" * 500, "x"])).user) == USER_MAX


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"{}",
        b"{",
        b'{"id":1}',
        b'Content-Length: 80\r\n\r\n{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"processId":1}}',
        line(jsonrpc="2.0", id=0, method="initialize", params={"capabilities": {}, "clientInfo": {"name": "mcp"}}),
        line(jsonrpc="2.0", id=1, method="tools/call", params={"name": "submit_job", "arguments": {"job_id": "1"}}),
        line(jsonrpc="2.0", method="textDocument/didOpen", params={"text": "mining.subscribe"}),
        line(header={"msg_type": "execute_request"}, content={"code": "login()"}),  # Jupyter
        line(stream="login", status="Pulling from library/job"),  # Docker
        line(id=1, method="blockchain.scripthash.subscribe", params=["ab" * 32]),  # Electrum
        line(id=1, result=["ab" * 32, "cd" * 32, "ef" * 32]),
        line(id=1, jsonrpc="2.0", method="eth_blockNumber", params=[]),
        line(id=1, jsonrpc="2.0", method="eth_getBalance", params=[ETH, "latest"]),
        line(id=1, jsonrpc="2.0", result="0x" + "12" * 32),
        b'POST / HTTP/1.1\r\nHost: node\r\n\r\n{"method":"eth_getWork"}',
        line(method="login", params={"user": "alice", "password": "geheim"}),
        line(method="login", params={"login": "alice"}),
        line(method="login", params=["alice", "geheim"]),
        line(method="login", login="alice"),
        line(method="submit", params={"form": "x"}),
        line(method="submit", params={"job_id": "7"}),
        line(method="job", params={"name": "build"}),
        line(id=1, result={"job": {"name": "build"}}),
        line(id=1, result={"job": "blob"}),
        line(text="mining.subscribe and eth_submitLogin"),
        line(params={"method": "mining.subscribe"}),
        line(method=["mining.subscribe"]),
        line(id=1, result=True, error=None),
        b'"mining.subscribe"',
        b"mining.subscribe\n",
        b'[["mining.notify"]]',
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"mining":' + b"[" * 4000,
        b'{"mining' + b"\\" * 4000,
        b'{"mining":' + b'"\\' * 2000,
        b'{"mining":' + b'{"a":' * 800,
        b"{" * 4000,
        b'{"job"}' * 500,
        b'{"job":1' + b"0" * 4000 + b"}",
        b'{"mining":"' + b"\\u00" * 900 + b'"}',
        b" " * 4000 + b'{"job":1}',
    ],
)
def test_hostile_json_ends(data: bytes) -> None:
    assert dissect(data, False) is None


def test_in_datagrams_too() -> None:
    assert dissect(SUBSCRIBE, True) == dissect(SUBSCRIBE, False)


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "stratum")
    sound(dissect(b'{"method":"mining.' + data, False), "stratum")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "stratum")


TEXT = st.text(max_size=300)
PARAMS = st.lists(TEXT | st.none() | st.lists(TEXT, max_size=2), max_size=4) | st.dictionaries(
    st.sampled_from(["login", "pass", "agent", "wallet", "job_id", "nonce", "blob", "proto"]), TEXT | st.none()
)


@given(st.sampled_from(["mining.subscribe", "mining.authorize", "login", "submit", "job", "eth_submitLogin"]), PARAMS)
def test_any_text(method: str, params: object) -> None:
    data = json.dumps({"method": method, "params": params}).encode("utf-8", "surrogatepass")
    sound(dissect(data, False), "stratum")
    sound(dissect(data[: len(data) // 2], False), "stratum")
