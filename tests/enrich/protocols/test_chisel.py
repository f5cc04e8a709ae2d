from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from hypothesis import given

from sensor.enrich.protocols import http
from sensor.enrich.protocols.chisel import dissect, named
from tests.enrich.protocols.checks import ANY, at_every_length, first_bytes, mutated, sound


def upgrade(subprotocol: bytes) -> bytes:
    return (
        b"GET /x HTTP/1.1\r\nHost: relay.example:8080\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: 3Pb0v1oH3cqzLyMXgV6Flg==\r\nSec-WebSocket-Protocol: "
        + subprotocol
        + b"\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
    )


CHISEL = upgrade(b"chisel-v3")
WSTUNNEL = upgrade(b"v1, authorization.bearer.eyJhbGciOiJIUzI1NiJ9.geheim")
DEVTUNNEL = upgrade(b"tunnel-relay-host-v2-dev, tunnel-relay-host")
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chisel-v3\r\n\r\n"
)
ALL = ("chisel", "wstunnel", "devtunnels")


def test_chisel() -> None:
    found = dissect(CHISEL, False)
    assert found is not None
    assert (found.protocol, found.role, found.version, found.software) == ("chisel", "client", "3", "chisel-v3")
    assert (found.server_name, found.upgrade, found.certain) == ("relay.example", "websocket", True)


def test_chisel_as_the_server_confirms_it() -> None:
    found = dissect(ANSWER, False)
    assert found is not None and (found.protocol, found.role, found.kind) == ("chisel", "server", "response")


def test_others() -> None:
    wstunnel, devtunnel = dissect(WSTUNNEL, False), dissect(DEVTUNNEL, False)
    assert wstunnel is not None and wstunnel.protocol == "wstunnel" and "geheim" not in repr(wstunnel)
    assert devtunnel is not None
    assert (devtunnel.protocol, devtunnel.software) == ("devtunnels", "tunnel-relay-host-v2-dev")


def test_named_says_the_same_of_what_http_found() -> None:
    found = http.dissect(CHISEL, False)
    assert found is not None and named(found) == dissect(CHISEL, False)


@pytest.mark.parametrize("sample", [CHISEL, WSTUNNEL, DEVTUNNEL, ANSWER])
def test_cut_anywhere(sample: bytes) -> None:
    at_every_length(dissect, sample, False, *ALL)


@pytest.mark.parametrize(
    "other",
    [
        upgrade(b"graphql-ws"),
        upgrade(b"v4.channel.k8s.io"),
        upgrade(b"base64url.bearer.authorization.k8s.io.Z2VoZWlt"),
        upgrade(b"not-chisel-v3"),
        CHISEL.replace(b"Upgrade: websocket\r\n", b""),
        b"POST /x HTTP/1.1\r\nHost: a\r\n\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chisel-v3\r\n",
        b"Sec-WebSocket-Protocol: chisel-v3\r\n",
        b"",
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


def test_of_aiohttp() -> None:
    async def connect(port: int) -> None:
        async with aiohttp.ClientSession() as session:
            with contextlib.suppress(aiohttp.ClientError):
                await session.ws_connect(f"http://127.0.0.1:{port}/", protocols=("chisel-v3",))

    refused = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    found = dissect(first_bytes(lambda port: asyncio.run(connect(port)), [refused]), False)
    assert found is not None and found.protocol == "chisel"


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), *ALL)


@given(mutated((CHISEL, WSTUNNEL, DEVTUNNEL, ANSWER)))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), *ALL)
