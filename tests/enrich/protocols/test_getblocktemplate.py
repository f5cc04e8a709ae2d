from __future__ import annotations

import http.client
import json

import pytest
from hypothesis import given

from sensor.enrich.protocols.getblocktemplate import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound


def post(path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: node.example:18081\r\nUser-Agent: XMRig/6.21.0\r\n"
        f"Authorization: Basic Z2VoZWlt\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def call(method: str, **more: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": "0", "method": method, **more}).encode()


MONERO = post("/json_rpc", call("getblocktemplate", params={"wallet_address": "4x", "reserve_size": 8}))
BITCOIN = post("/", call("getblocktemplate", params=[{"rules": ["segwit"]}]))
ANSWER = (
    b"HTTP/1.1 200 Ok\r\nServer: Epee-based\r\nContent-Length: 2000\r\n\r\n"
    b'{\n  "id": "0",\n  "jsonrpc": "2.0",\n  "result": {\n    "blocktemplate_blob": "1010b4'
)
SAMPLES = (MONERO, BITCOIN, ANSWER)


@pytest.mark.parametrize(
    "method",
    [
        "getblocktemplate",
        "get_block_template",
        "submitblock",
        "submit_block",
        "getwork",
        "eth_getWork",
        "eth_submitWork",
    ],
)
def test_methods(method: str) -> None:
    found = dissect(post("/json_rpc", call(method)), False)
    assert found is not None and found.certain
    assert (found.protocol, found.role, found.kind, found.method) == ("getblocktemplate", "client", "request", method)
    assert (found.server_name, found.path, found.software) == ("node.example", "/json_rpc", "XMRig/6.21.0")
    assert "Z2Vo" not in repr(found)


def test_empty_lines_before_hide_nothing() -> None:
    assert dissect(b"\r\n\n" + MONERO, False) == dissect(MONERO, False)


def test_an_answer() -> None:
    found = dissect(ANSWER, False)
    assert found is not None and (found.protocol, found.role) == ("getblocktemplate", "server")


@pytest.mark.parametrize(
    "body",
    [
        b'[{"method":"getinfo"},{"method":"submitblock","params":["00"]}]',
        b'{\n "params": [],\n "method": "getblocktemplate"\n}',
        rb'{"method":"\u0067etblocktemplate"}',
        b'{"method":"getblocktemplate","params":[{"cut":"he',
    ],
)
def test_bodies(body: bytes) -> None:
    found = dissect(post("/", body), False)
    assert found is not None and found.protocol == "getblocktemplate"


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    at_every_length(dissect, sample, False, "getblocktemplate")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"GET /getheight HTTP/1.1\r\nHost: node\r\n\r\n",
        b"GET /getinfo HTTP/1.1\r\nHost: node\r\n\r\n",
        post("/json_rpc", b""),
        post("/json_rpc", call("get_info")),
        post("/json_rpc", call("get_block", params={"method": "getblocktemplate"})),
        post("/", call("getblockcount")),
        post("/", call("eth_blockNumber")),
        post("/getblocktemplate", b"{}"),
        post("/", b"method=getblocktemplate"),
        call("getblocktemplate"),
        b'HTTP/1.1 200 OK\r\n\r\n<p>"blocktemplate_blob"',
        b'HTTP/1.1 200 OK\r\nX: "blocktemplate_blob"\r\n\r\n[]',
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


class Recorder:
    """In place of a socket: http.client sends headers and body apart, which would race on a real one."""

    def __init__(self) -> None:
        self.heard = b""

    def sendall(self, data: bytes) -> None:
        self.heard += data


def test_of_http_client() -> None:
    connection = http.client.HTTPConnection("node.example", 18081)
    connection.sock = recorder = Recorder()
    connection.request("POST", "/json_rpc", call("submitblock"), {"Content-Type": "application/json"})
    found = dissect(recorder.heard, False)
    assert found is not None and (found.protocol, found.method) == ("getblocktemplate", "submitblock")


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "getblocktemplate")
    sound(dissect(b"POST / HTTP/1.1\r\n\r\n" + data, False), "getblocktemplate")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "getblocktemplate")
